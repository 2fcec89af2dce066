// The settings: which there are, what they may be, and what they come to in a request. What is wrong is kept as it was typed,
// shown beside its field, and nothing is asked until it is right: a setting is never left out in silence.

import { read, write } from "./store.js";

const number = (label, hint, range = {}) => ({ label, hint, check: (text) => checkNumber(text, range) });

/** name → {label, hint, check(text) → value or throws Error with the reason}. In the order of the form. */
export const FIELDS = {
  system: { label: "System prompt", hint: "Stands before every conversation.", check: (text) => text.trim(), isLong: true },
  temperature: number("Temperature", "0 takes no chances", { min: 0, max: 2 }),
  top_p: number("Top p", "1 is off", { above: 0, max: 1 }),
  top_k: number("Top k", "0 is off", { min: -1, integer: true }),
  min_p: number("Min p", "0 is off", { min: 0, max: 1 }),
  repetition_penalty: number("Repetition penalty", "1 is off", { above: 0, max: 2 }),
  seed: number("Seed", "same seed, same answer", { integer: true }),
  max_tokens: number("Longest answer", "in tokens", { min: 1, integer: true }),
  tools: { label: "Tools", hint: "Functions that the model may call, as a JSON array in OpenAI’s form. You give the results.", check: checkTools, isLong: true,
    placeholder: '[{"type": "function", "function": {"name": "get_weather",\n  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]' },
  tool_choice: { label: "Tool choice", hint: "auto, none, required, or a function’s name", check: checkToolChoice },
  response_format: { label: "Answer’s schema", hint: "A JSON Schema that answers must follow, or a whole response_format.", check: checkFormat, isLong: true,
    placeholder: '{"type": "object", "properties": {"name": {"type": "string"}},\n  "required": ["name"]}' },
};

export let defaults = { ideas: [], idea_sampling: {}, max_tokens: 1024, repetition_detection: null, sampling_without_metadata: {}, sampling_by_model: {} };
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

let typed = [read("settings", {})].find(isObject) ?? {}; // name → text as typed; stops_repeating → boolean
let modelSampling = null; // the model's own defaults, by name; null: not known
let modelId = "";
let contextTokens = Infinity; // most tokens of a question and its answer

export async function loadDefaults(call) { defaults = await (await call("assets/defaults.json")).json(); }

/** What the server says about its model. */
export function setModel({ id, default_sampling_params: sampling, max_model_len: limit }) {
  modelId = id ?? "";
  modelSampling = sampling ?? null;
  contextTokens = limit ?? Infinity;
}

/** The longest answer where the field is empty: the server refuses one that is longer than the context. */
const longestAnswer = () => Math.min(defaults.max_tokens, contextTokens);

export const text = (name) => String(typed[name] ?? "");
export const stopsRepeating = () => typed.stops_repeating ?? true;

export function set(name, value) {
  if (value === "" || value === true) delete typed[name];
  else typed[name] = value;
  write("settings", typed);
}

export function reset() {
  typed = {};
  write("settings", typed);
}

/** What holds where the field is empty, in words. */
export function placeholder(name) {
  if (FIELDS[name].placeholder) return FIELDS[name].placeholder;
  if (name === "max_tokens") return String(longestAnswer());
  if (name === "seed") return "random";
  if (name === "tool_choice") return "auto";
  if (name === "system") return "You are a helpful assistant.";
  const known = modelSampling?.[name] ?? fallback()[name];
  return known === undefined ? "server’s default" : String(known);
}

/** What the page sends for a model that says nothing of how to sample it, and for one that is known to need more. */
function fallback() {
  const own = Object.keys(defaults.sampling_without_metadata);
  const usual = modelSampling && !own.some((name) => name in modelSampling) ? defaults.sampling_without_metadata : {};
  const known = Object.entries(defaults.sampling_by_model[modelId] ?? {}).filter(([name]) => !(name in (modelSampling ?? {})));
  return { ...usual, ...Object.fromEntries(known) };
}

/** The value of a field, undefined where it is empty. Throws Error with the reason where it is wrong. */
function value(name) { return text(name).trim() === "" ? undefined : FIELDS[name].check(text(name)); }

/** Why a field is wrong, or "". */
export function reason(name) {
  try { value(name); return ""; } catch (error) { return error.message; }
}

/** [{name, label, reason}] of all that is wrong. */
export function problems() {
  const all = Object.keys(FIELDS).map((name) => ({ name, label: FIELDS[name].label, reason: reason(name) }));
  return all.filter((one) => one.reason);
}

/** The fields of a request, messages apart. Throws Error where a setting is wrong. */
export function requestFields() {
  const fields = { ...fallback(), max_tokens: longestAnswer() };
  if (stopsRepeating() && defaults.repetition_detection) fields.repetition_detection = defaults.repetition_detection;
  for (const name of Object.keys(FIELDS)) {
    const known = value(name);
    if (known !== undefined && name !== "system") fields[name] = known;
  }
  return fields;
}

export const systemPrompt = () => value("system");

export function toolNames() {
  try { return (value("tools") ?? []).map((tool) => tool.function.name); } catch { return []; }
}

function checkNumber(typed, { min = -Infinity, max = Infinity, above = -Infinity, integer = false }) {
  const number = Number(typed), shown = shorten(typed.trim());
  if (!Number.isFinite(number)) throw new Error(`This must be a number, not “${shown}”.`);
  if (integer && !Number.isSafeInteger(number)) throw new Error(`This must be a whole number, not ${shown}.`);
  if (number < min) throw new Error(`This must be at least ${min}, not ${shown}.`);
  if (number <= above) throw new Error(`This must be greater than ${above}, not ${shown}.`);
  if (number > max) throw new Error(`This must be at most ${max}, not ${shown}.`);
  return number;
}

const shorten = (text) => (text.length > 40 ? text.slice(0, 40) + "…" : text);

function parse(typed) {
  try { return JSON.parse(typed); } catch (error) { throw new Error(`This is not JSON: ${error.message}.`); }
}

function checkTools(typed) {
  const tools = parse(typed), names = new Set();
  if (!Array.isArray(tools) || !tools.length) throw new Error("This must be a JSON array of at least one tool: [{\"type\": \"function\", \"function\": {…}}].");
  tools.forEach((tool, at) => {
    const where = `Tool ${at + 1}`, name = tool?.function?.name;
    if (tool?.type !== "function" || !isObject(tool.function)) throw new Error(`${where} must have "type": "function" and an object "function".`);
    if (typeof name !== "string" || !name) throw new Error(`${where} has no name; function.name must be a word.`);
    if (names.has(name)) throw new Error(`${where} has the name ${name}, which an earlier tool has, too.`);
    if (!isObject(tool.function.parameters ?? {})) throw new Error(`${where}, ${name}: function.parameters must be a JSON Schema, an object.`);
    names.add(name);
  });
  return tools;
}

function checkToolChoice(typed) {
  const choice = typed.trim(), names = toolNames();
  if (!names.length && choice !== "none") throw new Error(`${shorten(choice)} needs tools, and there are none that are right.`);
  if (["auto", "none", "required"].includes(choice)) return choice;
  if (names.includes(choice)) return { type: "function", function: { name: choice } };
  throw new Error(`This must be auto, none, required, or one of ${names.join(", ")}; not “${shorten(choice)}”.`);
}

function checkFormat(typed) {
  const given = parse(typed);
  if (!isObject(given)) throw new Error("This must be a JSON Schema, an object.");
  if (["json_schema", "json_object", "text"].includes(given.type)) return given;
  return { type: "json_schema", json_schema: { name: "answer", schema: given } };
}
