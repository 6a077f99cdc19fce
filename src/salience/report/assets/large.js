// The large view: one map of one image over its photo, and all that is known about it.

const large = byId("large");

/** @type {{image: number, column: number}} */
const looked = { image: 0, column: 0 };

/** @param {number} image @param {number} column -1 shows the first method, the photo uncovered */
function openLarge(image, column) {
  looked.image = image;
  looked.column = Math.max(0, column);
  if (column < 0) byId("opacity").value = "0";
  else if (byId("opacity").value === "0") byId("opacity").value = "50";
  const first = !large.open;
  if (first) large.showModal();
  showLarge().then(() => {
    const tab = byId("tabs").children[looked.column];
    if (first && tab) tab.focus({ preventScroll: true });
  });
}

/** @param {number} step */
function turn(step) {
  const at = shown.indexOf(looked.image) + step;
  if (at < 0 || at >= shown.length) return;
  looked.image = shown[at];
  showLarge();
}

/** @param {number} step */
function change(step) {
  const count = model().columns.length;
  looked.column = (looked.column + step + count) % count;
  showLarge().then(() => byId("tabs").children[looked.column].focus({ preventScroll: true }));
}

async function showLarge() {
  const { image, column } = looked;
  state.image = data.images[image].id;
  state.method = model().columns[column].method;
  writeAddress();
  const at = shown.indexOf(image);
  byId("large-title").textContent = data.images[image].id;
  byId("large-where").textContent = at < 0 ? "not among the images shown" : `${at + 1} of ${shown.length}`;
  byId("before").disabled = at <= 0;
  byId("next").disabled = at < 0 || at >= shown.length - 1;
  large.classList.toggle("tiny", model().tiny);
  await loadImage(image);
  if (image !== looked.image || column !== looked.column) return;
  showTabs();
  showSheet();
  showSide();
}

function showTabs() {
  const { image, column } = looked;
  const tabs = byId("tabs");
  const had = tabs.contains(document.activeElement);
  tabs.replaceChildren(
    ...model().columns.map((c, i) => {
      const map = chosen(image, i);
      const picture = map && source(mapKey(image, i, map.target));
      return h(
        "button",
        { type: "button", role: "tab", id: `tab-${i}`, "aria-selected": i === column, "aria-controls": "stage", tabindex: i === column ? 0 : -1, on: { click: () => { looked.column = i; showLarge(); } } },
        picture ? h("img", { src: picture, alt: "" }) : h("span", { class: "no-picture" }),
        c.method,
      );
    }),
  );
  byId("stage").setAttribute("aria-labelledby", `tab-${column}`);
  const tab = tabs.children[column];
  if (had) tab.focus({ preventScroll: true });
  tabs.scrollLeft = tab.offsetLeft - tabs.offsetLeft - (tabs.clientWidth - tab.offsetWidth) / 2;
}

/**
 * How strongly map and photo show at a slider's place. The photo fades into the colour of the scale's zero, black or
 * white, where blending leaves the map as it is: so the map shows on bright and on dark photos alike.
 * @param {number} share 0 photo alone, 1 map alone
 */
const strengths = (share) => ({ map: Math.min(1, 2 * share), photo: 1 - share, grey: Math.min(0.8, 1.6 * share) });

function showSheet() {
  const { image, column } = looked;
  const about = model().columns[column];
  const map = chosen(image, column);
  const picture = map && source(mapKey(image, column, map.target));
  const photo = source(photoKey(image));
  const sheet = byId("sheet");
  const [height, width] = model().shown;
  sheet.className = `sheet on-${about.scale}`;
  sheet.style.setProperty("--ratio", `${width} / ${height}`);
  const missing = data.missing[photoKey(image)];
  sheet.replaceChildren(
    ...(photo ? [h("img", { id: "sheet-photo", src: photo, alt: photoWords(image) })] : []),
    ...(map && picture ? [h("img", { id: "sheet-map", class: photo ? `top-${about.scale}` : "", src: picture, alt: mapWords(image, column, map) })] : []),
    ...(map && picture ? [] : [h("p", { class: "lost" }, whyNoMap(image, column)[1])]),
    ...(missing ? [h("p", { class: "lost" }, `No photo: ${missing}`)] : []),
  );
  byId("opacity").disabled = !(photo && picture);
  for (const button of document.querySelectorAll("[data-save]")) {
    const what = /** @type {HTMLElement} */ (button).dataset.save;
    /** @type {HTMLButtonElement} */ (button).disabled = what === "photo" ? !photo : what === "map" ? !picture : !(photo && picture);
  }
  const signed = about.scale === "diverging";
  byId("stage-scale").replaceChildren(
    h("span", { class: `scale scale-${about.scale}`, "aria-hidden": "true" }),
    h("span", { class: "ends" }, h("span", {}, signed ? "against the class" : "0"), signed ? h("span", {}, "0") : "", h("span", {}, signed ? "for the class" : "99.5th percentile and more")),
  );
  mix();
}

