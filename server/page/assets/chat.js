// The conversation on the screen: what is said, what is asked of the server, and what becomes of the answer.

import { call, ApiError, events, post } from "./api.js";
import { fit, spoken } from "./context.js";
import { $, announce, count, element, toast } from "./dom.js";
import { AnswerView, messageView } from "./message_view.js";
import * as settings from "./settings.js";
import * as settingsView from "./settings_view.js";
import * as store from "./store.js";

export let conversation = store.newConversation();
let running = null; // {abort, message, view} of the answer that is being written
let card = null; // what the server says about its model
let changed = () => {}; // told after all that the controls show
let kept = () => {}; // told after all that the list of conversations shows

export const isRunning = () => running !== null;
const contextTokens = () => card?.max_model_len ?? 0;
export function onChange(ofControls, ofList) { [changed, kept] = [ofControls, ofList]; }

// ---- Showing. ----

const actions = { replace, retry, keepAs, sendResults, goOn, redraw: draw, openSettings: settingsView.open,
  canContinue: (at) => at === conversation.messages.length - 1 && Boolean(conversation.messages[at].content),
  awaitsResults: (at) => at === conversation.messages.length - 1 && Boolean(conversation.messages[at].calls?.length) && !running,
  isSetting: (field) => field in settings.FIELDS };

/** Shows the conversation anew; `focused`: the message whose editing has ended. */
export function draw(focused = null) {
  const { messages, firstSeen } = conversation;
  const views = messages.flatMap((message, at) => [at === firstSeen && at > 0 ? droppedNote() : null, running?.message === message ? running.view.element : messageView(message, at, actions)]);
  $("welcome").hidden = messages.length > 0;
  $("messages").hidden = messages.length === 0;
  $("messages").replaceChildren(...views.filter(Boolean));
  if (focused !== null) $("messages").querySelectorAll("article")[focused]?.querySelector(".edit")?.focus();
  changed();
}

const droppedNote = () => element("div", { className: "dropped", role: "note" },
  `The model no longer sees what stands above: its context of ${count(contextTokens(), "token")} is full.`);

export const nearEnd = () => $("view").scrollHeight - $("view").scrollTop - $("view").clientHeight < 80;
export const toEnd = () => { $("view").scrollTop = $("view").scrollHeight; };

// ---- Conversations. ----

/** Shows another conversation; an answer that is being written ends, and stays as far as it came. */
export function show(other) {
  stop();
  conversation = other;
  draw();
  toEnd();
}

/** Keeps the conversation, and says what had to be forgotten for it. */
export function keep(shownConversation = conversation) {
  if (!shownConversation.messages.length) return;
  const { forgotten, isKept } = store.save(shownConversation);
  if (!isKept) toast("This browser has no room for this conversation; it is gone when you close the page.");
  else if (forgotten.length) toast(`Forgotten to make room: ${forgotten.join(", ")}.`);
  kept();
}

/** Changes the messages from `at` on, in a way that can be undone. */
function cutFrom(at, what) {
  const before = structuredClone(conversation), { messages } = conversation, gone = messages.length - at;
  conversation.messages = messages.slice(0, at);
  if (conversation.firstSeen > at) conversation.firstSeen = 0;
  if (gone > what) toast(`${count(gone - what, "later message")} taken out.`, ["Undo", () => { show(before); keep(); }]);
}

// ---- What a person does. ----

/** Whether the question was taken. Not where a setting is wrong: that is shown instead. */
export function ask(text, sampling = {}) {
  if (running || !isAskable()) return false;
  const { messages } = conversation, last = messages.at(-1);
  if (last?.problem && !last.content && messages.at(-2)?.role === "user") messages.splice(-2); // what failed is not part of the talk
  if (!conversation.title) conversation.title = text.replace(/\s+/g, " ").slice(0, 80);
  messages.push({ role: "user", content: text });
  keep();
  answer({ sampling });
  return true;
}

/** Says something else in the place of message `at`, and goes on from there. */
function replace(at, text) {
  if (!isAskable()) return;
  stop();
  const { messages } = conversation, message = { ...messages[at], content: text };
  let end = at + 1;
  while (message.role === "tool" && messages[end]?.role === "tool") end += 1; // results of one answer stay together
  const beside = messages.slice(at + 1, end);
  cutFrom(at, end - at + Number(messages[end]?.role === "assistant"));
  conversation.messages.push(message, ...beside);
  answer();
}

/** Asks for answer `at` again. */
function retry(at) {
  if (!isAskable()) return;
  stop();
  cutFrom(at, 1);
  answer();
}

/** Puts other words into the model's mouth. */
function keepAs(at, text) {
  Object.assign(conversation.messages[at], { content: text, stats: "edited" });
  keep();
  draw(at);
}

function sendResults(at, results) {
  if (running || !isAskable()) return;
  conversation.messages[at].calls.forEach((made, index) => conversation.messages.push({ role: "tool", tool_call_id: made.id, name: made.name, content: results[index] }));
  answer();
}

/** Lets the last answer go on where it was cut off. */
function goOn(at) {
  if (running || !isAskable()) return;
  const message = conversation.messages.pop();
  answer({ message: { ...message, finish: null, stopped: false, problem: "" } });
}

export function stop() {
  if (!running) return;
  const { abort, settle } = running;
  abort.abort();
  settle(); // now, not when the server's answer has been told to end: what comes next may start at once
}

