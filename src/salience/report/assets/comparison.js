// @ts-check
// The page of a comparison: one state for all choices, the figures that follow it, and patches as they come into view.

/**
 * @typedef {{image: number, ratio: number, thumb?: string, missing?: string, place: number}} Entry
 * @typedef {{models: string[], others: string[], alone: boolean, ledger: boolean, scalar: string, scale: string,
 *   classes: Object<string, [string, string]>, concepts: {title: string, where: string, place: number | null}[],
 *   quadrants: string[], images: {ids: string[], labels: number[], targets: number[], predicted: number[][],
 *   quadrants: number[][]}, entries: Entry[], files: string[]}} ComparisonPayload
 */

/** @type {ComparisonPayload} */
const data = JSON.parse(byId("payload").textContent);

/** What is chosen, by the name of its controls; an empty text is the first, or all. @type {Choices} */
const START = { part: "0", family: "", card: "", slice: "", concept: "", where: "", quadrant: "", order: "", image: "" };

/** @type {Choices} */
const state = { ...START };

/** What chooses the variant of a figure. @type {Object<string, string>} */
const CHOOSERS = { forest: "family", card: "card", ledger: "slice" };

const partSlot = (/** @type {string} */ name) => document.querySelector(`[data-slot="${name}"][data-part="${state.part}"]`);
const keysOf = (/** @type {string} */ name) => [...(variants.get(/** @type {Element} */ (partSlot(name))) || new Map()).keys()];

/** @param {HTMLElement} slot */
function showSlot(slot) {
  const found = variants.get(slot);
  if (!found?.size) return;
  const wanted = state[CHOOSERS[slot.dataset.slot || ""]];
  showVariant(slot, found.has(wanted) ? wanted : [...found.keys()][0], watchPatches);
}

/** Bring everything to the state. */
function update() {
  for (const part of document.querySelectorAll("[data-part]")) {
    const one = /** @type {HTMLElement} */ (part);
    one.hidden = one.dataset.part !== state.part;
    if (one.dataset.slot && !one.hidden) showSlot(one);
  }
  for (const select of document.querySelectorAll("select[data-choice]")) {
    const one = /** @type {HTMLSelectElement} */ (select);
    const wanted = state[one.dataset.choice || ""];
    one.value = wanted;
    if (one.selectedIndex < 0) one.selectedIndex = 0;
  }
  for (const input of document.querySelectorAll('input[name="part"]')) {
    const radio = /** @type {HTMLInputElement} */ (input);
    radio.checked = radio.value === state.part;
  }
  updateCardPick();
  writeAddress();
}

// ------------------------------------------------------------------ the card's own controls

/** The concept whose card is shown. */
const currentCard = () => {
  const keys = keysOf("card");
  return keys.includes(state.card) ? state.card : keys[0];
};

function updateCardPick() {
  const pick = byId("card-pick");
  const keys = keysOf("card");
  if (pick.dataset.part !== state.part) {
    pick.replaceChildren(...keys.map((key) => h("option", { value: key }, `${data.concepts[Number(key)].title}: ${data.concepts[Number(key)].where}`)));
    pick.dataset.part = state.part;
  }
  const at = keys.indexOf(currentCard());
  pick.value = currentCard();
  pick.disabled = !keys.length;
  byId("card-before").disabled = at <= 0;
  byId("card-next").disabled = at < 0 || at >= keys.length - 1;
}

/** @param {string} key @param {boolean} go whether to move there */
function showCard(key, go) {
  state.card = key;
  update();
  if (go) goTo(byId("concept"));
}

/** @param {number} step */
function turnCard(step) {
  const keys = keysOf("card");
  const next = keys[keys.indexOf(currentCard()) + step];
  if (next !== undefined) showCard(next, false);
}

byId("card-before").addEventListener("click", () => turnCard(-1));
byId("card-next").addEventListener("click", () => turnCard(1));
byId("card-pick").addEventListener("change", () => showCard(byId("card-pick").value, false));

// ------------------------------------------------------------------ patches

/** @param {Element} group */
function fillPatches(group) {
  for (const patch of group.querySelectorAll("[data-patch]")) {
    const one = /** @type {HTMLElement} */ (patch);
    const picture = source(one.dataset.patch || "");
    if (picture && !one.querySelector("img")) one.append(h("img", { src: picture, alt: "", width: 112, height: 112 }));
  }
}

const near = new IntersectionObserver(
  (seen) => {
    for (const one of seen) {
      if (!one.isIntersecting) continue;
      near.unobserve(one.target);
      const group = /** @type {HTMLElement} */ (one.target);
      load(Number(group.dataset.place)).then(() => fillPatches(group));
    }
  },
  { rootMargin: "400px" },
);

/** Fill the groups of patches within an element: those of the page itself at once, others as they come near. @param {ParentNode} within */
function watchPatches(within) {
  for (const group of within.querySelectorAll(".patches")) {
    if (/** @type {HTMLElement} */ (group).dataset.place === "0") fillPatches(group);
    else near.observe(group);
  }
}

// ------------------------------------------------------------------ the address

const writeAddress = () => writeChoices(state, START);

/** @returns {boolean} whether the address says anything */
function readAddress() {
  const said = readChoices(state, START);
  if (!data.others[Number(state.part)]) state.part = START.part;
  return said;
}

// ------------------------------------------------------------------ listening

document.addEventListener("change", (event) => {
  const input = /** @type {HTMLInputElement} */ (event.target);
  const choice = input.name === "part" ? "part" : input.dataset.choice;
  if (!choice) return;
  state[choice] = input.value;
  if (choice === "part") Object.assign(state, { quadrant: "", slice: "", card: "" });
  update();
  updateImages();
});

document.addEventListener("click", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  const card = /** @type {HTMLElement | null} */ (target.closest("[data-card]"));
  if (card) return showCard(card.dataset.card || "", true);
  const list = /** @type {HTMLElement | null} */ (target.closest("[data-list]"));
  if (list) return showList(list.dataset);
  const open = /** @type {HTMLElement | null} */ (target.closest("[data-open]"));
  if (open) return openImage(Number(open.dataset.open), Number(open.dataset.segment));
  const link = /** @type {HTMLAnchorElement | null} */ (target.closest('a[href^="#"]'));
  if (link && byId(link.hash.slice(1))) {
    event.preventDefault();
    goTo(byId(link.hash.slice(1)));
  }
});

document.addEventListener("keydown", (event) => {
  const chip = /** @type {HTMLElement} */ (event.target).closest(".chip");
  if (event.key === "Escape" && chip) chip.classList.add("chip-closed");
});
document.addEventListener("focusout", (event) => /** @type {HTMLElement} */ (event.target).classList.remove("chip-closed"));

window.addEventListener("hashchange", () => {
  if (readAddress()) {
    update();
    updateImages();
  }
});
