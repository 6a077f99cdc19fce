// Pictures come with the page, or from scripts beside it that are loaded when their images come near.

const KEPT_SIDECARS = 40;

/** @type {Map<string, string>} */
const pictures = new Map(Object.entries(JSON.parse(byId("pictures").textContent)));
byId("pictures").remove();

/** @type {Map<number, {keys: string[], loaded: Promise<void>, done: () => void, script: HTMLScriptElement}>} */
const sidecars = new Map();

/** Called by every sidecar with its number and its pictures. */
/** @type {any} */ (window).salienceTake = (/** @type {number} */ number, /** @type {Object<string, string>} */ found) => {
  const sidecar = sidecars.get(number);
  if (!sidecar) return;
  for (const [key, value] of Object.entries(found)) pictures.set(key, value);
  sidecar.keys = Object.keys(found);
  sidecar.done();
};

/**
 * Load a sidecar; 0 is the page itself. Those not used for long leave memory again.
 * @param {number} number
 * @returns {Promise<void>}
 */
function load(number) {
  if (!number) return Promise.resolve();
  const known = sidecars.get(number);
  if (known) {
    sidecars.delete(number);
    sidecars.set(number, known);
    return known.loaded;
  }
  const script = document.createElement("script");
  script.src = data.files[number - 1];
  /** @type {any} */
  const sidecar = { keys: [], script };
  sidecar.loaded = new Promise((resolve) => {
    sidecar.done = resolve;
    script.onerror = resolve;
  });
  sidecars.set(number, sidecar);
  document.head.append(script);
  for (const [old, other] of sidecars) {
    if (sidecars.size <= KEPT_SIDECARS) break;
    if (!other.keys.length) continue;
    for (const key of other.keys) pictures.delete(key);
    other.script.remove();
    sidecars.delete(old);
  }
  return sidecar.loaded;
}

/** @param {string} key @returns {string | null} */
function source(key) {
  const found = pictures.get(key);
  return found ? `data:image/webp;base64,${found}` : null;
}
