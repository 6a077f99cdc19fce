// @ts-check
// What every page does: it moves to a place, keeps its choices in its address, and hands out its command.

/** Bring a place into view, and the keyboard to it. @param {HTMLElement} place */
function goTo(place) {
  place.scrollIntoView();
  if (!place.hasAttribute("tabindex")) place.tabIndex = -1;
  place.focus({ preventScroll: true });
}

/** Write choices into the address, without a step in the history. @param {URLSearchParams} parts */
function setAddress(parts) {
  const hash = parts.toString();
  if (hash !== location.hash.slice(1)) history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

async function copyCommand() {
  const said = byId("copy").querySelector("[aria-live]");
  try {
    await navigator.clipboard.writeText(byId("command").textContent);
    said.textContent = "Copied";
  } catch {
    getSelection()?.selectAllChildren(byId("command"));
    said.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
  setTimeout(() => (said.textContent = "Copy"), 2000);
}

if (byId("copy")) byId("copy").addEventListener("click", copyCommand);
