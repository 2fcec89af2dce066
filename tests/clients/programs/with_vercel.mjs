// The Vercel AI SDK with its provider for OpenAI-compatible servers.
import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, streamText } from 'ai';
import {
  MODEL, OVERFLOW, QUESTION, TO_GO_ON, TOO_LONG, TOO_MANY_TOKENS, UNKNOWN_MODEL, URL,
  collected, innerWord, refused, run, until, waitUntilIdle,
} from './checks.mjs';

const provider = createOpenAICompatible({ name: 'jaxserve', baseURL: `${URL}/v1`, apiKey: 'none', includeUsage: true });
const short = { model: provider(MODEL), prompt: QUESTION, temperature: 0, maxOutputTokens: 24, maxRetries: 0 };
const generate = (how = {}) => generateText({ ...short, ...how });
const begin = (how = {}) => streamText({ ...short, onError: () => {}, ...how });

async function generatedText() {
  const answer = await generate();
  assert.ok(answer.text);
  assert.equal(answer.finishReason, 'length');
  assert.equal(answer.usage.outputTokens, 24);
  assert.equal(answer.response.modelId, MODEL);
  return answer.text;
}

async function streamedText() {
  const result = begin();
  const pieces = await collected(result.textStream);
  assert.equal(pieces.join(''), (await generate()).text);
  assert.equal(await result.finishReason, 'length');
  return `${pieces.length} pieces`;
}

async function usageInTheStream() {
  const result = begin();
  await result.consumeStream();
  const [streamed, { usage }] = [await result.usage, await generate()];
  assert.deepEqual(
    [streamed.inputTokens, streamed.outputTokens, streamed.totalTokens],
    [usage.inputTokens, usage.outputTokens, usage.totalTokens],
  );
  assert.ok(usage.inputTokens > 0);
}

async function sameAgainWithASeed() {
  const how = { temperature: 1, topP: 0.95, seed: 7 };
  assert.equal((await generate(how)).text, (await generate(how)).text);
}

async function stopString() {
  const whole = (await generate()).text;
  const stop = innerWord(whole);
  const answer = await generate({ stopSequences: [stop] });
  assert.equal(answer.text, until(whole, stop));
  assert.equal(answer.finishReason, 'stop');
}

async function systemAndHistory() {
  const answer = await generate({
    prompt: undefined,
    instructions: 'You answer in one word.',
    messages: [
      { role: 'user', content: [{ type: 'text', text: 'Hello' }] },
      { role: 'assistant', content: 'Hello.' },
      { role: 'user', content: [{ type: 'text', text: 'What is the capital' }, { type: 'text', text: 'of France?' }] },
    ],
  });
  assert.ok(answer.text);
}

async function unknownModel() {
  const error = await refused(() => generate({ model: provider(UNKNOWN_MODEL) }));
  assert.ok(APICallError.isInstance(error), error);
  assert.equal(error.statusCode, 404);
  assert.match(error.message, /no-such-model/);
  return 'APICallError 404';
}

async function maxTokensTooLarge() {
  const error = await refused(() => generate({ maxOutputTokens: TOO_MANY_TOKENS }));
  assert.equal(error.statusCode, 400, error);
  assert.equal(error.data.error.param, 'max_tokens');
}

async function promptTooLong() {
  const error = await refused(() => generate({ prompt: TOO_LONG }));
  assert.equal(error.statusCode, 400, error);
  assert.match(error.message, OVERFLOW);
}

async function errorInAStream() {
  const parts = await collected(begin({ model: provider(UNKNOWN_MODEL) }).stream);
  const error = parts.find((part) => part.type === 'error')?.error;
  assert.equal(error?.statusCode, 404);
}

async function abortOfAStream() {
  const controller = new AbortController();
  const result = begin({ maxOutputTokens: 2000, abortSignal: controller.signal });
  for await (const part of result.stream) {
    if (part.type === 'text-delta') controller.abort();
  }
  await waitUntilIdle();
}

async function completions() {
  const model = provider.completionModel(MODEL);
  const pieces = await collected(begin({ model, prompt: TO_GO_ON }).textStream);
  const answer = await generate({ model, prompt: TO_GO_ON });
  assert.ok(answer.text);
  assert.equal(pieces.join(''), answer.text);
}

await run(
  generatedText, streamedText, usageInTheStream, sameAgainWithASeed, stopString, systemAndHistory, unknownModel,
  maxTokensTooLarge, promptTooLong, errorInAStream, abortOfAStream, completions,
);
