// The list of conversations, at the side where there is room for it and in a drawer on small screens.

import * as chat from "./chat.js";
import { $, element, icon, toast } from "./dom.js";
import * as settings from "./settings.js";
import * as store from "./store.js";

const wide = matchMedia("(min-width: 860px)");

export function makeSidebar() {
  wide.addEventListener("change", place);
  place();
  $("open-drawer").onclick = () => { list(); $("drawer").showModal(); };
  $("close-drawer").onclick = () => $("drawer").close();
  $("drawer").onclick = (event) => { if (event.target === $("drawer")) $("drawer").close(); };
  for (const id of ["new", "new-small"]) $(id).onclick = startNew;
  store.onOtherTab(list);
  list();
}

/** The same list stands at the side or in the drawer. */
function place() {
  $("drawer").close();
  $(wide.matches ? "side" : "drawer").append($("sidebar"));
}

function startNew() {
  chat.show(store.newConversation());
  leave();
}

function leave() {
  list();
  $("drawer").close();
  $("prompt").focus();
}

export function list() {
  const rows = store.conversations().map(row);
  $("conversations").replaceChildren(...rows);
  $("no-conversations").hidden = rows.length > 0;
}

function row(conversation) {
  const title = conversation.title || "Untitled", isOpen = conversation.id === chat.conversation.id;
  const made = element("li", { className: isOpen ? "open" : "" });
  const open = element("button", { type: "button", className: "title", title, onclick: () => { if (!isOpen) chat.show(conversation); leave(); } }, title);
  if (isOpen) open.setAttribute("aria-current", "true");
  made.append(open,
    action("edit", `Rename ${title}`, () => rename(made, conversation)),
    action("save", `Export ${title}`, () => exportAsRequest(conversation)),
    action("bin", `Delete ${title}`, () => remove(conversation)));
  return made;
}

const action = (name, ariaLabel, onclick) => element("button", { type: "button", className: "row-action " + name, ariaLabel, title: ariaLabel, onclick }, icon(name));

function rename(place, conversation) {
  const box = element("input", { value: conversation.title, maxLength: 80, ariaLabel: "Name of the conversation" });
  let isOver = false;
  const end = (isKept) => {
    if (isOver) return;
    isOver = true;
    if (isKept && box.value.trim()) {
      const held = conversation.id === chat.conversation.id ? chat.conversation : conversation;
      held.title = box.value.trim();
      chat.keep(held);
    }
    list();
    [...$("conversations").querySelectorAll(".edit")].find((one) => one.ariaLabel === `Rename ${box.value.trim()}`)?.focus();
  };
  box.onblur = () => end(true);
  box.onkeydown = (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault(); // the same key would press the button that gets the focus
    event.stopPropagation();
    end(event.key === "Enter");
  };
  place.replaceChildren(box);
  box.select();
}

function remove(conversation) {
  const isOpen = conversation.id === chat.conversation.id;
  store.remove(conversation.id);
  if (isOpen) chat.show(store.newConversation());
  store.remove(conversation.id); // an answer that was being written has been kept once more
  toast(`“${conversation.title}” is deleted.`, ["Undo", () => { chat.keep(conversation); if (isOpen) chat.show(conversation); }]);
  list();
  ($("conversations").querySelector(".title") ?? $("new")).focus();
}

/** A file that is the body of a request: what was said, with the settings of now. */
function exportAsRequest(conversation) {
  const fields = settings.problems().length ? {} : settings.requestFields();
  const body = JSON.stringify(chat.asRequest(conversation, fields), null, 2);
  const url = URL.createObjectURL(new Blob([body], { type: "application/json" }));
  element("a", { href: url, download: `${(conversation.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
