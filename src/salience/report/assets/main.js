// Controls, keys, and the beginning.

/** Set every control to what the state says. */
function syncControls() {
  byId("search").value = state.q;
  byId("sort").value = state.sort;
  byId("class").value = state.cls;
  const target = byId("target");
  if (target) target.value = [...target.options].some((o) => o.value === state.target) ? state.target : "";
  if (byId("which")) byId("which").value = String(state.model);
  for (const [name, value] of [["outcome", state.outcome], ["view", state.view], ["model", String(state.model)]]) {
    for (const input of document.querySelectorAll(`input[name="${name}"]`)) {
      const radio = /** @type {HTMLInputElement} */ (input);
      radio.checked = radio.value === value;
    }
  }
  grid.classList.toggle("over", state.view === "over");
}

/** Count what each choice would show, and list the classes that occur. */
function countChoices() {
  const counted = data.images.map((_, i) => i).filter((i) => fits(i, true));
  for (const place of document.querySelectorAll("[data-count]")) {
    const outcome = /** @type {HTMLElement} */ (place).dataset.count || "all";
    place.textContent = String(counted.filter((i) => hasOutcome(model().entries[i], outcome)).length);
  }
}

function listClasses() {
  /** @type {Map<number, number>} */
  const found = new Map();
  for (const entry of model().entries) {
    for (const index of new Set([entry.predicted, entry.label])) if (index !== undefined) found.set(index, (found.get(index) || 0) + 1);
  }
  const order = [...found].sort((a, b) => shortName(a[0]).localeCompare(shortName(b[0])));
  byId("class").replaceChildren(h("option", { value: "" }, "All classes"), ...order.map(([index, count]) => h("option", { value: index }, `${shortName(index)} (${count})`)));
  const target = byId("target");
  if (!target) return;
  const explained = [...new Set(model().entries.flatMap((e) => Object.values(e.maps).flatMap((maps) => maps.map((m) => m.target))))].sort((a, b) => a - b);
  target.replaceChildren(
    h("option", { value: "predicted" }, "Maps for the predicted class"),
    ...(model().entries.some((e) => e.label !== undefined) ? [h("option", { value: "label" }, "Maps for the true class")] : []),
    ...explained.slice(0, 200).map((index) => h("option", { value: index }, `Maps for ${shortName(index)}`)),
  );
}

/** Bring the page to the state. @param {boolean} [rebuild] */
function update(rebuild = false) {
  if (rebuild) {
    for (const part of document.querySelectorAll("[data-model]")) {
      const card = /** @type {HTMLElement} */ (part);
      card.hidden = card.dataset.model !== String(state.model);
    }
    listClasses();
    buildGrid();
  }
  syncControls();
  countChoices();
  arrange();
  writeAddress();
}

/** Show another model; the large view keeps its image and, where there is one of its name, its method. @param {number} index */
function switchModel(index) {
  const method = large.open ? model().columns[looked.column].method : "";
  state.model = index;
  state.cls = "";
  update(true);
  if (!large.open) return;
  looked.column = Math.max(0, model().columns.findIndex((c) => c.method === method));
  showLarge();
}

function openFromAddress() {
  const image = data.images.findIndex((i) => i.id === state.image);
  if (state.image && image >= 0) openLarge(image, Math.max(0, model().columns.findIndex((c) => c.method === state.method)));
}

function listen() {
  const search = byId("search");
  search.addEventListener("input", () => {
    state.q = search.value.trim();
    update();
  });
  for (const [id, key] of [["class", "cls"], ["sort", "sort"], ["target", "target"]]) {
    const select = byId(id);
    if (!select) continue;
    select.addEventListener("change", () => {
      /** @type {any} */ (state)[key] = select.value;
      update();
      redraw();
    });
  }
  document.addEventListener("change", (event) => {
    const input = /** @type {HTMLInputElement} */ (event.target);
    if (input.name === "outcome") state.outcome = input.value;
    else if (input.name === "view") state.view = input.value;
    else if (input.name === "model" || input.id === "which") {
      switchModel(Number(input.value));
      return;
    } else return;
    update();
    redraw();
  });
  byId("toolbar").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
  byId("reset").addEventListener("click", () => {
    Object.assign(state, { outcome: "all", cls: "", q: "" });
    update();
    search.focus();
  });
  document.addEventListener("click", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    const link = /** @type {HTMLAnchorElement | null} */ (target.closest('a[href^="#"]'));
    if (link) {
      const place = byId(link.hash.slice(1));
      if (place) {
        event.preventDefault();
        goTo(place);
      }
    }
    const often = /** @type {HTMLElement | null} */ (target.closest("[data-class]"));
    if (often) {
      state.cls = often.dataset.class || "";
      update();
      goTo(byId("maps"));
    }
  });
  grid.addEventListener("click", (/** @type {Event} */ event) => {
    const tile = /** @type {HTMLElement} */ (event.target).closest(".tile");
    if (!tile) return;
    const image = Number(/** @type {HTMLElement} */ (tile.closest(".image")).dataset.image);
    const column = Number(/** @type {HTMLElement} */ (tile).dataset.column);
    move(image, column, false);
    openLarge(image, column - 1);
  });
  grid.addEventListener("focusin", (/** @type {Event} */ event) => {
    const tile = /** @type {HTMLElement} */ (event.target).closest(".tile");
    if (!tile) return;
    const image = Number(/** @type {HTMLElement} */ (tile.closest(".image")).dataset.image);
    const column = Number(/** @type {HTMLElement} */ (tile).dataset.column);
    if (image !== here.image || column !== here.column) move(image, column, false);
  });
  grid.addEventListener("keydown", gridKey);
  listenLarge();
  document.addEventListener("keydown", pageKey);
  window.addEventListener("hashchange", () => {
    if (!readAddress()) return;
    update(true);
    if (state.image) openFromAddress();
    else if (large.open) large.close();
  });
  window.addEventListener("beforeprint", () => {
    for (const image of shown.slice(0, 200)) {
      rows[image].near = true;
      fill(rows[image]);
      if (!model().entries[image].place) draw(rows[image]);
    }
  });
  new ResizeObserver(measure).observe(byId("maps"));
}

function listenLarge() {
  byId("before").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("close").addEventListener("click", () => large.close());
  byId("opacity").addEventListener("input", mix);
  large.addEventListener("keydown", largeKey);
  large.addEventListener("close", closedLarge);
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
  }
  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => save(/** @type {HTMLElement} */ (button).dataset.save || ""));
  }
}

/** @param {KeyboardEvent} event */
function pageKey(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const typing = target.matches("select, textarea, input:not([type=radio], [type=checkbox], [type=range])");
  if (typing || event.ctrlKey || event.altKey || event.metaKey || !byId("single-keys").checked) return;
  if (event.key === "?") byId("keys").showModal();
  else if (event.key === "m" && data.models.length > 1) switchModel((state.model + 1) % data.models.length);
  else if (document.querySelector("dialog[open]") || !data.models.length) return;
  else if (event.key === "/") byId("search").focus();
  else if (event.key === "o") {
    state.view = state.view === "over" ? "map" : "over";
    update();
    redraw();
  } else return;
  event.preventDefault();
}

byId("keys-button").addEventListener("click", () => byId("keys").showModal());
byId("keys-close").addEventListener("click", () => byId("keys").close());

if (data.models.length && data.images.length) {
  listen();
  readAddress();
  update(true);
  openFromAddress();
}
