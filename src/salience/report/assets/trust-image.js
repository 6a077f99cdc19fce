// One image: its maps, what was left of it at some points of the curves, its curves and its scores.

/** @type {Object<string, string>} */
const OUTPUTS = { restricted: "probability within the label set", full: "probability among all classes", top: "1 where it leads" };

const STOPS = [0.07, 0.14, 0.25, 0.5, 0.75, 1];

const drillModel = () => data.models[Number(state.model)];
const background = () => data.choices.backgrounds[Number(state.background)];

/** @param {ImageEntry} entry @param {string} kind @param {...(number | string)} more */
const keyOf = (entry, kind, ...more) => [`${kind}${state.model}`, entry.image, ...more].join(".");

/** What is known of an image beside its pictures. @param {ImageEntry} entry */
function about(entry) {
  const found = pictures.get(keyOf(entry, "d"));
  if (!found) return null;
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(found), (c) => c.charCodeAt(0))));
}

/** @param {number} value */
const percent = (value) => `${value >= 0.9995 ? 100 : value < 0.0005 ? 0 : value < 0.1 ? (100 * value).toFixed(1) : Math.round(100 * value)} %`;

// ------------------------------------------------------------------ the list

/** The images in the chosen order. */
function inOrder() {
  const { entries } = drillModel();
  if (!state.sort) return entries;
  const at = Number(state.lane);
  const weak = (/** @type {ImageEntry} */ e) => e.weak[Number(state.background)]?.[at] ?? 2;
  return [...entries].sort((a, b) => (state.sort === "weak" ? weak(a) - weak(b) : weak(b) - weak(a)));
}

/** @returns {ImageEntry | undefined} */
function current() {
  const { entries } = drillModel();
  return entries.find((e) => e.id === state.image) || inOrder()[0];
}

function buildImages() {
  const box = byId("drill");
  if (!box) return;
  box.append(
    h("div", { class: "drill-list" },
      h("div", { class: "picks", id: "drill-picks" }),
      h("div", { id: "thumbs", class: "thumbs", role: "listbox", "aria-label": "Images", "aria-orientation": "horizontal" })),
    h("div", { class: "drill-one", id: "drill-one", "aria-live": "off" }),
  );
  byId("thumbs").addEventListener("click", (/** @type {Event} */ event) => {
    const one = /** @type {HTMLElement} */ (event.target).closest("[data-id]");
    if (one) chooseImage(/** @type {HTMLElement} */ (one).dataset.id || "", true);
  });
  byId("thumbs").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    /** @type {Object<string, number>} */
    const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -1e9, End: 1e9 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const order = inOrder();
    const at = order.findIndex((e) => e === current()) + steps[event.key];
    chooseImage(order[Math.max(0, Math.min(order.length - 1, at))].id, true);
  });
  updateImages();
}

/** @param {string} id @param {boolean} focus */
function chooseImage(id, focus) {
  state.image = id;
  writeAddress();
  updateImages();
  const one = byId("thumbs").querySelector('[aria-selected="true"]');
  if (focus && one) {
    one.focus({ preventScroll: true });
    one.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
  }
}

/** @param {string} name @param {string} legend @param {[string | number, string][]} options */
function picker(name, legend, options) {
  if (options.length < 2) return null;
  const select = h("select", { "data-choice": name }, ...options.map(([value, text]) => h("option", { value }, text)));
  select.value = state[name];
  return h("label", { class: "field pick" }, h("span", {}, legend), select);
}

function updateImages() {
  const box = byId("drill");
  if (!box) return;
  const model = drillModel();
  const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.choice;
  const hasWeak = model.entries.some((e) => e.weak.some((row) => row.some((v) => v !== null)));
  byId("drill-picks").replaceChildren(
    ...[
      picker("lane", "Maps of", model.lanes.map((lane, i) => [i, lane.baseline ? `${lane.name} (baseline)` : lane.name])),
      picker("background", "Background", data.choices.backgrounds.map((b, i) => [i, b])),
      hasWeak ? picker("sort", "Order", [["", "as in the source"], ["weak", "least complete or sound first"], ["strong", "most complete and sound first"]]) : null,
    ].filter(Boolean),
  );
  if (focused) byId("drill-picks").querySelector(`[data-choice="${focused}"]`)?.focus();
  const chosen = current();
  byId("thumbs").classList.toggle("tiny", model.tiny);
  byId("thumbs").replaceChildren(
    ...inOrder().map((entry) =>
      h("button", { type: "button", role: "option", class: "thumb", "data-id": entry.id, "aria-selected": entry === chosen, tabindex: entry === chosen ? 0 : -1, "aria-label": `${entry.id}, ${entry.said}` , title: `${entry.id}: ${entry.said}` },
        entry.thumb ? h("img", { src: `data:image/webp;base64,${entry.thumb}`, alt: "" }) : h("span", { class: "no-picture" })),
    ),
  );
  if (chosen) showImage(chosen);
}

