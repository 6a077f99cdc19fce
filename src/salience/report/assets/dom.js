// @ts-check
// What every page's script begins with: finding and making elements.

/** @type {(id: string) => any} */
const byId = (id) => document.getElementById(id);

/**
 * Make an element. Text is always set as text, so that names can hold anything.
 * @param {string} name
 * @param {Object<string, any>} [attributes]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || (value === false && !key.startsWith("aria-"))) continue;
    if (key === "class") element.className = value;
    else if (key === "style") element.style.cssText = value;
    else if (key === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else element.setAttribute(key, value === true && !key.startsWith("aria-") ? "" : String(value));
  }
  element.append(.../** @type {(Node | string)[]} */ (children.filter((c) => c !== null && c !== undefined && c !== false)));
  return element;
}

/** @param {string} name */
const icon = (name) => byId(`icon-${name}`).content.firstElementChild.cloneNode(true);
