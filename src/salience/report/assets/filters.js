// Which images are shown, in what order; and the address that says so.

/** @param {Entry} entry @returns {"right" | "wrong" | "unlabelled" | "pending" | "failed"} */
function verdict(entry) {
  if (entry.predicted === undefined) return entry.failures ? "failed" : "pending";
  if (entry.label === undefined) return "unlabelled";
  return entry.predicted === entry.label ? "right" : "wrong";
}

/** @param {Entry} entry @param {string} outcome */
const hasOutcome = (entry, outcome) =>
  outcome === "all" || (outcome === "failed" ? Boolean(entry.failures) : verdict(entry) === outcome);

/** @param {number} image */
function words(image) {
  const entry = model().entries[image];
  const names = [data.images[image].id, data.images[image].said];
  for (const index of [entry.predicted, entry.label]) if (index !== undefined) names.push(className(index));
  return names.join(" ").toLowerCase();
}

/** @param {number} image @param {boolean} [anyOutcome] */
function fits(image, anyOutcome = false) {
  const entry = model().entries[image];
  if (!anyOutcome && !hasOutcome(entry, state.outcome)) return false;
  if (state.cls && String(entry.predicted) !== state.cls && String(entry.label) !== state.cls) return false;
  if (!state.q) return true;
  const text = words(image);
  return state.q.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

/** @param {number} image @param {string} method */
function gap(image, method) {
  const column = model().columns.findIndex((c) => c.method === method);
  const found = column < 0 ? null : chosen(image, column);
  return found && found.gap !== undefined ? found.gap : -1;
}

/** The images that fit, in order. @returns {number[]} */
function selection() {
  const entries = model().entries;
  const images = data.images.map((_, i) => i).filter((i) => fits(i));
  const sure = (/** @type {number} */ i, /** @type {number} */ none) => entries[i].chance ?? none;
  if (state.sort === "sure") images.sort((a, b) => sure(b, -1) - sure(a, -1) || a - b);
  else if (state.sort === "unsure") images.sort((a, b) => sure(a, 2) - sure(b, 2) || a - b);
  else if (state.sort.startsWith("gap:")) {
    const method = state.sort.slice(4);
    images.sort((a, b) => gap(b, method) - gap(a, method) || a - b);
  }
  return images;
}

/**
 * The map of a column that is shown: the only one, or that of the class that is asked for.
 * @param {number} image @param {number} column @returns {MapInfo | null}
 */
function chosen(image, column) {
  const entry = model().entries[image];
  const maps = entry.maps[column] || [];
  if (maps.length < 2) return maps[0] || null;
  const wanted = state.target === "predicted" ? entry.predicted : state.target === "label" ? entry.label : Number(state.target);
  return maps.find((m) => m.target === wanted) || null;
}

/** Short names in the address; what is as at first is left out. @type {[keyof State, string][]} */
const NAMES = [["model", "model"], ["outcome", "show"], ["cls", "class"], ["q", "q"], ["sort", "sort"], ["target", "for"], ["view", "view"], ["image", "image"], ["method", "method"]];

function writeAddress() {
  const parts = new URLSearchParams();
  for (const [key, name] of NAMES) {
    const value = key === "model" && state.model ? model().name : state[key];
    if (state[key] !== DEFAULTS[key]) parts.set(name, String(value));
  }
  setAddress(parts);
}

/** @returns {boolean} whether the address says anything */
function readAddress() {
  if (location.hash.length > 1 && !location.hash.includes("=")) return false;
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const [key, name] of NAMES) {
    const value = parts.get(name);
    if (key === "model") state.model = Math.max(0, data.models.findIndex((m) => m.name === value));
    else /** @type {any} */ (state)[key] = value ?? DEFAULTS[key];
  }
  return true;
}
