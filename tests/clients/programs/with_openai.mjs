// The openai SDK in Node.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import {
  MODEL, OVERFLOW, QUESTION, TO_GO_ON, TOO_LONG, TOO_MANY_TOKENS, UNKNOWN_MODEL, URL,
  collected, innerWord, refused, run, until, waitUntilIdle,
} from './checks.mjs';

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: 'none', maxRetries: 0 });
const messages = [{ role: 'user', content: QUESTION }];
const ask = (how = {}, options = {}) =>
  client.chat.completions.create({ model: MODEL, messages, temperature: 0, max_tokens: 24, ...how }, options);
const textOf = (answer) => answer.choices[0].message.content;
const joined = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');

async function plainChat() {
  const answer = await ask();
  assert.equal(answer.object, 'chat.completion');
  assert.ok(textOf(answer));
  return textOf(answer);
}

async function stream() {
  const chunks = await collected(await ask({ stream: true }));
  assert.equal(joined(chunks), textOf(await ask()));
  return `${chunks.length} chunks`;
}

async function usageInTheStream() {
  const chunks = await collected(await ask({ stream: true, stream_options: { include_usage: true } }));
  const last = chunks.at(-1);
  assert.deepEqual(last.choices, []);
  assert.deepEqual(last.usage, (await ask()).usage);
}

async function streamHelper() {
  const runner = client.chat.completions.stream({ model: MODEL, messages, temperature: 0, max_tokens: 24 });
  let text = '';
  runner.on('content', (piece) => (text += piece));
  assert.equal(await runner.finalContent(), text);
  assert.equal(text, textOf(await ask()));
}

async function logprobs() {
  const answer = await ask({ logprobs: true, top_logprobs: 3 });
  const entries = answer.choices[0].logprobs.content;
  assert.equal(entries.map((entry) => entry.token).join(''), textOf(answer));
  for (const entry of entries) assert.equal(entry.top_logprobs.length, 3);
}

async function severalChoicesWithASeed() {
  const twice = async () => (await ask({ n: 2, seed: 7, temperature: 1 })).choices.map((one) => one.message.content);
  const first = await twice();
  assert.equal(new Set(first).size, 2);
  assert.deepEqual(await twice(), first);
}

async function stopString() {
  const whole = textOf(await ask());
  const stop = innerWord(whole);
  const answer = await ask({ stop });
  assert.equal(textOf(answer), until(whole, stop));
  assert.equal(answer.choices[0].finish_reason, 'stop');
}

async function unknownModel() {
  const error = await refused(() => ask({ model: UNKNOWN_MODEL }));
  assert.ok(error instanceof OpenAI.NotFoundError, error);
  return `NotFoundError, code ${error.code}`;
}

async function maxTokensTooLarge() {
  const error = await refused(() => ask({ max_tokens: TOO_MANY_TOKENS }));
  assert.ok(error instanceof OpenAI.BadRequestError, error);
  assert.equal(error.param, 'max_tokens');
}

async function promptTooLong() {
  const error = await refused(() => ask({ messages: [{ role: 'user', content: TOO_LONG }] }));
  assert.ok(error instanceof OpenAI.BadRequestError, error);
  assert.match(error.message, OVERFLOW);
}

async function listModels() {
  assert.equal((await collected(await client.models.list()))[0].id, MODEL);
  assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
}

async function abortOfAStream() {
  const controller = new AbortController();
  const long = await ask({ stream: true, max_tokens: 2000, ignore_eos: true }, { signal: controller.signal });
  let chunks = 0;
  for await (const _ of long) if (++chunks === 3) controller.abort();
  assert.ok(chunks < 2000);
  await waitUntilIdle();
  return `after ${chunks} chunks`;
}

async function abortBeforeTheAnswer() {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 500);
  const error = await refused(() => ask({ max_tokens: 2000, ignore_eos: true }, { signal: controller.signal }));
  assert.ok(error instanceof OpenAI.APIUserAbortError, error);
  await waitUntilIdle();
}

async function completions() {
  const how = { model: MODEL, prompt: TO_GO_ON, temperature: 0, max_tokens: 8 };
  const chunks = await collected(await client.completions.create({ ...how, stream: true }));
  const answer = await client.completions.create(how);
  assert.ok(answer.choices[0].text);
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), answer.choices[0].text);
}

await run(
  plainChat, stream, usageInTheStream, streamHelper, logprobs, severalChoicesWithASeed, stopString, unknownModel,
  maxTokensTooLarge, promptTooLong, listModels, abortOfAStream, abortBeforeTheAnswer, completions,
);
