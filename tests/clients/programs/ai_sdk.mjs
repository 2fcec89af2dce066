// What the programs of the AI SDK's providers share: texts, tools and objects, whole and streamed.
import assert from 'node:assert/strict';
import { APICallError, Output, generateText, isStepCount, jsonSchema, streamText, tool } from 'ai';
import { UNKNOWN_MODEL, refused } from './checks.mjs';
import { CITY, DESCRIPTIONS, DONE, HELLO, SAID, TASK, THOUGHT, called } from './tasks.mjs';

const tools = Object.fromEntries(Object.entries(DESCRIPTIONS).map(([name, description]) => [
  name, tool({ description, inputSchema: jsonSchema(CITY), execute: (input) => called(name, input) }),
]));

/** Returns the trials of a provider. model: makes one from its name. how: what each request has. */
export function trials(model, name, how = {}) {
  const fields = { model: model(name), maxRetries: 0, ...how };

  async function streamed(more) {
    let failure;
    const result = streamText({ ...fields, ...more, onError: ({ error }) => (failure = error) });
    await result.consumeStream();
    if (failure) throw failure;
    return result;
  }

  async function aText() {
    const answer = await generateText({ ...fields, prompt: HELLO, instructions: 'Be brief.' });
    assert.deepEqual([answer.text, answer.finishReason], [SAID, 'stop']);
    assert.ok(answer.usage.inputTokens > 0 && answer.usage.outputTokens > 0);
    assert.equal(answer.response.modelId, name);
  }

  async function aStream() {
    const result = await streamed({ prompt: HELLO });
    assert.equal(await result.text, SAID);
    assert.ok((await result.usage).outputTokens > 0);
  }

  async function aConversation() {
    const first = await generateText({ ...fields, prompt: HELLO });
    const messages = [
      { role: 'user', content: HELLO }, ...first.response.messages, { role: 'user', content: 'And you?' },
    ];
    assert.equal((await generateText({ ...fields, messages })).text, 'You said: And you?');
  }

  async function toolsWhole() {
    const answer = await generateText({ ...fields, prompt: TASK, tools, stopWhen: isStepCount(5) });
    assert.deepEqual([answer.text, answer.steps.length], [DONE, 3]);
  }

  async function toolsStreamed() {
    const result = await streamed({ prompt: TASK, tools, stopWhen: isStepCount(5) });
    assert.deepEqual([await result.text, (await result.steps).length], [DONE, 3]);
  }

  async function aCallThatIsForced() {
    const answer = await generateText({ ...fields, prompt: HELLO, tools, toolChoice: { type: 'tool', toolName: 'get_time' } });
    assert.deepEqual(answer.toolCalls.map((call) => call.toolName), ['get_time']);
  }

  async function anObject() {
    const { output } = await generateText({
      ...fields, prompt: HELLO, output: Output.object({ schema: jsonSchema(CITY) }),
    });
    assert.deepEqual(output, { city: 'Oslo' });
  }

  async function anUnknownModel() {
    const error = await refused(() => generateText({ ...fields, model: model(UNKNOWN_MODEL), prompt: HELLO }));
    assert.ok(APICallError.isInstance(error), error);
    assert.equal(error.statusCode, 404);
  }

  return [aText, aStream, aConversation, toolsWhole, toolsStreamed, aCallThatIsForced, anObject, anUnknownModel];
}

/** Reasoning, which not all models show unless they are asked. how: asks for it. */
export async function reasoned(model, how = {}) {
  const answer = await generateText({ model, prompt: HELLO, maxRetries: 0, ...how });
  assert.deepEqual([answer.reasoningText, answer.text], [THOUGHT, SAID]);
  const result = streamText({ model, prompt: HELLO, maxRetries: 0, ...how });
  await result.consumeStream();
  assert.equal(await result.reasoningText, THOUGHT);
}
