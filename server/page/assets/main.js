// Brings the parts of the page together.

import { call } from "./api.js";
import * as chat from "./chat.js";
import { $, copy, element } from "./dom.js";
import * as settings from "./settings.js";
import * as settingsView from "./settings_view.js";
import { list, makeSidebar } from "./sidebar.js";
import * as store from "./store.js";

/** Brings the controls into line with what is going on. */
function refresh() {
  const box = $("prompt"), isRunning = chat.isRunning();
  box.style.height = "auto";
  box.style.height = box.scrollHeight + "px";
  $("send").ariaDisabled = String(!isRunning && !box.value.trim()); // not disabled: it would lose the focus
  $("send").ariaLabel = isRunning ? "Stop" : "Send";
  $("send").querySelector(".go").toggleAttribute("hidden", isRunning);
  $("send").querySelector(".stop").toggleAttribute("hidden", !isRunning);
  $("down").hidden = chat.nearEnd() || !chat.conversation.messages.length;
  showExtras();
}

/** What will go with the next question besides words, and what is wrong. Each opens its setting. */
function showExtras() {
  const extras = settings.problems().map(({ name, label, reason }) => chip(name, `${label}: ${reason}`, "chip bad"));
  const names = settings.toolNames();
  if (names.length) extras.push(chip("tools", `Tools: ${names.join(", ")}`));
  if (settings.text("response_format").trim() && !settings.reason("response_format")) extras.push(chip("response_format", "Answers follow a schema"));
  $("extras").replaceChildren(...extras);
}

const chip = (name, text, className = "chip") => element("button", { type: "button", className, onclick: () => settingsView.open(name) }, text);

function send() {
  if (chat.isRunning()) return chat.stop();
  const text = $("prompt").value.trim();
  if (!text || !chat.ask(text)) return;
  $("prompt").value = "";
  refresh();
}

async function meet() {
  try {
    const card = await chat.meet();
    $("model").textContent = card.id;
    $("model").title = card.id;
    const length = card.max_model_len ? ` and can keep ${card.max_model_len.toLocaleString("en")} tokens in mind` : "";
    $("greeting").textContent = `${card.id} answers here${length}. Your words go to this server and nowhere else.`;
  } catch (error) {
    $("greeting").textContent = error.message;
    if (error.needsKey) settingsView.askForKey(error.message);
  }
}

function drawIdeas() {
  const { ideas, idea_sampling: sampling } = settings.defaults;
  $("ideas").replaceChildren(...ideas.map((idea) => element("button", { type: "button", onclick: () => chat.ask(idea, sampling) }, idea)));
}

const THEMES = { auto: "automatic", light: "light", dark: "dark" };

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  $("theme").ariaLabel = $("theme").title = `Theme: ${THEMES[theme]}`;
}

function nextTheme() {
  const names = Object.keys(THEMES), now = document.documentElement.dataset.theme ?? "auto";
  const next = names[(names.indexOf(now) + 1) % names.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  store.write("theme", next);
  showTheme();
}

function listen() {
  $("ask").onsubmit = (event) => { event.preventDefault(); send(); };
  $("prompt").oninput = refresh;
  $("prompt").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || matchMedia("(pointer: coarse)").matches) return;
    event.preventDefault();
    if (!chat.isRunning()) send();
  };
  document.onkeydown = (event) => { if (event.key === "Escape" && !document.querySelector("dialog:modal")) chat.stop(); };
  document.onclick = (event) => {
    const button = event.target.closest?.(".copy-code");
    if (button) copy(button, button.closest(".code").querySelector("code").textContent);
  };
  $("view").onscroll = () => { $("down").hidden = chat.nearEnd(); };
  $("down").onclick = chat.toEnd;
  $("open-settings").onclick = () => settingsView.open();
  $("theme").onclick = nextTheme;
  addEventListener("pagehide", () => chat.stop());
}

async function start() {
  settingsView.makeForm(() => { showExtras(); if (!$("model").textContent && !$("settings").open) meet(); });
  chat.onChange(refresh, list);
  listen();
  const [last] = store.conversations();
  if (last) chat.show(last);
  makeSidebar();
  showTheme();
  refresh();
  await Promise.all([settings.loadDefaults(call).then(drawIdeas), meet()]);
  document.documentElement.dataset.ready = "true";
}

start();
