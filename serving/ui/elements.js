// Elements of the page: found, made, and kept in the right state while a job is under way.

/** The element with an id. */
export const $ = (id) => document.getElementById(id);

/** An element with properties. */
export function make(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

/**
 * Shows whether a job is under way. The start button can keep the focus: it is aria-disabled, not disabled.
 * A cancel button that goes away gives its focus to `next`.
 */
export function showBusy(isBusy, { start, cancel, next = start }) {
  start.ariaDisabled = String(isBusy);
  if (!isBusy && document.activeElement === cancel) next.focus({ preventScroll: true });
  cancel.hidden = !isBusy;
}

/** Scrolls to an element unless the whole of it is in view. */
export function reveal(element) {
  const { top, bottom } = element.getBoundingClientRect();
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (top < 0 || bottom > innerHeight) element.scrollIntoView({ block: "start", behavior: isStill ? "instant" : "smooth" });
}

/** Buttons under a picture of an answer: one saves it, one takes it to Draw. */
export function pictureActions(url, name, onEdit) {
  const row = make("div", { className: "actions" });
  const edit = make("button", { type: "button", textContent: "Edit" });
  edit.addEventListener("click", () => onEdit(url));
  row.append(make("a", { className: "button", href: url, download: `${name}.png`, textContent: "Save" }), edit);
  return row;
}

/** A list item for each warning of the server's. */
export function warningItems(warnings = []) {
  return warnings.map((text) => make("li", { textContent: text }));
}
