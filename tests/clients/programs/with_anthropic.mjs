// The anthropic SDK in Node.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';
import { MODEL, UNKNOWN_MODEL, URL, collected, refused, run } from './checks.mjs';
import { CITY, DESCRIPTIONS, DONE, FOR_EVER, HELLO, SAID, TASK, THOUGHT, called, finished } from './tasks.mjs';

const client = new Anthropic({ baseURL: URL, apiKey: 'none', maxRetries: 0 });
const tools = Object.entries(DESCRIPTIONS).map(([name, description]) => ({ name, description, input_schema: CITY }));
const user = (content) => ({ role: 'user', content });
const fields = { model: MODEL, max_tokens: 4000, messages: [user(HELLO)] };
const ask = (how = {}) => client.messages.create({ ...fields, ...how });
const text = (message) => message.content.filter((block) => block.type === 'text').map((block) => block.text).join('');
const calls = (message) => message.content.filter((block) => block.type === 'tool_use')
  .map(({ id, name, input }) => ({ id, name, arguments: input }));
const allInput = ({ usage }) => usage.input_tokens + usage.cache_read_input_tokens;
const result = (outputs) => [
  user(outputs.map(({ id, output }) => ({ type: 'tool_result', tool_use_id: id, content: output }))),
];

async function aMessage() {
  const message = await ask({ system: 'Be brief.', metadata: { user_id: 'somebody' } });
  assert.deepEqual([message.type, message.role, message.model], ['message', 'assistant', MODEL]);
  assert.deepEqual([text(message), message.stop_reason], [SAID, 'end_turn']);
  assert.ok(message.usage.input_tokens > 0 && message.usage.output_tokens > 0);
}

async function theEventsOfAStream() {
  const events = await collected(await ask({ stream: true }));
  const types = events.map((event) => event.type).filter((type) => type !== 'ping');
  assert.deepEqual([types[0], ...types.slice(-2)], ['message_start', 'message_delta', 'message_stop']);
  const deltas = events.filter((event) => event.delta?.type === 'text_delta').map((event) => event.delta.text);
  assert.equal(deltas.join(''), SAID);
  return `${events.length} events`;
}

async function theStreamHelper() {
  let said = '';
  const stream = client.messages.stream(fields).on('text', (piece) => (said += piece));
  const message = await stream.finalMessage();
  assert.deepEqual([said, text(message)], [SAID, SAID]);
}

async function aStreamThatIsLeft() {
  const stream = client.messages.stream({ ...fields, messages: [user(FOR_EVER)] });
  stream.on('text', () => stream.abort());
  assert.ok((await refused(() => stream.finalMessage())) instanceof Anthropic.APIUserAbortError);
}

async function thinking() {
  const shown = await ask({ thinking: { type: 'enabled', budget_tokens: 1024 } });
  assert.deepEqual(shown.content.map((block) => block.type), ['thinking', 'text']);
  assert.equal(shown.content[0].thinking, THOUGHT);
  assert.ok(shown.content[0].signature);
  const off = await ask({ thinking: { type: 'disabled' } });
  assert.deepEqual(off.content.map((block) => block.type), ['text']);
}

async function tokensAreCounted() {
  const how = { messages: [user(HELLO)], system: 'Be brief.', tools };
  const { input_tokens } = await client.messages.countTokens({ model: MODEL, ...how });
  assert.equal(input_tokens, allInput(await ask(how)));
}

async function toolsWhole() {
  const done = await finished([user(TASK)], async (messages) => {
    const message = await ask({ messages, tools });
    return { added: [{ role: 'assistant', content: message.content }], calls: calls(message), text: text(message) };
  }, result);
  assert.deepEqual(done, { text: DONE, turns: 3 });
}

async function toolsStreamedWithThinking() {
  const done = await finished([user(TASK)], async (messages) => {
    const how = { messages, tools, thinking: { type: 'enabled', budget_tokens: 1024 } };
    const message = await client.messages.stream({ ...fields, ...how }).finalMessage();
    assert.equal(message.content[0].thinking, THOUGHT);
    assert.equal(message.stop_reason, calls(message).length ? 'tool_use' : 'end_turn');
    return { added: [{ role: 'assistant', content: message.content }], calls: calls(message), text: text(message) };
  }, result);
  assert.equal(done.text, DONE);
}

async function theToolRunner() {
  const runnable = tools.map((tool) => ({ ...tool, run: (input) => called(tool.name, input), parse: (input) => input }));
  const message = await client.beta.messages.toolRunner({ ...fields, messages: [user(TASK)], tools: runnable });
  assert.equal(text(message), DONE);
}

async function aCallThatIsForced() {
  const message = await ask({ tools, tool_choice: { type: 'tool', name: 'get_time' } });
  assert.deepEqual(calls(message).map(({ name }) => name), ['get_time']);
}

async function aResultThatIsAnError() {
  const messages = [user('call get_time with {"city":"Oslo"}')];
  const message = await ask({ messages, tools });
  const block = { type: 'tool_result', tool_use_id: message.content.at(-1).id, content: 'no clock', is_error: true };
  messages.push({ role: 'assistant', content: message.content }, user([block]));
  assert.match(text(await ask({ messages, tools })), /Error: no clock/);
}

async function aLineThatChangesIsNoReasonToComputeAnew() {
  const system = (turn) => [
    { type: 'text', text: `x-anthropic-billing-header: cc_version=2.1.0.${turn}; cc_entrypoint=cli;` },
    { type: 'text', text: 'You are an agent. '.repeat(50), cache_control: { type: 'ephemeral' } },
  ];
  const first = await ask({ system: system('a1b') });
  const { usage } = await ask({ system: system('c2d') });
  assert.ok(usage.cache_read_input_tokens > 800, JSON.stringify(usage));
  assert.equal(allInput({ usage }), allInput(first));
  return `${usage.cache_read_input_tokens} of ${allInput(first)} tokens are cached`;
}

async function anUnknownModel() {
  const error = await refused(() => ask({ model: UNKNOWN_MODEL }));
  assert.ok(error instanceof Anthropic.NotFoundError, error);
  assert.equal(error.error.error.type, 'not_found_error');
}

async function aWrongValue() {
  const error = await refused(() => ask({ max_tokens: 0 }));
  assert.ok(error instanceof Anthropic.BadRequestError, error);
  assert.match(error.message, /max_tokens/);
}

await run(
  aMessage, theEventsOfAStream, theStreamHelper, aStreamThatIsLeft, thinking, tokensAreCounted, toolsWhole,
  toolsStreamedWithThinking, theToolRunner, aCallThatIsForced, aResultThatIsAnError,
  aLineThatChangesIsNoReasonToComputeAnew, anUnknownModel, aWrongValue,
);
