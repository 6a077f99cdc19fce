// @ts-check
// One state for all choices of a page, by the names of their controls: in its address, and in the figures that follow it.

/** @typedef {Object<string, string>} Choices */

/** @param {Choices} state @param {Choices} start what is chosen at first, and left out */
function writeChoices(state, start) {
  setAddress(new URLSearchParams(Object.entries(state).filter(([key, value]) => value !== start[key])));
}

/** @param {Choices} state @param {Choices} start @returns {boolean} whether the address says anything */
function readChoices(state, start) {
  if (!location.hash.includes("=")) return false;
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(start)) state[key] = parts.get(key) ?? start[key];
  return true;
}

/** The variants of each slot, made when they are first shown. @type {Map<Element, Map<string, HTMLElement | HTMLTemplateElement>>} */
const variants = new Map();

for (const slot of document.querySelectorAll("[data-slot]")) {
  const found = new Map();
  for (const one of slot.querySelectorAll(":scope > [data-key]")) found.set(/** @type {HTMLElement} */ (one).dataset.key, one);
  variants.set(slot, found);
}

/**
 * Show one variant of a slot.
 * @param {Element} slot
 * @param {string} key
 * @param {(made: HTMLElement) => void} [whenMade] what is done with one that is made now
 */
function showVariant(slot, key, whenMade) {
  const found = variants.get(slot);
  let shown = found?.get(key);
  if (!found || !shown) return;
  if (shown instanceof HTMLTemplateElement) {
    const made = h("div", { class: "variant", "data-key": key });
    made.append(shown.content.cloneNode(true));
    found.set(key, made);
    shown = made;
    whenMade?.(made);
  }
  if (slot.firstElementChild !== shown || slot.childElementCount !== 1) slot.replaceChildren(shown);
}
