// The grid: a row for each image, filled with its pictures when it comes near the screen.

const grid = byId("grid");

/** @typedef {{image: number, element: HTMLElement, tiles: HTMLButtonElement[], near: boolean}} Row */

/** @type {Row[]} rows of the current model, by image */
let rows = [];

/** @type {number[]} the images that are shown, in order */
let shown = [];

/** Where the one tab stop of the grid is: image and column, 0 being the photo. */
const here = { image: -1, column: 0 };

const watcher = new IntersectionObserver(
  (changes) => {
    for (const change of changes) {
      const row = rows[Number(/** @type {HTMLElement} */ (change.target).dataset.image)];
      if (!row || row.element !== change.target) continue;
      row.near = change.isIntersecting;
      if (row.near) fill(row);
      else empty(row);
    }
  },
  { rootMargin: "800px 0px" },
);

/** Make the rows of the current model anew. */
function buildGrid() {
  watcher.disconnect();
  const { columns, shown: [height, width], tiny } = model();
  grid.style.setProperty("--methods", String(columns.length));
  grid.style.setProperty("--ratio", `${width} / ${height}`);
  grid.classList.toggle("tiny", tiny);
  grid.setAttribute("aria-colcount", String(columns.length + 1));
  const head = h("div", { class: "row", role: "row", "aria-rowindex": 1 }, h("div", { role: "columnheader" }, "Image"));
  const explain = h("div", { class: "row explain", role: "row", "aria-rowindex": 2 }, h("div", { role: "rowheader" }, "What it shows"));
  for (const column of columns) {
    head.append(
      h("div", { role: "columnheader", title: `${column.method}: ${column.summary}` }, h("span", { class: "head-name" }, column.method), h("span", { class: `scale scale-${column.scale}` })),
    );
    explain.append(
      h("div", { role: "gridcell" }, h("span", { class: `scale scale-${column.scale}` }), h("span", { class: "explain-name" }, `${column.method}: `), column.summary),
    );
  }
  rows = data.images.map((_, image) => buildRow(image));
  grid.replaceChildren(h("div", { class: "head", role: "rowgroup" }, head), h("div", { role: "rowgroup" }, explain), h("div", { id: "rows", role: "rowgroup" }));
  measure();
}

/** @param {number} image @returns {Row} */
function buildRow(image) {
  const entry = model().entries[image];
  const photo = h("button", { class: "tile", type: "button", tabindex: -1, "data-column": 0 });
  const subject = h("div", { class: "subject", role: "rowheader" }, photo, describe(image, entry));
  const element = h("div", { class: "row image", role: "row", "data-image": image }, subject);
  photo.setAttribute("aria-label", `Photo ${data.images[image].id}`);
  return { image, element, tiles: [photo], near: false };
}

/** Prediction, truth and name of an image in words. @param {number} image @param {Entry} entry */
function describe(image, entry) {
  const box = h("div", { class: "says" });
  const how = verdict(entry);
  if (entry.predicted !== undefined) {
    const marks = { right: "right", wrong: "wrong" };
    const mark = how === "right" || how === "wrong" ? h("span", { class: `mark mark-${how}` }, icon(how), marks[how]) : null;
    const bar = h("span", { class: `bar bar-${how}`, "aria-hidden": "true" }, h("span", { style: `width:${100 * (entry.chance || 0)}%` }));
    box.append(
      h("span", { class: "said", title: className(entry.predicted) }, shortName(entry.predicted)),
      h("span", { class: "verdict" }, mark, h("span", {}, entry.chanceText)),
      bar,
    );
    const maps = Object.values(entry.maps).flat();
    const targets = new Set(maps.map((m) => m.target));
    if (how === "wrong" && entry.label !== undefined) box.append(h("span", { class: "truth", title: className(entry.label) }, h("span", { class: "soft" }, "is "), shortName(entry.label)));
    else if (how === "unlabelled" && data.images[image].said) box.append(h("span", { class: "truth" }, h("span", { class: "soft" }, "labelled "), data.images[image].said));
    if (targets.size === 1 && !targets.has(entry.predicted) && !targets.has(entry.label ?? -1)) {
      const [target] = targets;
      box.append(h("span", { class: "truth" }, h("span", { class: "soft" }, "maps for "), shortName(target)));
    }
  }
  if (entry.failures) box.append(h("span", { class: "verdict" }, h("span", { class: "mark mark-failed" }, icon("failed"), failedWords(entry))));
  else if (how === "pending") box.append(h("span", { class: "soft" }, "not explained yet"));
  box.append(h("span", { class: "name", title: data.images[image].id }, data.images[image].id));
  return box;
}

/** @param {Entry} entry */
function failedWords(entry) {
  const failures = entry.failures || [];
  const whole = failures.find(([method]) => method === null);
  if (whole) return whole[1];
  return `${failures.length === 1 ? failures[0][0] : `${failures.length} methods`} failed`;
}

/** The words for a picture that is not there. @param {string} text @param {boolean} failed */
const lost = (text, failed) => h("span", { class: failed ? "lost lost-wrong" : "lost" }, icon("failed"), text);

/** Why a map is not there, in few words. @param {number} image @param {number} column @returns {[string, string, boolean]} */
function whyNoMap(image, column) {
  const entry = model().entries[image];
  const about = model().columns[column];
  const failure = (entry.failures || []).find(([method]) => method === null || method === about.method);
  if (failure) return [failure[1], failure[2], true];
  if (about.damaged) return ["stored map damaged", about.damaged, true];
  if ((entry.maps[column] || []).length) return ["no map for this class", "The maps of this image are for other classes.", false];
  return ["not computed", "This map was not computed yet.", false];
}

/** @param {number} image @param {number} column @param {MapInfo} map */
const mapWords = (image, column, map) => `${model().columns[column].method} map of ${data.images[image].id} for ${className(map.target)}`;

