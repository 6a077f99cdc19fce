// The images behind the claims: lists of any concept and slice, and one image with both maps and its own ledger.

/** @type {Map<number, Entry>} */
const entryOf = new Map(data.entries.map((entry) => [entry.image, entry]));

/** The concept whose segments are marked in the image; null marks none. @type {number | null} */
let marked = null;

/** Lines and veil over a photo, and over a map whose zero is white: red, green, blue, alpha. */
const OVER_PHOTO = { line: [255, 255, 255, 110], faint: [255, 255, 255, 45], edge: [255, 255, 255, 255], veil: [12, 10, 18, 135] };
const OVER_MAP = { line: [28, 25, 38, 70], faint: [28, 25, 38, 35], edge: [28, 25, 38, 255], veil: [244, 242, 238, 175] };

const partNumber = () => Number(state.part);
/** The places of the models that are shown: the reference and the one compared with it, or the only one. */
const sides = () => (data.alone ? [0] : [0, partNumber() + 1]);
/** @param {number} index */
const className = (index) => (index < 0 ? "a class that is not known here" : (data.classes[String(index)] || [`class ${index}`, `class ${index}`])[1]);
/** @param {number} value @param {number} digits */
function signedText(value, digits) {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : `${value > 0 ? "+" : ""}${text}`.replace("-", "−");
}

/** What a sidecar brought as JSON. @param {string} key */
function known(key) {
  const found = pictures.get(key);
  return found ? JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(found), (c) => c.charCodeAt(0)))) : null;
}

/** @param {string} quadrant */
function quadrantName(quadrant) {
  const model = data.others[partNumber()];
  return { "both-right": "both right", "only-reference": `only ${data.models[0]} right`, "only-model": `only ${model} right`, "both-wrong": "both wrong" }[quadrant] || "";
}

// ------------------------------------------------------------------ which images

/** What each image gives to the chosen concept; null where none is chosen. @returns {Promise<any>} */
async function conceptValues() {
  if (state.concept === "") return null;
  await load(data.concepts[Number(state.concept)]?.place || 0);
  return known(`v${state.concept}`);
}

/** How much more the model gives to a concept than the reference does, by image. @param {any} values @returns {Map<number, number>} */
function differences(values) {
  const [first, second] = data.alone ? [null, 0] : sides();
  return new Map(values.images.map((/** @type {number} */ image, /** @type {number} */ at) => [image, values.shares[second ?? 0][at] - (first === null ? 0 : values.shares[first][at])]));
}

/** @param {number} image */
function fits(image) {
  const { targets, quadrants } = data.images;
  const slice = state.where.startsWith("class:") ? className0(targets[image]) === state.where.slice(6) : true;
  const wanted = state.quadrant || (data.quadrants.includes(state.where) ? state.where : "");
  return slice && (!wanted || data.quadrants[quadrants[partNumber()]?.[image]] === wanted);
}

/** A class's whole name. @param {number} index */
const className0 = (index) => (data.classes[String(index)] || [""])[0];

/** @param {any} values @returns {number[]} */
function listed(values) {
  const all = values ? values.images : data.images.ids.map((_, i) => i);
  const found = all.filter(fits);
  if (values && state.order) {
    const by = differences(values);
    const sign = state.order === "model" ? -1 : 1;
    found.sort((/** @type {number} */ a, /** @type {number} */ b) => sign * ((by.get(a) || 0) - (by.get(b) || 0)));
  }
  return found;
}

/** @param {DOMStringMap} wanted */
function showList(wanted) {
  Object.assign(state, { concept: wanted.concept || "", where: wanted.where === "all" ? "" : wanted.where || "", quadrant: wanted.quadrant || "", image: "" });
  marked = state.concept === "" ? null : Number(state.concept);
  update();
  updateImages();
  goTo(byId("images"));
}

/** @param {number} image @param {number} segment */
async function openImage(image, segment) {
  Object.assign(state, { concept: "", where: "", quadrant: "", image: data.images.ids[image] });
  await load(entryOf.get(image)?.place || 0);
  const about = known(`d${image}`);
  marked = about ? about.concepts[about.segments.indexOf(segment)] ?? null : null;
  update();
  updateImages();
  goTo(byId("images"));
}

// ------------------------------------------------------------------ the list

