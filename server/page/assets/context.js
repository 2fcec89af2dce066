// What of a conversation is sent, and how it is kept within the model's context.

import { ApiError, post } from "./api.js";
import * as settings from "./settings.js";

const KEPT_SHARE = 0.75; // of the room, once turns have to go: so that not every question loses another, and prefixes stay cached

/** What of the messages counts: questions that got no answer do not, but for the last. */
function counts(message, at, messages) {
  const isEmpty = (one) => one && one.role === "assistant" && !one.content && !one.calls?.length;
  if (message.role === "user") return at === messages.length - 1 || !isEmpty(messages[at + 1]);
  return !isEmpty(message);
}

function forApi(message) {
  if (message.role === "tool") return { role: "tool", tool_call_id: message.tool_call_id, content: message.content };
  if (!message.calls?.length) return { role: message.role, content: message.content };
  const calls = message.calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: isJson(text) ? text : "{}" } }));
  return { role: "assistant", content: message.content || null, tool_calls: calls };
}

function isJson(text) {
  try { JSON.parse(text); return true; } catch { return false; }
}

/** The request's messages, from the first that is still seen on. */
export function spoken(messages, firstSeen) {
  const system = settings.systemPrompt();
  const said = messages.filter((message, at) => at >= firstSeen && counts(message, at, messages)).map(forApi);
  return system ? [{ role: "system", content: system }, ...said] : said;
}

/**
 * The first message that the model can still see, so that the conversation and an answer fit; whole turns go, oldest first.
 * Throws ApiError where the last turn alone is too long. `fields` of the request: tools count, too.
 */
export async function fit(messages, firstSeen, fields, limit, signal) {
  if (!limit) return firstSeen;
  const reserve = Math.min(fields.max_tokens ?? 0, Math.floor(limit / 4));
  const room = limit - reserve;
  if (mostTokens(spoken(messages, firstSeen), fields) <= room) return firstSeen;
  const count = (first) => countTokens(spoken(messages, first), fields, signal);
  if ((await count(firstSeen)) <= room) return firstSeen;
  const turns = messages.flatMap((message, at) => (message.role === "user" && at > firstSeen ? [at] : []));
  let low = 0, high = turns.length; // the first turn from which on it fits; high: none
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((await count(turns[middle])) <= room * KEPT_SHARE) high = middle;
    else low = middle + 1;
  }
  if (low < turns.length) return turns[low];
  const last = turns.at(-1) ?? firstSeen, left = await count(last);
  if (left < limit) return last;
  throw new ApiError(`This message comes to ${left.toLocaleString("en")} tokens, and the model can hold ${limit.toLocaleString("en")} with its answer. Edit it to be shorter.`);
}

/** A bound that needs no server: no token is shorter than a byte, and a template adds little to each message. */
function mostTokens(messages, fields) {
  const bytes = (value) => new TextEncoder().encode(JSON.stringify(value ?? "")).length;
  return bytes(messages) + 3 * bytes(fields.tools) + 64 * messages.length + 256;
}

async function countTokens(messages, { tools, tool_choice }, signal) {
  const body = { messages, ...(tools && { tools }), ...(tool_choice && { tool_choice }) };
  return (await (await post("tokenize", body, signal)).json()).count;
}