/** @param {number} image */
function photoWords(image) {
  const entry = model().entries[image];
  const seen = entry.predicted === undefined ? "" : `, predicted ${className(entry.predicted)}, ${entry.chanceText}`;
  const truth = entry.label === undefined ? "" : `, true class ${className(entry.label)}`;
  return `Photo ${data.images[image].id}${seen}${truth}`;
}

/** Put the cells and their pictures into a row. @param {Row} row */
function fill(row) {
  const { columns } = model();
  if (row.tiles.length === 1 && columns.length) {
    for (let c = 0; c < columns.length; c += 1) {
      const tile = h("button", { class: "tile", type: "button", tabindex: -1, "data-column": c + 1, "aria-label": `${columns[c].method} map of ${data.images[row.image].id}` });
      row.tiles.push(tile);
      row.element.append(h("div", { role: "gridcell" }, tile, h("span", { class: "tile-name", "aria-hidden": "true" }, columns[c].method)));
    }
  }
  const current = rows;
  loadImage(row.image).then(() => {
    if (current === rows && row.near) draw(row);
  });
}

/** @param {Row} row */
function draw(row) {
  const { image, tiles } = row;
  const photo = source(photoKey(image));
  const why = data.missing[photoKey(image)];
  const [first, ...others] = tiles;
  first.setAttribute("aria-label", why ? `${photoWords(image)}: ${why}` : photoWords(image));
  first.title = why || "";
  first.replaceChildren(photo ? h("img", { src: photo, alt: "", decoding: "async" }) : lost("no photo", false));
  others.forEach((tile, c) => {
    const map = chosen(image, c);
    const picture = map && source(mapKey(image, c, map.target));
    const { scale } = model().columns[c];
    tile.className = `tile on-${scale}`;
    if (!map || !picture) {
      const [text, message, failed] = map ? /** @type {[string, string, boolean]} */ (["picture missing", "The script with this picture is not beside the page.", false]) : whyNoMap(image, c);
      tile.title = message;
      tile.setAttribute("aria-label", `${model().columns[c].method} map of ${data.images[image].id}: ${text}`);
      tile.replaceChildren(lost(text, failed));
      return;
    }
    tile.title = "";
    tile.setAttribute("aria-label", mapWords(image, c, map));
    tile.replaceChildren(
      ...(photo && state.view === "over" ? [h("img", { class: "under", src: photo, alt: "", decoding: "async" })] : []),
      h("img", { class: photo ? `top-${scale}` : "", src: picture, alt: mapWords(image, c, map), decoding: "async" }),
      ...(map.target === model().entries[image].predicted ? [] : [h("span", { class: "tile-class" }, shortName(map.target))]),
    );
  });
}

/** Let the pictures of a row far away go. @param {Row} row */
function empty(row) {
  if (row.image === here.image && row.element.contains(document.activeElement)) return;
  for (const tile of row.tiles) for (const picture of tile.querySelectorAll("img")) picture.remove();
}

/** Show the images that fit, in order. */
function arrange() {
  shown = selection();
  const body = byId("rows");
  body.replaceChildren(...shown.map((image) => rows[image].element));
  shown.forEach((image, i) => rows[image].element.setAttribute("aria-rowindex", String(i + 3)));
  grid.setAttribute("aria-rowcount", String(shown.length + 2));
  watcher.disconnect();
  for (const image of shown) watcher.observe(rows[image].element);
  grid.hidden = !shown.length;
  byId("nothing").hidden = Boolean(shown.length);
  byId("count").textContent = `${shown.length} of ${data.images.length}`;
  if (!shown.includes(here.image)) move(shown.length ? shown[0] : -1, 0, false);
  else move(here.image, here.column, false);
}

/** Draw the rows near the screen again. */
function redraw() {
  for (const row of rows) if (row.near) draw(row);
}

/**
 * Move the grid's one tab stop. @param {number} image @param {number} column @param {boolean} focus
 */
function move(image, column, focus) {
  const before = rows[here.image];
  if (before) for (const tile of before.tiles) tile.tabIndex = -1;
  here.image = image;
  here.column = column;
  const row = rows[image];
  if (!row) return;
  if (focus && row.tiles.length === 1) {
    row.near = true;
    fill(row);
  }
  const tile = row.tiles[Math.min(column, row.tiles.length - 1)];
  tile.tabIndex = 0;
  if (!focus) return;
  tile.focus({ preventScroll: true });
  tile.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
}

/** @param {KeyboardEvent} event */
function gridKey(event) {
  const at = shown.indexOf(here.image);
  if (at < 0 || event.altKey || event.metaKey) return;
  const last = model().columns.length;
  const far = event.ctrlKey;
  /** @type {Object<string, [number, number]>} */
  const moves = {
    ArrowUp: [at - 1, here.column],
    ArrowDown: [at + 1, here.column],
    ArrowLeft: [at, here.column - 1],
    ArrowRight: [at, here.column + 1],
    Home: [far ? 0 : at, 0],
    End: [far ? shown.length - 1 : at, far ? 0 : last],
  };
  const to = moves[event.key];
  if (!to) return;
  event.preventDefault();
  move(shown[Math.max(0, Math.min(shown.length - 1, to[0]))], Math.max(0, Math.min(last, to[1])), true);
}

/** Columns side by side where they fit, below the image where they do not. */
function measure() {
  const needed = 136 + (model().columns.length + 1) * 100;
  grid.classList.toggle("stacked", grid.parentElement.clientWidth < needed);
  const bar = byId("toolbar");
  const sticky = getComputedStyle(bar).position === "sticky";
  grid.style.setProperty("--below", sticky ? `${bar.offsetHeight}px` : "0px");
}
