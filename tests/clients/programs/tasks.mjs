// What the programs of the Node clients ask of the scripted server, whose answers are known; the same as tasks.py.
import assert from 'node:assert/strict';

export const HELLO = 'Hello there.';
export const SAID = `You said: ${HELLO}`;
export const THOUGHT = 'Let me think.';
export const CITY = {
  type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false,
};
export const TASK =
  'Please call get_weather with {"city":"Oslo"} and call get_time with {"city":"Oslo"} ' +
  'then call get_weather with {"city":"Lima"}.';
export const DONE = 'Results: sunny in Oslo; 12:30 in Oslo; sunny in Lima';
export const FOR_EVER = 'Wait for ever.';
export const DESCRIPTIONS = { get_weather: 'Tells the weather in a city.', get_time: 'Tells the time in a city.' };

/** Calls a tool with its arguments, which are an object. */
export function called(name, { city }) {
  assert.ok(name in DESCRIPTIONS, `an unknown tool: ${name}`);
  return `${name === 'get_weather' ? 'sunny' : '12:30'} in ${city}`;
}

/**
 * Answers calls until there are none. `ask` gets the conversation and returns what the model adds to it, its calls, each
 * with a name and arguments, and its text; `result` makes an item of the conversation from the results of calls.
 */
export async function finished(conversation, ask, result) {
  for (let turn = 0; turn < 5; turn++) {
    const { added, calls, text } = await ask(conversation);
    conversation.push(...added);
    if (!calls.length) return { text, turns: turn + 1 };
    conversation.push(...result(calls.map((call) => ({ ...call, output: called(call.name, call.arguments) }))));
  }
  assert.fail('the calls do not end');
}