/** @param {string} name @param {string} legend @param {[string, string][]} options */
function picker(name, legend, options) {
  if (options.length < 2) return null;
  const select = h("select", { "data-choice": name }, ...options.map(([value, text]) => h("option", { value }, text)));
  select.value = state[name];
  return h("label", { class: "field pick" }, h("span", {}, legend), select);
}

function buildImages() {
  byId("drill").append(
    h("div", { class: "drill-list" },
      h("div", { class: "picks", id: "drill-picks" }),
      h("p", { class: "list-line" }, h("output", { id: "count", "aria-live": "polite" }), h("button", { type: "button", class: "button", id: "download" }, "Download the list (CSV)")),
      h("div", { id: "thumbs", class: "thumbs", role: "listbox", "aria-label": "Images", "aria-orientation": "horizontal" })),
    h("div", { class: "drill-one", id: "drill-one" }),
  );
  byId("download").addEventListener("click", download);
  byId("thumbs").addEventListener("click", (/** @type {Event} */ event) => {
    const one = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest("[data-id]"));
    if (one) chooseImage(one.dataset.id || "");
  });
  byId("thumbs").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    /** @type {Object<string, number>} */
    const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -1e9, End: 1e9 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const order = [...byId("thumbs").children].map((one) => /** @type {HTMLElement} */ (one).dataset.id || "");
    const at = order.indexOf(state.image) + steps[event.key];
    chooseImage(order[Math.max(0, Math.min(order.length - 1, at))]);
  });
  updateImages();
}

/** @param {string} id */
async function chooseImage(id) {
  state.image = id;
  writeAddress();
  await updateImages();
  focusChosen();
}

function focusChosen() {
  const one = byId("thumbs").querySelector('[aria-selected="true"]');
  one?.focus({ preventScroll: true });
  one?.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
}

async function updateImages() {
  const at = JSON.stringify([state.part, state.concept, state.where, state.quadrant, state.order, state.image]);
  byId("drill").dataset.at = at;
  const values = await conceptValues();
  if (byId("drill").dataset.at !== at) return;
  const found = listed(values);
  const shown = found.filter((i) => entryOf.has(i));
  updatePicks();
  const few = shown.length < found.length ? `, ${shown.length} of them can be opened` : "";
  byId("count").textContent = `${found.length.toLocaleString("en")} ${found.length === 1 ? "image" : "images"}${few}`;
  byId("download").disabled = !found.length;
  const place = shown.find((i) => data.images.ids[i] === state.image) ?? shown[0];
  if (place !== undefined) state.image = data.images.ids[place];
  byId("thumbs").hidden = !shown.length;
  const held = byId("thumbs").contains(document.activeElement);
  byId("thumbs").replaceChildren(
    ...shown.map((i) => {
      const { thumb } = /** @type {Entry} */ (entryOf.get(i));
      const words = `${data.images.ids[i]}, ${className(data.images.targets[i])}`;
      return h("button", { type: "button", role: "option", class: "thumb", "data-id": data.images.ids[i], "aria-selected": i === place, tabindex: i === place ? 0 : -1, "aria-label": words, title: words },
        thumb ? h("img", { src: `data:image/webp;base64,${thumb}`, alt: "" }) : h("span", { class: "no-picture" }));
    }),
  );
  if (held) focusChosen(); // at once: the next key comes while the picture is being drawn
  if (place === undefined) byId("drill-one").replaceChildren(h("p", { class: "empty" }, found.length ? "None of these images can be opened here: their list can be downloaded." : "No image fits."));
  else await showImage(place);
}