function mix() {
  const slider = byId("opacity");
  const share = slider.disabled ? 1 : Number(slider.value) / 100;
  const { map, photo, grey } = strengths(share);
  slider.setAttribute("aria-valuetext", share === 0 ? "photo alone" : share === 1 ? "map alone" : `${slider.value} percent`);
  const [below, above] = [byId("sheet-photo"), byId("sheet-map")];
  if (above && below) {
    above.style.opacity = String(map);
    below.style.opacity = String(photo);
    below.style.filter = `grayscale(${grey})`;
  }
}

/** @param {string} title @param {...(Node | string | null)} children */
const block = (title, ...children) => h("div", {}, h("h3", {}, title), ...children);

/** @param {[string, any, string?][]} facts */
const factList = (facts) =>
  h("dl", { class: "facts" }, ...facts.map(([name, value, meaning]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, meaning ? h("span", { class: "meaning" }, meaning) : null))));

function showSide() {
  const { image, column } = looked;
  const entry = model().entries[image];
  const about = model().columns[column];
  const map = chosen(image, column);
  const parts = [];
  if (data.models.length > 1) {
    const which = h("select", { on: { change: () => switchModel(Number(which.value)) } }, ...data.models.map((m, i) => h("option", { value: i, selected: i === state.model }, m.name)));
    parts.push(h("label", { class: "field" }, h("span", { class: "visually-hidden" }, "Model"), which));
  }
  const how = verdict(entry);
  if (entry.predicted !== undefined) {
    const truth = how === "wrong" && entry.label !== undefined ? className(entry.label) : how === "unlabelled" ? data.images[image].said : null;
    parts.push(
      h(
        "div",
        {},
        h("p", { class: "said" }, className(entry.predicted)),
        h("p", { class: "verdict" }, how === "right" || how === "wrong" ? h("span", { class: `mark mark-${how}` }, icon(how), how) : null, h("span", {}, `${entry.chanceText} confident`)),
        truth ? h("p", { class: "truth" }, h("span", { class: "soft" }, how === "wrong" ? "is " : "labelled "), truth) : null,
      ),
    );
    parts.push(block("Most probable classes", probabilities(entry)));
  }
  for (const [method, what, message] of entry.failures || []) {
    if (method === null || method === about.method) parts.push(block(`Failed: ${what}`, h("p", {}, message)));
  }
  const maps = entry.maps[column] || [];
  if (maps.length > 1) {
    const select = h(
      "select",
      { on: { change: () => { state.target = select.value; syncControls(); redraw(); showLarge(); } } },
      ...(map ? [] : [h("option", { value: state.target, selected: true }, "choose a class")]),
      ...maps.map((m) => h("option", { value: m.target, selected: map !== null && m.target === map.target }, shortName(m.target))),
    );
    parts.push(block("Explained class", h("label", { class: "field" }, h("span", { class: "visually-hidden" }, "Explained class"), select), entry.dropped ? h("span", { class: "meaning" }, `the ${maps.length} that say most; ${entry.dropped} others are in the run`) : null));
  }
  if (map) {
    const signed = about.scale === "diverging";
    parts.push(
      block(
        `About this map`,
        factList([
          ["shows", about.summary],
          ["explains", className(map.target), `${about.output} ${map.score}`],
          ["raw values", `${map.range[0]} to ${map.range[1]}`, signed ? "signed: above zero speaks for the class" : "no sign"],
          ["stored at", `${about.grid[0]} × ${about.grid[1]}`, about.enlarged ? "enlarged bilinearly here" : undefined],
          ...map.notes,
        ]),
        map.curve ? curve(map.curve) : null,
      ),
    );
  }
  byId("side").replaceChildren(...parts);
}

