// The Vercel AI SDK: objects by schema, and tools.
import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, Output, generateObject, generateText, jsonSchema, streamObject, streamText, tool } from 'ai';
import { MODEL, URL, collected, refused, run } from './checks.mjs';

const provider = createOpenAICompatible({
  name: 'jaxserve', baseURL: `${URL}/v1`, apiKey: 'none', includeUsage: true, supportsStructuredOutputs: true,
});
const prompt = 'Jason is 25 years old and lives in Paris. Answer in JSON.';
const oneCall = { toolChoice: 'required', providerOptions: { jaxserve: { parallel_tool_calls: false } } };
const byExample = [ // so that a small model finds the end of its JSON where no schema bounds it
  { role: 'user', content: 'Tom is 7 years old. Answer in JSON.' },
  { role: 'assistant', content: '{"name": "Tom", "age": 7}' },
  { role: 'user', content: 'Jason is 25 years old. Answer in JSON.' },
];
const how = { model: provider(MODEL), prompt, temperature: 0, maxOutputTokens: 400, maxRetries: 0 };
const name = { type: 'string', minLength: 1, maxLength: 20 };
const object = (properties) => ({
  type: 'object', properties, required: Object.keys(properties), additionalProperties: false,
});
const person = jsonSchema(object({
  name, age: { type: 'integer', minimum: 0, maximum: 120 }, mood: { type: 'string', enum: ['good', 'bad'] },
}));
const tools = {
  weather: tool({
    description: 'The weather in a city.',
    inputSchema: jsonSchema(object({ city: name, days: { type: 'integer', minimum: 1, maximum: 7 } })),
  }),
  time: tool({ description: 'The time in a city.', inputSchema: jsonSchema(object({ city: name })) }),
};

function isPerson(found) {
  assert.deepEqual(Object.keys(found), ['name', 'age', 'mood']);
  assert.ok(found.name.length <= 20 && found.age >= 0 && found.age <= 120 && ['good', 'bad'].includes(found.mood));
}

function isCall({ toolName, input }) {
  assert.ok(input.city.length >= 1 && input.city.length <= 20, JSON.stringify(input));
  assert.deepEqual(Object.keys(input), toolName === 'weather' ? ['city', 'days'] : ['city']);
}

async function generatedObject() {
  const answer = await generateObject({ ...how, schema: person });
  isPerson(answer.object);
  assert.equal(answer.finishReason, 'stop');
  return JSON.stringify(answer.object);
}

async function streamedObject() {
  const result = streamObject({ ...how, schema: person });
  const partial = await collected(result.partialObjectStream);
  assert.deepEqual(await result.object, (await generateObject({ ...how, schema: person })).object);
  assert.deepEqual(partial.at(-1), await result.object);
  return `${partial.length} partial objects`;
}

async function oneOfAnEnum() {
  const answer = await generateObject({ ...how, output: 'enum', enum: ['Paris', 'London'] });
  assert.ok(['Paris', 'London'].includes(answer.object));
}

async function objectAsOutputOfText() {
  const answer = await generateText({ ...how, output: Output.object({ schema: person }) });
  isPerson(answer.output);
}

async function jsonWithoutASchema() {
  const answer = await generateObject({ ...how, prompt: undefined, messages: byExample, output: 'no-schema' });
  assert.equal(typeof answer.object, 'object');
}

async function requiredTool() {
  const answer = await generateText({ ...how, ...oneCall, tools });
  assert.equal(answer.toolCalls.length, 1);
  answer.toolCalls.forEach(isCall);
  assert.equal(answer.finishReason, 'tool-calls');
  return answer.toolCalls.map((call) => `${call.toolName}(${JSON.stringify(call.input)})`).join(', ');
}

async function namedTool() {
  const answer = await generateText({ ...how, tools, toolChoice: { type: 'tool', toolName: 'time' } });
  assert.deepEqual(answer.toolCalls.map((call) => call.toolName), ['time']);
  answer.toolCalls.forEach(isCall);
}

async function streamedTool() {
  const result = streamText({ ...how, ...oneCall, tools });
  const parts = await collected(result.stream);
  const whole = await generateText({ ...how, ...oneCall, tools });
  const said = (calls) => calls.map(({ toolName, input }) => ({ toolName, input }));
  assert.deepEqual(said(await result.toolCalls), said(whole.toolCalls));
  const pieces = parts.filter((part) => part.type === 'tool-input-delta').map((part) => part.delta);
  assert.ok(pieces.length >= 1);
  assert.equal(await result.finishReason, 'tool-calls');
  return `${pieces.length} pieces of input`;
}

async function executedTool() {
  const time = tool({ ...tools.time, execute: async ({ city }) => `12:30 in ${city}` });
  const answer = await generateText({
    ...how, ...oneCall, tools: { time }, maxOutputTokens: 40,
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
    stopWhen: ({ steps }) => steps.length === 2,
  });
  assert.equal(answer.steps.length, 2);
  assert.match(answer.steps[0].toolResults[0].output, /^12:30 in /);
  assert.ok(answer.text);
}

async function toolsAsTheModelLikes() {
  try {
    const answer = await generateText({ ...how, tools });
    assert.ok(answer.text || answer.toolCalls.length);
    return answer.text || answer.toolCalls.map((call) => call.toolName).join(', ');
  } catch (error) {
    assert.ok(APICallError.isInstance(error), error);
    assert.match(error.message, /--tool-call-parser/);
    return 'refused: the model knows no calls';
  }
}

async function schemaThatCannotBeEnforced() {
  const schema = jsonSchema(object({ list: { type: 'array', items: { type: 'integer' }, uniqueItems: true } }));
  const error = await refused(() => generateObject({ ...how, schema }));
  assert.equal(error.statusCode, 400, error);
  assert.match(error.message, /uniqueItems/);
}

await run(
  generatedObject, streamedObject, oneOfAnEnum, objectAsOutputOfText, jsonWithoutASchema, requiredTool, namedTool,
  streamedTool, executedTool, toolsAsTheModelLikes, schemaThatCannotBeEnforced,
);