function updatePicks() {
  const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.choice;
  const quadrants = data.alone ? [] : data.quadrants.filter((_, q) => data.images.quadrants[partNumber()].includes(q));
  const present = [...new Set(data.images.targets)].filter((t) => t >= 0);
  const model = data.others[partNumber()];
  /** @type {[string, string][]} */
  const orders = [["", "as in the source"], ["model", data.alone ? "most for the class" : `most in ${model}`], ["reference", data.alone ? "most against the class" : `most in ${data.models[0]}`]];
  byId("drill-picks").replaceChildren(
    ...[
      picker("concept", "With", [["", "any concept"], .../** @type {[string, string][]} */ (data.concepts.map((c, i) => [String(i), c.title]))]),
      picker("where", "Of", [["", "all classes"], .../** @type {[string, string][]} */ (present.map((t) => [`class:${className0(t)}`, className(t)]).sort((a, b) => a[1].localeCompare(b[1])))]),
      quadrants.length ? picker("quadrant", "Where", [["", "anyone is right"], .../** @type {[string, string][]} */ (quadrants.map((q) => [q, quadrantName(q)]))]) : null,
      state.concept === "" ? null : picker("order", "Order", orders),
    ].filter(Boolean),
  );
  if (data.quadrants.includes(state.where) && !state.quadrant) Object.assign(state, { quadrant: state.where, where: "" });
  for (const select of byId("drill-picks").querySelectorAll("select")) {
    select.value = state[select.dataset.choice];
    if (select.selectedIndex < 0) select.selectedIndex = 0;
  }
  if (focused) byId("drill-picks").querySelector(`[data-choice="${focused}"]`)?.focus();
}