/** Draw how a map settled. @param {{of: string, points: [number, number][]}} what */
function curve({ of, points }) {
  const [width, height, most] = [240, 56, points[points.length - 1][0]];
  const low = Math.min(0, ...points.map((p) => p[1]));
  const high = Math.max(...points.map((p) => p[1]), low + 1e-9);
  const at = points.map(([n, v]) => `${((width * n) / most).toFixed(1)},${(height - (height * (v - low)) / (high - low)).toFixed(1)}`);
  const text = `${of}: ${points.map(([n, v]) => `${v} after ${n}`).join(", ")} queries`;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ class: "curve", viewBox: `-3 -3 ${width + 6} ${height + 6}`, role: "img", "aria-label": text })) svg.setAttribute(key, value);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", at.join(" "));
  svg.append(line);
  return h("figure", { class: "curve-of" }, svg, h("figcaption", { class: "meaning" }, `${of}, from 1 to ${most} queries: ${points[points.length - 1][1]} at the end`));
}

/** @param {Entry} entry */
function probabilities(entry) {
  return h(
    "table",
    { class: "bars" },
    h("caption", { class: "visually-hidden" }, "Most probable classes"),
    h("tbody", {}, ...(entry.top || []).map(([index, p, text]) => {
      const tone = index === entry.label ? "right" : index === entry.predicted && entry.label !== undefined ? "wrong" : "unknown";
      return h(
        "tr",
        { class: index === entry.label ? "is-true" : "" },
        h("th", { scope: "row" }, h("span", { title: className(index) }, shortName(index), index === entry.label ? " (true)" : "")),
        h("td", {}, h("span", { class: `bar bar-${tone}`, "aria-hidden": "true" }, h("span", { style: `width:${100 * p}%` }))),
        h("td", { class: "number" }, text),
      );
    })),
  );
}

/** Save a picture as PNG. @param {string} what */
function save(what) {
  const { image, column } = looked;
  const { scale, method } = model().columns[column];
  const [photo, map] = [byId("sheet-photo"), byId("sheet-map")];
  const base = what === "photo" ? photo : map;
  if (!base) return;
  const canvas = h("canvas", { width: base.naturalWidth, height: base.naturalHeight });
  const draw = canvas.getContext("2d");
  const all = /** @type {[number, number, number, number]} */ ([0, 0, canvas.width, canvas.height]);
  if (what === "mix") {
    const strength = strengths(Number(byId("opacity").value) / 100);
    draw.fillStyle = scale === "diverging" ? "#ffffff" : "#000000";
    draw.fillRect(...all);
    draw.globalAlpha = strength.photo;
    draw.drawImage(photo, ...all);
    draw.globalAlpha = strength.grey;
    draw.globalCompositeOperation = "saturation";
    draw.fillStyle = "#808080";
    draw.fillRect(...all);
    draw.globalAlpha = strength.map;
    draw.globalCompositeOperation = scale === "diverging" ? "multiply" : "screen";
    draw.drawImage(map, ...all);
  } else {
    draw.drawImage(base, ...all);
  }
  const stem = data.images[image].id.replace(/\.[a-z0-9]+$/i, "");
  const name = [stem, what === "photo" ? "" : method, what === "mix" ? "over photo" : ""].filter(Boolean).join(".");
  canvas.toBlob((/** @type {Blob} */ blob) => {
    const link = h("a", { href: URL.createObjectURL(blob), download: `${name.replace(/[^\w.+-]+/g, "_")}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, "image/png");
}

/** @param {KeyboardEvent} event */
function largeKey(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.altKey || event.ctrlKey || event.metaKey || target.matches("input, select")) return;
  const inTabs = byId("tabs").contains(target);
  if (event.key === "ArrowLeft") turn(-1);
  else if (event.key === "ArrowRight") turn(1);
  else if (event.key === "ArrowUp" && (inTabs || target === large)) change(-1);
  else if (event.key === "ArrowDown" && (inTabs || target === large)) change(1);
  else return;
  event.preventDefault();
}

function closedLarge() {
  const { image, column } = looked;
  state.image = "";
  state.method = "";
  writeAddress();
  if (shown.includes(image)) move(image, byId("opacity").value === "0" ? 0 : column + 1, true);
}
