// One message on the screen: its text, its reasoning, its calls, what came of it, and what can be done with it.

import { button, copyButton, count, element } from "./dom.js";
import { colouredJson, MarkdownView } from "./markdown.js";

/** The element of a message. `actions`: what the conversation does when asked, see chat.js. */
export function messageView(message, at, actions) {
  if (message.role === "user") return userView(message, at, actions);
  if (message.role === "tool") return toolView(message, at, actions);
  const view = new AnswerView(message, at, actions);
  view.finish();
  return view.element;
}

function userView(message, at, actions) {
  const made = element("article", { className: "user", ariaLabel: "Your message" }, element("div", { className: "bubble" }, message.content));
  made.append(element("div", { className: "foot" },
    button("Edit", () => edit(made, message.content, "Send", (text) => actions.replace(at, text), () => actions.redraw(at)), { className: "small edit" }),
    button("Retry", () => actions.replace(at, message.content), { className: "small again" }),
    copyButton(() => message.content, "Copy your message")));
  return made;
}

function toolView(message, at, actions) {
  const made = element("article", { className: "result", ariaLabel: `Result of ${message.name}` },
    element("div", { className: "block-title" }, "Result of ", element("code", {}, message.name)), element("pre", { tabIndex: 0 }, message.content));
  made.append(element("div", { className: "foot" },
    button("Edit", () => edit(made, message.content, "Send", (text) => actions.replace(at, text), () => actions.redraw(at)), { className: "small edit" })));
  return made;
}

/** Puts a form in the place of a message. Escape leaves it as it was. */
function edit(shown, text, verb, done, cancel) {
  const box = element("textarea", { value: text, ariaLabel: "Edit the message", rows: Math.min(12, text.split("\n").length + 1) });
  const submit = () => done(box.value.trim());
  const form = element("form", { className: "editor" }, box, element("div", { className: "foot" },
    element("button", { className: "wide done" }, verb), element("button", { type: "button", className: "wide", onclick: cancel }, "Cancel")));
  form.onsubmit = (event) => { event.preventDefault(); if (box.value.trim()) submit(); };
  box.onkeydown = (event) => {
    if (event.key === "Escape") { event.stopPropagation(); cancel(); }
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  };
  shown.replaceChildren(form);
  box.focus();
  box.setSelectionRange(text.length, text.length);
}

/** An answer, whole or while it is being written. */
export class AnswerView {
  #frame = 0;
  #drawnAt = 0;
  #cost = 0;
  #textDrawn = 0; // characters of the content that the Markdown has

  constructor(message, at, actions) {
    Object.assign(this, { message, at, actions });
    this.thinking = element("details", { className: "block thinking", hidden: true }, element("summary", {}, "Reasoning"), element("div"));
    this.text = element("div", { className: "text" });
    this.calls = element("div", { className: "calls" });
    this.notes = element("div", { className: "notes" });
    this.foot = element("div", { className: "foot" });
    this.element = element("article", { className: "assistant", ariaLabel: "Answer" }, asked(message), this.thinking, this.text, this.calls, this.notes, this.foot);
    this.markdown = new MarkdownView(this.text);
  }

  begin() {
    this.element.classList.add("busy");
    this.#drawGrowing(); // an answer that goes on has a beginning
  }