// ------------------------------------------------------------------ pictures

/** @param {string | null} src @returns {Promise<ImageData | null>} */
async function pixelsOf(src) {
  if (!src) return null;
  const image = new Image();
  image.src = src;
  await image.decode();
  const sheet = h("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const pen = sheet.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  return pen.getImageData(0, 0, sheet.width, sheet.height);
}

/**
 * The image with some pixels in place and the background elsewhere; a hatch where that is not known.
 * @param {ImageData} photo @param {Uint8ClampedArray} levels red of every fourth byte
 * @param {(level: number) => boolean} stays @param {ImageData | [number, number, number] | null} ground
 */
function masked(photo, levels, stays, ground) {
  const { width, height } = photo;
  const out = new ImageData(width, height);
  for (let i = 0; i < width * height; i += 1) {
    const at = 4 * i;
    let from = /** @type {ArrayLike<number>} */ (photo.data);
    let place = at;
    if (!stays(levels[at])) {
      if (ground instanceof ImageData) from = ground.data;
      else if (ground) [from, place] = [ground, 0];
      else {
        const stripe = (Math.floor(i / width) + (i % width)) % 8 < 4 ? 205 : 178;
        [from, place] = [[stripe, stripe, stripe], 0];
      }
    }
    for (let c = 0; c < 3; c += 1) out.data[at + c] = from[place + c];
    out.data[at + 3] = 255;
  }
  return out;
}

/** @param {ImageData} picture @param {string} words */
function sheetOf(picture, words) {
  const sheet = h("canvas", { width: picture.width, height: picture.height, role: "img", "aria-label": words });
  sheet.getContext("2d").putImageData(picture, 0, 0);
  return sheet;
}

/** The stored curve of an image's lane. @param {any} lane @param {string} order @param {number} position */
function curveOf(lane, order, position) {
  const { curves } = drillModel();
  const rows = lane.curves.filter((/** @type {any[]} */ c) => c[0] === Number(state.background) && curves[c[1]].curve === order && c[2] === position);
  const row = rows.sort((/** @type {any[]} */ a, /** @type {any[]} */ b) => a[1] - b[1])[0];
  return row ? { shares: curves[row[1]].shares, values: row[3], output: curves[row[1]].output } : null;
}

/** The place in a rising list that is nearest to a value. @param {number[]} list @param {number} value */
function nearest(list, value) {
  let best = 0;
  list.forEach((v, i) => {
    if (Math.abs(v - value) < Math.abs(list[best] - value)) best = i;
  });
  return best;
}

/**
 * One row of masked inputs.
 * @param {{title: Node[], photo: ImageData, levels: ImageData, ground: any, order: string, curve: any, label: string, tone: string}} of
 */
function strip({ title, photo, levels, ground, order, curve, label, tone }) {
  const { counts } = drillModel();
  const shares = curve ? curve.shares : counts;
  const stops = [...new Set(STOPS.map((s) => nearest(shares, s)))].filter((i) => shares[i] > 0);
  const cells = stops.map((i) => {
    const level = nearest(counts, shares[i]);
    const keep = order === "keep";
    const picture = masked(photo, levels.data, (at) => (keep ? at <= level : at > level), ground);
    const value = curve ? curve.values[i] : null;
    const words = `${percent(shares[i])} of pixels ${keep ? "kept" : "removed"}`;
    return h("div", { class: "stop" },
      sheetOf(picture, `${words}${value === null ? "" : `: ${label} ${percent(value)}`}`),
      h("span", { class: "stop-share" }, words.replace(" of pixels", "")),
      value === null ? null : h("span", { class: `stop-value stop-${tone}` }, h("span", { class: "bar" }, h("span", { style: `width:${Math.min(100, 100 * value)}%` })), percent(value)));
  });
  return h("div", { class: `strip strip-${tone}` }, h("h4", {}, ...title), h("div", { class: "stops" }, ...cells));
}

// ------------------------------------------------------------------ one image

/** @param {ImageEntry} entry */
async function showImage(entry) {
  const model = drillModel();
  const at = `${state.model} ${state.lane} ${state.background} ${entry.id}`;
  const box = byId("drill-one");
  box.dataset.at = at;
  await load(entry.place);
  const known = about(entry);
  if (box.dataset.at !== at) return;
  if (!known) {
    box.replaceChildren(h("p", { class: "empty" }, "The script with this image is not beside the page."));
    return;
  }
  const place = Number(state.lane);
  const lane = known.lanes[place];
  const shown = model.lanes[place];
  const worst = lane.worst[background()];
  const maps = shown.why ? [] : [0, ...(worst === undefined ? [] : [worst])];
  const has = (/** @type {number} */ p) => lane.maps.includes(p) ? p : lane.maps.includes(0) && model.lanes[place].name.startsWith("class-agnostic:") ? 0 : null;
  const photo = await pixelsOf(source(keyOf(entry, "p"))).catch(() => null);
  const ground = known.colours[background()] || model.colours[background()] || (await pixelsOf(source(keyOf(entry, "b", state.background))).catch(() => null));
  const strips = [];
  const names = known.labels;
  const tones = ["predicted", "wrong"];
  for (const [i, position] of maps.entries()) {
    const stored = has(position);
    if (stored === null || !photo) continue;
    const levels = await pixelsOf(source(keyOf(entry, "l", place, stored)));
    if (!levels) continue;
    const label = names[position][1];
    const title = i === 0
      ? [h("span", {}, "What the map of ", h("b", {}, label), " keeps, and how sure the model then is of ", h("b", {}, label))]
      : [h("span", {}, "What the map of ", h("b", {}, label), " keeps: a ", h("b", {}, "wrong"), " label, the one that its map justifies best. A sound map leaves it improbable.")];
    strips.push(strip({ title, photo, levels, ground, order: "keep", curve: curveOf(lane, "keep", position), label, tone: tones[i] }));
    const gone = i === 0 ? curveOf(lane, "delete", position) : null;
    if (gone) strips.push(strip({ title: [h("span", {}, "What is left when those pixels go first")], photo, levels, ground, order: "delete", curve: gone, label, tone: "removed" }));
  }
  if (box.dataset.at !== at) return;
  box.classList.toggle("tiny", model.tiny);
  box.style.setProperty("--ratio", `${model.shown[1]} / ${model.shown[0]}`);
  box.replaceChildren(
    header(entry, known),
    h("div", { class: "drill-pictures" },
      figureOf(source(keyOf(entry, "p")), entry.missing || "no photo", "Photo, as the model sees it"),
      ...maps.map((p) => figureOf(has(p) === null ? null : source(keyOf(entry, "m", place, has(p) ?? 0)), "no map for this label", `${shown.name} for ${names[p][1]}${p ? " (wrong)" : ""}`, shown.scale)),
      h("div", { class: "drill-chart" }, chart(lane, names, worst))),
    ...notes(shown, entry, ground, strips.length),
    ...strips,
    numbers(lane, shown.name),
  );
}

/** @param {ImageEntry} entry @param {any} known */
function header(entry, known) {
  const sure = known.chances.length ? `, ${percent(known.chances[0])}` : "";
  const truth = entry.truth ? h("span", { class: "soft" }, ` · labelled ${entry.truth}`) : null;
  return h("div", { class: "drill-head" }, h("h3", { class: "name" }, entry.id), h("p", {}, h("span", { class: "soft" }, "predicted "), h("b", {}, entry.said), sure, truth));
}

/** @param {string | null} src @param {string} why @param {string} words @param {string} [scale] */
const figureOf = (src, why, words, scale) =>
  h("figure", {}, src ? h("img", { src, alt: words }) : h("div", { class: "no-figure" }, why), h("figcaption", {}, words, scale ? h("span", { class: `scale scale-${scale}`, "aria-hidden": "true" }) : null));

/** @param {any} shown @param {ImageEntry} entry @param {any} ground @param {number} strips */
function notes(shown, entry, ground, strips) {
  const told = [];
  if (shown.why) told.push(shown.why + " Its scores and curves are below.");
  else if (entry.missing) told.push(`${entry.missing} So the masked inputs cannot be shown.`);
  else if (!ground && strips) told.push(`The background ${background()} is made while scoring, and not kept: what it filled is hatched here.`);
  if (drillModel().smooth) told.push(`Maps are blurred by ${drillModel().smooth} px, as they were scored.`);
  return told.map((text) => h("p", { class: "drill-note" }, text));
}

/** @param {string} name @param {Object<string, any>} attributes @param {...(Node | string | null)} children */
function drawn(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(.../** @type {(Node | string)[]} */ (children.filter((c) => c !== null)));
  return element;
}

/** The image's own curves. @param {any} lane @param {[number, string][]} names @param {number | undefined} worst */
function chart(lane, names, worst) {
  const [width, height] = [260, 150];
  const lines = [];
  const told = [];
  for (const [kind, order, position] of /** @type {[string, string, number | undefined][]} */ ([["removed", "delete", 0], ["wrong", "keep", worst], ["predicted", "keep", 0]])) {
    const curve = position === undefined ? null : curveOf(lane, order, position);
    if (!curve || position === undefined) continue;
    const points = curve.shares.map((s, i) => `${(width * s).toFixed(1)},${(height * (1 - curve.values[i])).toFixed(1)}`).join(" ");
    lines.push(drawn("polyline", { class: `trace-line trace-${kind}`, points }));
    told.unshift([kind, `${names[position][1]}, pixels ${kind === "removed" ? "removed" : "kept"}: ${OUTPUTS[curve.output] || curve.output}`]);
  }
  if (!lines.length) return h("p", { class: "soft" }, "No curve under this background.");
  const levels = [[0, "1"], [height / 2, "0.5"], [height, "0"]].flatMap(([y, text]) => [drawn("line", { class: "level", x1: 0, x2: width, y1: y, y2: y }), drawn("text", { x: -6, y: Number(y) + 4, "text-anchor": "end" }, String(text))]);
  const words = `Probability by the share of pixels: ${told.map(([, text]) => text).join("; ")}`;
  return h("figure", { class: "panel" },
    drawn("svg", { viewBox: `-27 -7 ${width + 34} ${height + 30}`, role: "img", "aria-label": words }, ...levels, drawn("text", { x: width / 2, y: height + 18, "text-anchor": "middle" }, "share of pixels"), ...lines),
    h("p", { class: "legend" }, ...told.map(([kind, text]) => {
      const key = h("span", {});
      key.append(drawn("svg", { class: "key", viewBox: "0 0 24 8", "aria-hidden": "true" }, drawn("line", { class: `trace-line trace-${kind}`, x1: 0, x2: 24, y1: 4, y2: 4 })), text);
      return key;
    })));
}

/** The image's numbers beside the means over images. @param {any} lane @param {string} name */
function numbers(lane, name) {
  const means = data.means[Number(state.model)];
  const rows = lane.scores
    .filter((/** @type {any[]} */ s) => s[1] === null || s[1] === background())
    .map((/** @type {any[]} */ [metric, under, value]) => {
      const m = data.choices.metrics.indexOf(metric);
      const mean = means[`${m}.${under === null ? "-" : state.background}.0`]?.[name] || "–";
      const [arrow, better] = { higher: ["↑", "higher is better"], lower: ["↓", "lower is better"] }[data.directions[metric]] || ["", ""];
      const head = h("th", { scope: "row", title: better }, metric, h("span", { "aria-hidden": "true" }, ` ${arrow}`), h("span", { class: "visually-hidden" }, better && `, ${better}`));
      return h("tr", {}, head, h("td", {}, value.toFixed(3).replace("-", "−")), h("td", {}, mean));
    });
  if (!rows.length) return h("p", { class: "soft" }, "This image has no score for these maps.");
  return h("div", { class: "table-frame", tabindex: 0, role: "region", "aria-label": "Scores of this image" },
    h("table", {}, h("thead", {}, h("tr", {}, ...["Metric", "This image", "Mean over images [95 %]"].map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, ...rows)));
}

if (data.models.length) {
  readAddress();
  update();
  buildImages();
}
