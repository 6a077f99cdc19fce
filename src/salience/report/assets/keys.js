// How the pictures of explained images are called, and which an image needs.

/** @param {number} image @param {Model} [of] */
const photoKey = (image, of = model()) => `p${of.geometry}.${image}`;

/** @param {number} image @param {number} column @param {number} target */
const mapKey = (image, column, target) => `m${state.model}.${image}.${column}.${target}`;

/** Load what an image needs in the current model. @param {number} image */
function loadImage(image) {
  const places = new Set([model().entries[image].place, data.models[model().geometry].entries[image].place]);
  return Promise.all([...places].map(load));
}