/** A cell of a CSV file. @param {string | number | undefined} value */
const cell = (value) => (/[",\r\n]/.test(String(value ?? "")) ? `"${String(value).replace(/"/g, '""')}"` : String(value ?? ""));

async function download() {
  const values = await conceptValues();
  const found = listed(values);
  const shownSides = sides();
  const head = ["image_id", "label", "explained", ...shownSides.map((m) => `predicted by ${data.models[m]}`), ...(data.alone ? [] : ["quadrant"])];
  const at = new Map(values ? values.images.map((/** @type {number} */ image, /** @type {number} */ row) => [image, row]) : []);
  if (values) head.push("concept", "segments", ...shownSides.map((m) => `share of ${data.models[m]}`));
  const rows = found.map((i) => {
    const row = [data.images.ids[i], className0(data.images.labels[i]), className0(data.images.targets[i]), ...shownSides.map((m) => className0(data.images.predicted[m][i]))];
    if (!data.alone) row.push(data.quadrants[data.images.quadrants[partNumber()][i]] || "");
    if (values) row.push(data.concepts[Number(state.concept)].title, values.segments[at.get(i)], ...shownSides.map((m) => values.shares[m][at.get(i)]));
    return row;
  });
  const text = [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n");
  const name = ["images", state.concept === "" ? "" : data.concepts[Number(state.concept)].title, state.where.replace("class:", ""), state.quadrant].filter(Boolean).join("-");
  const link = h("a", { href: URL.createObjectURL(new Blob([text + "\r\n"], { type: "text/csv" })), download: `${name.replace(/[^\w.-]+/g, "_")}.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ------------------------------------------------------------------ one image

/** @param {string | null} src @returns {Promise<HTMLImageElement | null>} */
async function pictureOf(src) {
  if (!src) return null;
  const image = new Image();
  image.src = src;
  try {
    await image.decode();
    return image;
  } catch {
    return null;
  }
}

/** The segment of every pixel. @param {HTMLImageElement | null} picture */
function labelsOf(picture) {
  if (!picture) return null;
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  const pen = h("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  pen.drawImage(picture, 0, 0);
  const bytes = pen.getImageData(0, 0, width, height).data;
  const found = new Uint16Array(width * height);
  for (let i = 0; i < found.length; i += 1) found[i] = bytes[4 * i] + 256 * bytes[4 * i + 1];
  return { width, height, found };
}

/**
 * A picture with the outlines of its segments; what is not of the marked concept is veiled.
 * @param {HTMLImageElement} picture @param {any} labels @param {Set<number>} chosen @param {string} words
 * @param {typeof OVER_PHOTO} inks
 */
function outlined(picture, labels, chosen, words, inks) {
  const scale = 2;
  const [width, height] = labels ? [labels.width * scale, labels.height * scale] : [picture.naturalWidth, picture.naturalHeight];
  const sheet = h("canvas", { width, height, role: "img", "aria-label": words });
  const pen = sheet.getContext("2d");
  pen.imageSmoothingEnabled = picture.naturalWidth > 64;
  pen.drawImage(picture, 0, 0, width, height);
  if (!labels) return sheet;
  const over = pen.createImageData(width, height);
  const of = (/** @type {number} */ y, /** @type {number} */ x) => labels.found[(y >> 1) * labels.width + (x >> 1)];
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const own = of(y, x);
      const right = x + 1 < width ? of(y, x + 1) : own;
      const below = y + 1 < height ? of(y + 1, x) : own;
      const at = 4 * (y * width + x);
      const inside = chosen.has(own);
      if (chosen.size && (inside !== chosen.has(right) || inside !== chosen.has(below))) over.data.set(inks.edge, at);
      else if (own !== right || own !== below) over.data.set(inside || !chosen.size ? inks.line : inks.faint, at);
      else if (chosen.size && !inside) over.data.set(inks.veil, at);
    }
  }
  const veil = h("canvas", { width, height });
  veil.getContext("2d").putImageData(over, 0, 0);
  pen.drawImage(veil, 0, 0);
  return sheet;
}

/** @param {number} image */
async function showImage(image) {
  const entry = /** @type {Entry} */ (entryOf.get(image));
  const box = byId("drill-one");
  const at = `${state.part} ${image} ${marked}`;
  box.dataset.at = at;
  await load(entry.place);
  const about = known(`d${image}`);
  if (box.dataset.at !== at) return;
  if (!about) {
    box.replaceChildren(h("p", { class: "empty" }, "The script with this image is not beside the page."));
    return;
  }
  const labels = labelsOf(await pictureOf(source(`l${image}`)));
  const chosen = new Set(about.segments.filter((/** @type {number} */ _, /** @type {number} */ k) => about.concepts[k] === marked));
  const photo = await pictureOf(source(`p${image}`));
  const maps = await Promise.all(sides().map((m) => pictureOf(source(`m${image}.${m}`))));
  if (box.dataset.at !== at) return;
  box.style.setProperty("--ratio", String(entry.ratio));
  const mark = marked === null ? "" : `, ${data.concepts[marked].title} marked`;
  box.replaceChildren(
    header(image),
    h("div", { class: "drill-pictures" },
      framed(photo && outlined(photo, labels, chosen, `Photo of ${data.images.ids[image]} with its segments${mark}`, OVER_PHOTO), entry.missing || "no photo", "Photo with its segments"),
      ...sides().map((m, k) => framed(maps[k] && outlined(/** @type {HTMLImageElement} */ (maps[k]), labels, chosen, `Map of ${data.models[m]}${mark}`, data.scale === "diverging" ? OVER_MAP : OVER_PHOTO), "no map", data.models[m], data.scale))),
    ledgerOf(about),
  );
}

/** @param {number} image */
function header(image) {
  const { ids, labels, targets, predicted, quadrants } = data.images;
  const quadrant = data.alone ? "" : data.quadrants[quadrants[partNumber()][image]] || "";
  return h("div", { class: "drill-head" },
    h("h3", { class: "name" }, ids[image]),
    h("p", {}, h("span", { class: "soft" }, "explained "), h("b", {}, className(targets[image])), labels[image] >= 0 && labels[image] !== targets[image] ? h("span", { class: "soft" }, ` · labelled ${className(labels[image])}`) : null, labels[image] < 0 ? h("span", { class: "soft" }, " · no label") : null),
    h("p", {}, ...sides().flatMap((m, k) => [h("span", { class: "soft" }, `${k ? " · " : ""}${data.models[m]} says `), h("b", {}, className(predicted[m][image]))]), quadrant ? h("span", { class: "soft" }, ` (${quadrantName(quadrant)})`) : null));
}

/** @param {HTMLElement | null} picture @param {string} why @param {string} words @param {string} [scale] */
const framed = (picture, why, words, scale) =>
  h("figure", {}, picture || h("div", { class: "no-figure" }, why), h("figcaption", {}, words, scale ? h("span", { class: `scale scale-${scale}`, "aria-hidden": "true" }) : null));

const MOST_ROWS = 10;

/** The image's own ledger: what each concept adds, and what the maps miss; of maps without one, their shares. @param {any} about */
function ledgerOf(about) {
  const [first, second] = data.alone ? [null, 0] : sides();
  const values = data.ledger ? about.totals : about.shares;
  /** @type {Map<number, number>} */
  const sums = new Map();
  about.concepts.forEach((/** @type {number} */ concept, /** @type {number} */ k) => {
    sums.set(concept, (sums.get(concept) || 0) + values[second ?? 0][k] - (first === null ? 0 : values[first][k]));
  });
  const order = [...sums].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  /** @type {[string, number, number | null][]} */
  const rows = order.slice(0, MOST_ROWS).map(([concept, value]) => [data.concepts[concept].title, value, concept]);
  const others = order.slice(MOST_ROWS).reduce((sum, [, value]) => sum + value, 0);
  if (others) rows.push([`${order.length - MOST_ROWS} other concepts`, others, null]);
  const booked = order.reduce((sum, [, value]) => sum + value, 0);
  let total = booked;
  if (data.ledger && about.change[second ?? 0] !== null && (first === null || about.change[first] !== null)) {
    total = about.change[second ?? 0] - (first === null ? 0 : about.change[first]);
    if (Math.abs(total - booked) > 1e-9) rows.push(["not booked: what the maps miss", total - booked, null]);
  }
  const model = data.models[second ?? 0];
  const what = data.ledger
    ? data.alone ? `What each concept adds to the change of ${model}'s ${data.scalar} from the baseline` : `How ${model}'s ${data.scalar} comes to differ from ${data.models[first ?? 0]}'s, each from its baseline`
    : data.alone ? `Share of ${model}'s attribution, in points` : `Share of ${model}'s attribution less ${data.models[first ?? 0]}'s, in points`;
  return h("div", { class: "own-ledger" },
    h("h4", {}, what),
    h("p", { class: "more" }, "Choose a concept to see its segments. One image: these numbers have no interval."),
    steps(rows, total, data.ledger ? `change of the ${data.scalar}${data.alone ? "" : "'s difference"}` : "sum", data.ledger ? 1 : 100));
}

/** @param {[string, number, number | null][]} rows @param {number} total @param {string} name @param {number} unit */
function steps(rows, total, name, unit) {
  const ends = [0];
  for (const [, value] of rows) ends.push(ends[ends.length - 1] + value);
  const [low, high] = [Math.min(0, total, ...ends), Math.max(0, total, ...ends)];
  const share = (/** @type {number} */ v) => (100 * (v - low)) / (high - low || 1);
  const digits = unit === 100 ? 1 : Math.abs(high - low) < 0.1 ? 4 : 2;
  const bar = (/** @type {number} */ from, /** @type {number} */ to) =>
    drawn("svg", { class: "whisker", "aria-hidden": "true" }, drawn("line", { class: "zero", x1: `${share(0)}%`, x2: `${share(0)}%`, y1: 0, y2: "100%" }), drawn("rect", { x: `${Math.min(share(from), share(to))}%`, width: `${Math.abs(share(to) - share(from))}%`, y: 4, height: 14, rx: 2 }));
  const line = (/** @type {string} */ kind, /** @type {Node | string} */ head, /** @type {SVGElement} */ figure, /** @type {number} */ value) =>
    h("tr", { class: kind }, h("th", { scope: "row" }, head), h("td", { class: "plot" }, figure), h("td", { class: "mean" }, signedText(unit * value, digits)));
  const body = rows.map(([title, value, concept], i) => {
    const head = concept === null ? title : h("button", { type: "button", class: "link", "aria-pressed": marked === concept, on: { click: () => markConcept(concept) } }, title);
    return line(concept === null ? "line-rest" : value > 0 ? "line-up" : "line-down", head, bar(ends[i], ends[i + 1]), value);
  });
  return h("div", { class: "table-frame board ledger", tabindex: 0, role: "region", "aria-label": "Ledger of this image" },
    h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Concept"), h("th", { scope: "col", class: "plot" }, h("span", { class: "visually-hidden" }, "Steps, drawn")), h("th", { scope: "col", class: "mean" }, unit === 100 ? "Points" : "Adds"))), h("tbody", {}, ...body, line("line-total", name, bar(0, total), total))));
}

/** @param {number} concept */
async function markConcept(concept) {
  marked = marked === concept ? null : concept;
  await showImage(data.images.ids.indexOf(state.image));
  for (const button of byId("drill-one").querySelectorAll("[aria-pressed]")) if (button.textContent === data.concepts[concept].title) button.focus({ preventScroll: true });
}

/** @param {string} name @param {Object<string, any>} attributes @param {...Node} children */
function drawn(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

if (readAddress()) marked = state.concept === "" ? null : Number(state.concept);
else if (data.images.ids.length) {
  state.image = data.images.ids[data.first];
  START.image = state.image;
  marked = Number(currentCard() ?? 0);
}
update();
watchPatches(document);
buildImages();
