// @ts-check
/**
 * @typedef {{target: number, score: string, range: [string, string], notes: [string, string, string][], gap?: number, curve?: {of: string, points: [number, number][]}}} MapInfo
 * @typedef {[string | null, string, string]} FailureInfo  method, what, message
 * @typedef {{maps: Object<string, MapInfo[]>, place: number, predicted?: number, chance?: number, chanceText?: string,
 *   top?: [number, number, string][], label?: number, dropped?: number, failures?: FailureInfo[]}} Entry
 * @typedef {{method: string, summary: string, scale: "sequential" | "diverging", grid: [number, number],
 *   enlarged: boolean, rule: string, output: string, damaged?: string}} Column
 * @typedef {{name: string, geometry: number, size: [number, number], shown: [number, number], tiny: boolean,
 *   classes: Object<string, [string, string]>, columns: Column[], entries: Entry[]}} Model
 * @typedef {{images: {id: string, said: string | null}[], models: Model[], missing: Object<string, string>,
 *   files: string[]}} Payload
 * @typedef {{model: number, outcome: string, cls: string, q: string, sort: string, target: string, view: string,
 *   image: string, method: string}} State
 */

/** @type {Payload} */
const data = JSON.parse(byId("payload").textContent);

/** @type {State} */
const DEFAULTS = { model: 0, outcome: "all", cls: "", q: "", sort: "", target: "predicted", view: "map", image: "", method: "" };

/** @type {State} */
const state = { ...DEFAULTS };

const model = () => data.models[state.model];

/** @param {number} index @param {Model} [of] */
const className = (index, of = model()) => (of.classes[index] || [`class ${index}`])[0];

/** @param {number} index @param {Model} [of] */
const shortName = (index, of = model()) => (of.classes[index] || ["", `class ${index}`])[1];
