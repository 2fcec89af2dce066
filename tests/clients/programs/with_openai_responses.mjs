// The Responses API by the openai SDK in Node.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { MODEL, UNKNOWN_MODEL, URL, collected, refused, run } from './checks.mjs';
import { CITY, DESCRIPTIONS, DONE, FOR_EVER, HELLO, SAID, TASK, THOUGHT, finished } from './tasks.mjs';

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: 'none', maxRetries: 0 });
const tools = Object.entries(DESCRIPTIONS).map(([name, description]) => ({
  type: 'function', name, description, parameters: CITY, strict: true,
}));
const ask = (how = {}) => client.responses.create({ model: MODEL, input: HELLO, ...how });
const types = (response) => response.output.map((item) => item.type);

async function aResponse() {
  const response = await ask({ instructions: 'Be brief.', metadata: { a: 'b' } });
  assert.equal(response.output_text, SAID);
  assert.deepEqual(types(response), ['reasoning', 'message']);
  assert.equal(response.output[0].content[0].text, THOUGHT);
  assert.equal(response.status, 'completed');
  assert.deepEqual(response.metadata, { a: 'b' });
  assert.equal(response.usage.total_tokens, response.usage.input_tokens + response.usage.output_tokens);
}

async function aStream() {
  const events = await collected(await ask({ stream: true }));
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, number) => number));
  assert.equal(events[0].type, 'response.created');
  assert.equal(events.at(-1).type, 'response.completed');
  const deltas = events.filter((event) => event.type === 'response.output_text.delta');
  assert.equal(deltas.map((event) => event.delta).join(''), SAID);
  return `${events.length} events`;
}

async function theStreamHelper() {
  const stream = client.responses.stream({ model: MODEL, input: HELLO });
  let text = '';
  stream.on('response.output_text.delta', (event) => (text += event.delta));
  const response = await stream.finalResponse();
  assert.equal(text, SAID);
  assert.equal(response.output_text, SAID);
}

async function aConversationThatIsKept() {
  const first = await ask();
  const second = await ask({ input: 'And you?', previous_response_id: first.id });
  assert.ok(second.usage.input_tokens > first.usage.input_tokens);
  assert.equal((await client.responses.retrieve(second.id)).output_text, second.output_text);
  await client.responses.delete(first.id);
  assert.ok((await refused(() => client.responses.retrieve(first.id))) instanceof OpenAI.NotFoundError);
}

async function referencesToItems() {
  const first = await ask();
  const references = first.output.map(({ id }) => ({ type: 'item_reference', id }));
  const input = (items) => [{ role: 'user', content: HELLO }, ...items, { role: 'user', content: 'And you?' }];
  const [short, long] = [await ask({ input: input(references) }), await ask({ input: input(first.output) })];
  assert.equal(short.usage.input_tokens, long.usage.input_tokens);
}

async function aResponseInTheBackground() {
  let response = await ask({ background: true });
  while (['queued', 'in_progress'].includes(response.status)) response = await client.responses.retrieve(response.id);
  assert.equal(response.output_text, SAID);
  const all = await collected(await client.responses.retrieve(response.id, { stream: true }));
  const rest = await collected(await client.responses.retrieve(response.id, { stream: true, starting_after: 2 }));
  assert.deepEqual(rest, all.slice(3));
}

async function aResponseThatIsCancelled() {
  const { id } = await ask({ input: FOR_EVER, background: true });
  assert.equal((await client.responses.cancel(id)).status, 'cancelled');
  assert.equal((await client.responses.retrieve(id)).status, 'cancelled');
}

async function aStreamThatIsLeft() {
  const stream = await ask({ input: FOR_EVER, stream: true });
  for await (const event of stream) if (event.type === 'response.output_text.delta') break;
  assert.ok(stream.controller.signal.aborted);
}

const calls = (output) => output.filter((item) => item.type === 'function_call')
  .map((item) => ({ name: item.name, arguments: JSON.parse(item.arguments), id: item.call_id }));
const result = (outputs) => outputs.map(({ id, output }) => ({ type: 'function_call_output', call_id: id, output }));

async function toolsWithAllItems() {
  const { text, turns } = await finished([{ role: 'user', content: TASK }], async (input) => {
    const response = await ask({ input, tools, store: false, include: ['reasoning.encrypted_content'] });
    assert.ok(response.output[0].encrypted_content);
    return { added: response.output, calls: calls(response.output), text: response.output_text };
  }, result);
  assert.equal(text, DONE);
  assert.equal(turns, 3);
}

async function toolsWithAStreamAndTheResponseBefore() {
  let previous_response_id;
  const { text } = await finished([{ role: 'user', content: TASK }], async (input) => {
    const stream = client.responses.stream({ model: MODEL, input, tools, previous_response_id });
    const response = await stream.finalResponse();
    previous_response_id = response.id;
    input.length = 0; // only what is new is sent
    return { added: [], calls: calls(response.output), text: response.output_text };
  }, result);
  assert.equal(text, DONE);
}

async function oneCallAtMost() {
  const response = await ask({ input: TASK, tools, parallel_tool_calls: false });
  assert.equal(calls(response.output).length, 1);
}

async function aCallThatIsForced() {
  const response = await ask({ tools, tool_choice: { type: 'function', name: 'get_time' } });
  assert.deepEqual(calls(response.output).map(({ name }) => name), ['get_time']);
}

async function aCustomTool() {
  const note = { type: 'custom', name: 'note', description: 'Takes a note.' };
  const response = await ask({ input: 'call note with {"input":"two\\nlines"}', tools: [note] });
  const call = response.output.find((item) => item.type === 'custom_tool_call');
  assert.equal(call.input, 'two\nlines');
  const output = { type: 'custom_tool_call_output', call_id: call.call_id, output: 'noted' };
  const last = await ask({ input: [output], tools: [note], previous_response_id: response.id });
  assert.equal(last.output_text, 'Results: noted');
}

async function aFormat() {
  const format = { type: 'json_schema', name: 'place', schema: CITY, strict: true };
  const response = await client.responses.parse({ model: MODEL, input: HELLO, text: { format } });
  assert.deepEqual(JSON.parse(response.output_text), { city: 'Oslo' });
}

async function anUnknownModel() {
  const error = await refused(() => ask({ model: UNKNOWN_MODEL }));
  assert.ok(error instanceof OpenAI.NotFoundError, error);
}

async function aWrongValue() {
  const error = await refused(() => ask({ temperature: 3 }));
  assert.ok(error instanceof OpenAI.BadRequestError, error);
  assert.equal(error.param, 'temperature');
}

await run(
  aResponse, aStream, theStreamHelper, aConversationThatIsKept, referencesToItems, aResponseInTheBackground,
  aResponseThatIsCancelled, aStreamThatIsLeft, toolsWithAllItems, toolsWithAStreamAndTheResponseBefore, oneCallAtMost,
  aCallThatIsForced, aCustomTool, aFormat, anUnknownModel, aWrongValue,
);
