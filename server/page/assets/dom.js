// Elements: how they are made, found and copied from. Text becomes text nodes; HTML is parsed in markdown.js alone.

export const $ = (id) => document.getElementById(id);

/** An element. Attributes that are properties are set as such, so `onclick` takes a function; false and null are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** One of the symbols at the top of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", "#icon-" + name);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A small button with words. */
export const button = (text, onclick, attributes = {}) =>
  element("button", { type: "button", className: "small", onclick, ...attributes }, text);

/** A button that copies what `text()` gives, and says so. */
export function copyButton(text, label = null) {
  const made = button("Copy", () => copy(made, text()));
  if (label) made.setAttribute("aria-label", label);
  return made;
}

/** Copies, and shows on the button for a moment whether it worked. */
export async function copy(shown, text) {
  const isCopied = navigator.clipboard ? await navigator.clipboard.writeText(text).then(() => true, () => false) : copySelection(text);
  shown.textContent = isCopied ? "Copied" : "Not allowed";
  setTimeout(() => { shown.textContent = "Copy"; }, 1500);
}

/** The old way: browsers give pages of plain http hosts no clipboard. */
function copySelection(text) {
  const box = element("textarea", { className: "unseen", value: text }), focused = document.activeElement;
  document.body.append(box);
  box.select();
  const isCopied = document.execCommand("copy");
  box.remove();
  focused?.focus();
  return isCopied;
}

/** Tells a screen reader, and nobody else. */
export function announce(text) { $("status").textContent = text; }

/** A line above the message box; with `action` (label, function) a button, for as long as it is there. */
let hiding = 0;
export function toast(text, action = null) {
  clearTimeout(hiding);
  const hide = () => { $("toast").hidden = true; $("toast").replaceChildren(); };
  const act = action && button(action[0], () => { hide(); action[1](); });
  $("toast").replaceChildren(element("span", {}, text), act ?? "", element("button", { type: "button", className: "round", ariaLabel: "Close this note", onclick: hide }, icon("close")));
  $("toast").hidden = false;
  hiding = setTimeout(hide, 12000);
}

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
