// The settings as a form: each field with what is wrong with it beside it.

import { $, element } from "./dom.js";
import * as settings from "./settings.js";
import { key } from "./store.js";

const input = (name) => $("settings-form").elements[name];

export function makeForm(changed) {
  for (const [name, field] of Object.entries(settings.FIELDS)) $("settings-" + (field.isLong ? name : "pairs")).append(row(name, field, changed));
  input("stops_repeating").onchange = (event) => settings.set("stops_repeating", event.target.checked);
  input("key").oninput = (event) => key.set(event.target.value.trim());
  $("settings-form").onsubmit = (event) => { event.preventDefault(); close(); };
  $("close-settings").onclick = close;
  $("settings").onclick = (event) => { if (event.target === $("settings")) close(); };
  $("settings").onclose = changed;
  $("defaults").onclick = () => { settings.reset(); fill(); };
}

/** A label, the field, and below it what is wrong. */
function row(name, field, changed) {
  const hint = element("small", { id: `hint-${name}` }, field.hint);
  const wrong = element("span", { id: `wrong-${name}`, className: "wrong", role: "alert" });
  const made = element(field.isLong ? "textarea" : "input", { id: `set-${name}`, name, autocomplete: "off", spellcheck: name === "system", "aria-describedby": `hint-${name} wrong-${name}` });
  if (field.isLong && name !== "system") made.classList.add("mono");
  if (name === "tool_choice") made.setAttribute("list", "tool-choices");
  made.oninput = () => {
    settings.set(name, made.value);
    showProblems();
    changed();
  };
  return element("div", { className: "field" }, element("label", { htmlFor: `set-${name}` }, field.label), hint, made, wrong);
}

function showProblems() {
  for (const name of Object.keys(settings.FIELDS)) showProblem(name, settings.reason(name));
  $("tool-choices").replaceChildren(...["auto", "none", "required", ...settings.toolNames()].map((value) => element("option", { value })));
}

function showProblem(name, reason) {
  if ($(`wrong-${name}`).textContent !== reason) $(`wrong-${name}`).textContent = reason;
  input(name).setAttribute("aria-invalid", String(Boolean(reason)));
}

function fill() {
  for (const name of Object.keys(settings.FIELDS)) {
    input(name).value = settings.text(name);
    input(name).placeholder = settings.placeholder(name);
  }
  input("stops_repeating").checked = settings.stopsRepeating();
  input("key").value = key.get();
  showProblems();
}

/** Opens the settings; at a field, and with what the server said about it, where there is such a thing. */
export function open(name = null, said = "") {
  if ($("settings").open) return;
  fill();
  $("settings").showModal();
  if (!name) return;
  if (said && name in settings.FIELDS) showProblem(name, said);
  input(name).focus();
  input(name).scrollIntoView({ block: "center" });
}

export function askForKey(said) {
  $("key-row").hidden = false;
  $("key-said").textContent = said;
  open("key");
}

function close() { $("settings").close(); }