  /** Draws soon: at most once a frame, and no more than a quarter of the time. `drawn` is told after. */
  schedule(stats, before, after) {
    if (this.#frame) return;
    const draw = (now) => {
      if (now - this.#drawnAt < 3 * this.#cost) { this.#frame = requestAnimationFrame(draw); return; }
      this.#frame = 0;
      const state = before(), began = performance.now();
      this.#drawGrowing();
      this.foot.replaceChildren(element("span", { className: "stats" }, stats()));
      after(state);
      this.#drawnAt = performance.now();
      this.#cost = this.#drawnAt - began;
    };
    this.#frame = requestAnimationFrame(draw);
  }

  #drawGrowing() {
    this.#drawThinking();
    this.markdown.append(this.message.content.slice(this.#textDrawn));
    this.#textDrawn = this.message.content.length;
    this.markdown.draw();
    this.#drawCalls(false);
  }

  /** Draws the message as it is now, for good. */
  finish() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.element.classList.remove("busy");
    this.#drawThinking();
    this.markdown.finish(this.message.content);
    this.#drawCalls(true);
    this.notes.replaceChildren(...notes(this.message, this.at, this.actions));
    this.foot.replaceChildren(...this.#buttons());
  }

  #drawThinking() {
    const { reasoning } = this.message;
    this.thinking.hidden = !reasoning;
    if (!reasoning) return;
    const box = this.thinking.lastChild, text = box.firstChild;
    if (text && reasoning.startsWith(text.data)) text.appendData(reasoning.slice(text.length));
    else box.textContent = reasoning;
  }

  #drawCalls(isWhole) {
    const calls = this.message.calls ?? [];
    if (isWhole || calls.length !== this.calls.children.length) this.calls.replaceChildren(...calls.map((call) => callView(call, isWhole)));
    else if (calls.length) this.calls.lastChild.querySelector("code.arguments").textContent = calls.at(-1).arguments;
    if (isWhole && this.actions.awaitsResults(this.at)) this.calls.append(resultsForm(calls, (results) => this.actions.sendResults(this.at, results)));
  }

  #buttons() {
    const { message, at, actions } = this;
    const canEdit = message.content && !message.calls?.length;
    return [
      message.content && copyButton(() => message.content, "Copy the answer"),
      canEdit && button("Edit", () => edit(this.element, message.content, "Save", (text) => actions.keepAs(at, text), () => actions.redraw(at)), { className: "small edit" }),
      button("Retry", () => actions.retry(at), { className: "small again" }),
      element("span", { className: "stats" }, message.stats ?? ""),
    ].filter(Boolean);
  }
}

/** What the request had besides messages, folded. */
function asked({ asked }) {
  if (!asked) return "";
  const { tools, tool_choice: choice, response_format: format } = asked;
  const chosen = choice === undefined ? "" : ` (choice: ${typeof choice === "string" ? choice : choice.function.name})`;
  const parts = [tools && `${count(tools.length, "tool")}: ${tools.map((tool) => tool.function.name).join(", ")}${chosen}`, format && "an answer’s schema"];
  return element("details", { className: "block asked" }, element("summary", {}, "Asked with " + parts.filter(Boolean).join(" and ")),
    element("pre", { tabIndex: 0 }, colouredJson(JSON.stringify(asked, null, 2))));
}

function callView(call, isWhole) {
  const shown = element("pre", { tabIndex: 0 });
  let text = call.arguments;
  try { if (isWhole) text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* cut off, or not JSON: as it came */ }
  const code = isWhole ? colouredJson(text) : element("code", {}, text);
  code.classList.add("arguments");
  shown.append(code);
  return element("div", { className: "block call" }, element("div", { className: "block-title" }, "Call of ", element("code", {}, call.name)), shown);
}

/** Where a person gives what the called functions answer. */
function resultsForm(calls, send) {
  const boxes = calls.map((call) => element("textarea", { rows: 2, ariaLabel: `Result of ${call.name}`, placeholder: `What ${call.name} answers` }));
  const form = element("form", { className: "editor" }, ...boxes, element("button", { className: "wide done" }, calls.length > 1 ? "Send the results" : "Send the result"));
  form.onsubmit = (event) => { event.preventDefault(); send(boxes.map((box) => box.value)); };
  return form;
}

/** Why an answer is not whole, in words, with what can be done. */
function notes(message, at, actions) {
  const made = [];
  const note = (text, ...more) => made.push(element("div", { className: "note" }, text, ...more));
  if (message.finish === "length") {
    const reason = message.limit === "context" ? `the context of ${count(message.context ?? 0, "token")} is full` : `it reached the longest answer, ${count(message.maxTokens ?? 0, "token")}`;
    note(`Cut off: ${reason}. `, ...(message.limit === "context" ? [] : [actions.canContinue(at) && button("Continue", () => actions.goOn(at), { className: "small continue" }), button("Settings", () => actions.openSettings("max_tokens"))]));
  }
  if (message.finish === "repetition") note("Stopped: the answer began to repeat itself. ", button("Settings", () => actions.openSettings("stops_repeating")));
  if (message.stopped) note("You stopped this answer.");
  if (message.problem) made.push(problem(message, actions));
  return made;
}

function problem({ problem, field }, actions) {
  const open = actions.isSetting(field) && button("Open this setting", () => actions.openSettings(field, problem));
  return element("div", { className: "problem", role: "alert" }, problem, open && " ", open);
}
