// @ts-check
// The page of an audit: galleries fill as they come into view, and an image opens to its maps under every condition.

/**
 * @typedef {{title: string, statistic: string, conditions: string[], models: [string, number][], images: number[]}} Gallery
 * @typedef {{files: string[], ratio: number, scale: string, groups: string[], places: Object<string, number>,
 *   ids: Object<string, string>, galleries: Object<string, Gallery>}} BehaviourPayload
 */

/** @type {BehaviourPayload} */
const data = JSON.parse(byId("payload").textContent);

/** What a sidecar brought as JSON. @param {string} key */
function known(key) {
  const found = pictures.get(key);
  return found ? JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(found), (c) => c.charCodeAt(0)))) : null;
}

/** A cell of a strip of small maps, as a background. @param {string | null} strip @param {number} cell @param {number} cells */
const cellStyle = (strip, cell, cells) =>
  strip ? `background-image:url("${strip}");background-size:${100 * cells}% 100%;background-position:${cells > 1 ? (100 * cell) / (cells - 1) : 0}% 0` : "";

// ------------------------------------------------------------------ galleries

/** @param {HTMLElement} tile */
async function fill(tile) {
  const { open: image, measure, model, other, cell } = tile.dataset;
  await load(Number(tile.dataset.place));
  const gallery = data.galleries[measure || ""];
  const strips = [model, other].map((m) => source(`s${image}.${measure}.${m}`));
  const photo = source(`p${image}`);
  const frame = tile.querySelector(".extreme-photo");
  if (frame && photo) frame.replaceChildren(h("img", { src: photo, alt: "" }));
  else if (frame) frame.textContent = "no photo";
  tile.querySelectorAll(".extreme-map").forEach((map, k) => {
    /** @type {HTMLElement} */ (map).style.cssText = cellStyle(strips[k], k ? Number(cell) : 0, gallery.conditions.length);
  });
}

const near = new IntersectionObserver(
  (seen) => {
    for (const one of seen) {
      if (!one.isIntersecting) continue;
      near.unobserve(one.target);
      fill(/** @type {HTMLElement} */ (one.target));
    }
  },
  { rootMargin: "500px" },
);

document.documentElement.style.setProperty("--ratio", String(data.ratio));
for (const tile of document.querySelectorAll(".extreme")) near.observe(tile);

// ------------------------------------------------------------------ the large view

const large = byId("large");
/** @type {{measure: string, image: number}} */
const shown = { measure: "", image: -1 };

/** @param {string} measure @param {number} image */
async function show(measure, image) {
  Object.assign(shown, { measure, image });
  const gallery = data.galleries[measure];
  const at = gallery.images.indexOf(image);
  byId("large-title").textContent = data.ids[String(image)];
  byId("large-about").textContent = `${gallery.title}: ${at + 1} of ${gallery.images.length}. Numbers: ${gallery.statistic}.`;
  byId("large-before").disabled = at <= 0;
  byId("large-next").disabled = at >= gallery.images.length - 1;
  await load(data.places[String(image)] || 0);
  if (shown.measure !== measure || shown.image !== image) return;
  const table = known(`n${image}.${measure}`);
  const body = byId("large-body");
  body.scrollTop = 0;
  if (!table) {
    body.replaceChildren(h("p", { class: "empty" }, "The script with this image is not beside the page."));
    return;
  }
  const photo = source(`p${image}`);
  const why = known(`w${image}`) || "There is no photo.";
  body.replaceChildren(
    h("figure", { class: "large-photo" }, photo ? h("img", { src: photo, alt: `Photo of ${data.ids[String(image)]}` }) : h("p", { class: "no-figure" }, why), h("figcaption", {}, "the image, unchanged")),
    h("div", { class: "large-runs" },
      h("p", { class: "more" }, gallery.conditions.length > 1 ? "Maps of the changed images, as they lie there: under a flip or a turn they should be flipped or turned." : "Maps of the unchanged image.", h("span", { class: `scale scale-${data.scale}`, "aria-hidden": "true" })),
      ...gallery.models.map(([name, group], m) => run(gallery, name, group, source(`s${image}.${measure}.${m}`), table[m])),
    ),
  );
}

/** @param {Gallery} gallery @param {string} name @param {number} group @param {string | null} strip @param {(number | null)[]} values */
function run(gallery, name, group, strip, values) {
  const found = values.map((v, k) => /** @type {[number | null, number]} */ ([v, k])).filter(([v]) => v !== null);
  const low = found.length > 1 ? Math.min(...found.map(([v]) => Number(v))) : null;
  const text = (/** @type {number | null} */ v) => (v === null ? "" : v.toFixed(2).replace("-", "−"));
  return h("section", { "aria-label": `Maps of ${name}` },
    h("h3", {}, name, h("span", { class: "tag" }, data.groups[group])),
    h("ol", { class: "large-maps" },
      ...gallery.conditions.map((condition, k) =>
        h("li", { class: values[k] !== null && values[k] === low ? "is-worst" : "" },
          h("span", { class: "large-map", style: cellStyle(strip, k, gallery.conditions.length), "aria-hidden": "true" }),
          h("span", {}, condition),
          h("b", {}, text(values[k]))))));
}

/** @param {number} step */
function turn(step) {
  const { images } = data.galleries[shown.measure];
  const next = images[images.indexOf(shown.image) + step];
  if (next !== undefined) show(shown.measure, next);
}

if (large) {
  byId("large-close").addEventListener("click", () => large.close());
  byId("large-before").addEventListener("click", () => turn(-1));
  byId("large-next").addEventListener("click", () => turn(1));
  large.addEventListener("click", (/** @type {MouseEvent} */ event) => event.target === large && large.close());
  large.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    turn(event.key === "ArrowLeft" ? -1 : 1);
  });
}

document.addEventListener("click", (event) => {
  const tile = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest(".extreme"));
  if (!tile) return;
  large.showModal();
  byId("large-title").focus();
  show(tile.dataset.measure || "", Number(tile.dataset.open));
});