function isAskable() {
  const wrong = settings.problems();
  if (wrong.length) settingsView.open(wrong[0].name);
  return wrong.length === 0;
}

// ---- Asking. ----

/** Asks for an answer to what has been said; `message`: one that is to be continued. */
async function answer({ sampling = {}, message = null } = {}) {
  const isContinued = message !== null, mine = conversation, { messages } = mine;
  message ??= { role: "assistant", content: "" };
  const fields = requestFields(sampling);
  messages.push(message);
  const view = new AnswerView(Object.assign(message, noted(fields)), messages.length - 1, actions);
  const timing = { asked: performance.now(), first: 0, last: 0, tokens: 0, prompt: 0 };
  const job = { abort: new AbortController(), message, view, timing, settle: () => settle(job, mine) };
  running = job;
  view.begin();
  draw();
  toEnd();
  if (!document.activeElement || document.activeElement === document.body) $("send").focus(); // what was pressed is gone
  announce("The answer is being written.");
  try {
    await stream(job, mine, fields, isContinued);
  } catch (error) {
    if (error.name === "AbortError") message.stopped = true;
    else fail(message, error);
  }
  settle(job, mine);
}

function requestFields(sampling) {
  const fields = settings.requestFields();
  for (const [name, value] of Object.entries(sampling)) if (!settings.text(name)) fields[name] = value; // a setting wins
  return fields;
}

/** What an answer remembers of its request: to be shown, and to tell one limit from the other. */
function noted({ tools, tool_choice, response_format, max_tokens }) {
  const asked = tools || response_format ? { tools, tool_choice, response_format } : undefined;
  return { asked, maxTokens: max_tokens };
}

async function stream(job, mine, fields, isContinued) {
  const { abort, message, view, timing } = job;
  const said = isContinued ? mine.messages : mine.messages.slice(0, -1);
  const limit = contextTokens(), start = mine.limit === limit ? mine.firstSeen : 0; // another model may see more
  const firstSeen = await fit(said, start, fields, limit, abort.signal);
  mine.limit = limit;
  if (firstSeen !== mine.firstSeen) {
    mine.firstSeen = firstSeen;
    draw();
    if (firstSeen) announce("The oldest turns no longer fit the model’s context and are left out.");
  }
  const goesOn = isContinued ? { add_generation_prompt: false, continue_final_message: true } : {};
  const body = { messages: spoken(said, firstSeen), ...fields, ...goesOn, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
  const response = await post("v1/chat/completions", body, abort.signal);
  for await (const event of events(response)) {
    if (running !== job) return;
    if (take(event, message, timing)) view.schedule(() => stats(timing), nearEnd, (wasNear) => wasNear && toEnd());
  }
}

/** Puts an event's news into the message. Whether there is something to be seen. */
function take(event, message, timing) {
  timing.tokens = event.usage?.completion_tokens ?? timing.tokens;
  timing.prompt = event.usage?.prompt_tokens ?? timing.prompt;
  const choice = event.choices?.[0];
  if (!choice) return false;
  const { reasoning, reasoning_content: older, content, tool_calls: calls } = choice.delta ?? {};
  if (choice.finish_reason) message.finish = choice.finish_reason;
  const thought = reasoning ?? older;
  if (!thought && !content && !calls?.length) return false;
  timing.last = performance.now();
  timing.first ||= timing.last;
  if (thought) message.reasoning = (message.reasoning ?? "") + thought;
  if (content) message.content += content;
  for (const piece of calls ?? []) takeCall(piece, (message.calls ??= []));
  return true;
}

function takeCall({ index, id, function: piece }, calls) {
  const made = (calls[index] ??= { id: "", name: "", arguments: "" });
  made.id ||= id ?? "";
  made.name += piece?.name ?? "";
  made.arguments += piece?.arguments ?? "";
}

function fail(message, error) {
  message.problem = error.message;
  message.field = error instanceof ApiError ? error.field : null;
  if (error.needsKey) settingsView.askForKey(error.message);
}

/** Ends the answer that is being written, once. */
function settle(job, mine) {
  if (running !== job) return;
  running = null;
  const { message, view, timing } = job, wasNear = nearEnd();
  if (job.abort.signal.aborted) message.stopped = true;
  message.calls = message.calls?.filter(Boolean);
  message.stats = stats(timing);
  message.context = contextTokens();
  message.limit = timing.tokens < message.maxTokens && message.context && timing.prompt + timing.tokens >= message.context ? "context" : "longest";
  mine.updated = Date.now();
  keep(mine);
  view.finish();
  changed();
  if (wasNear) toEnd();
  announce(message.problem ? "" : `The answer is complete. ${message.content.slice(0, 1000)}`);
}

function stats({ asked, first, last, tokens }) {
  if (!first) return "";
  const seconds = (last - first) / 1000, parts = [count(tokens, "token")];
  if (tokens > 1 && seconds > 0) parts.push(`${((tokens - 1) / seconds).toFixed(1)} tokens/s`);
  parts.push(`first after ${((first - asked) / 1000).toFixed(2)} s`);
  return parts.join(" · ");
}

/** A conversation as the body of a request. */
export const asRequest = (one, fields) => ({ model: card?.id, messages: spoken(one.messages, 0), ...fields });

/** Asks the server for its model. Throws ApiError. */
export async function meet() {
  card = (await (await call("v1/models")).json()).data[0];
  settings.setModel(card);
  return card;
}
