// @ts-check
// The page of scores: one state for all choices, and the figures that follow it.

/**
 * @typedef {{image: number, id: string, said: string, truth: string, thumb?: string, missing?: string, place: number,
 *   weak: (number | null)[][]}} ImageEntry
 * @typedef {{name: string, tiny: boolean, shown: [number, number], counts: number[], of: number, smooth: number,
 *   curves: {curve: string, output: string, shares: number[]}[],
 *   lanes: {name: string, baseline: boolean, scale: string, why: string}[],
 *   entries: ImageEntry[], colours: Object<string, [number, number, number]>, drawn: string[]}} DrillModel
 * @typedef {{models: DrillModel[], choices: {metrics: string[], backgrounds: string[], smooths: number[]},
 *   directions: Object<string, string>, means: Object<string, Object<string, string>>[], files: string[]}} TrustPayload
 */

/** @type {TrustPayload} */
const data = JSON.parse(byId("payload").textContent);

/** What is chosen, by the name of its controls; places in the lists of the payload. @type {Choices} */
const START = { model: "0", metric: "0", background: "0", smooth: "0", of: "worst", over: "b", curve: "0", image: "", lane: "0", sort: "" };

/** @type {Choices} */
const state = { ...START };

/** Which variant of a figure the state names; the first that exists is shown. @type {Object<string, () => string[]>} */
const KEYS = {
  board: () => [`${state.metric}.${state.background}.${state.smooth}`, `${state.metric}.-.${state.smooth}`],
  plane: () => [`${state.of}.${state.background}.${state.smooth}`, `worst.${state.background}.${state.smooth}`],
  ranks: () => [state.over === "b" ? `b.${state.metric}.${state.smooth}` : `s.${state.metric}.${state.background}`],
  curves: () => [`${state.curve}.${state.background}.${state.smooth}`],
};

/** @param {Element} slot */
function showSlot(slot) {
  const found = variants.get(slot);
  if (!found?.size) return;
  const key = KEYS[/** @type {HTMLElement} */ (slot).dataset.slot || ""]().find((k) => found.has(k));
  if (key === undefined) slot.replaceChildren(h("p", { class: "empty" }, "Nothing was measured for this choice."));
  else showVariant(slot, key);
}

/** Bring everything to the state. */
function update() {
  for (const select of document.querySelectorAll("select[data-choice]")) {
    const one = /** @type {HTMLSelectElement} */ (select);
    one.value = state[one.dataset.choice || ""];
  }
  for (const input of document.querySelectorAll('input[name="model"]')) {
    const radio = /** @type {HTMLInputElement} */ (input);
    radio.checked = radio.value === state.model;
  }
  for (const part of document.querySelectorAll("[data-part]")) {
    const one = /** @type {HTMLElement} */ (part);
    one.hidden = one.dataset.part !== state.model;
    if (one.dataset.slot && !one.hidden) showSlot(one);
  }
  writeAddress();
}

const writeAddress = () => writeChoices(state, START);

/** @returns {boolean} whether the address says anything */
function readAddress() {
  const said = readChoices(state, START);
  if (!data.models[Number(state.model)]) state.model = START.model;
  return said;
}

// ------------------------------------------------------------------ sorting

/** @param {HTMLElement} button */
function sortBoard(button) {
  const head = /** @type {HTMLElement} */ (button.closest("th"));
  const table = /** @type {HTMLTableElement} */ (button.closest("table"));
  const key = button.dataset.sort || "rank";
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [a.dataset[key] || "", b.dataset[key] || ""];
    return (key === "name" ? x.localeCompare(y) : Number(x) - Number(y)) * (down ? -1 : 1);
  });
  body.append(...rows);
}

// ------------------------------------------------------------------ listening

document.addEventListener("change", (event) => {
  const input = /** @type {HTMLInputElement} */ (event.target);
  const choice = input.name === "model" ? "model" : input.dataset.choice;
  if (!choice) return;
  state[choice] = input.value;
  if (choice === "model") Object.assign(state, { image: "", lane: "0" });
  update();
  updateImages();
});

document.addEventListener("click", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  const sorter = /** @type {HTMLElement | null} */ (target.closest("button[data-sort]"));
  if (sorter) sortBoard(sorter);
  const link = /** @type {HTMLAnchorElement | null} */ (target.closest('a[href^="#"]'));
  const place = link && byId(link.hash.slice(1));
  if (place) {
    event.preventDefault();
    goTo(place);
  }
});

window.addEventListener("hashchange", () => {
  if (readAddress()) {
    update();
    updateImages();
  }
});
