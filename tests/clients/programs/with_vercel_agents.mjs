// The Vercel AI SDK: loops of several steps with tools, whole and streamed.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, isStepCount, jsonSchema, streamText, tool } from 'ai';
import { CITY, TOOLS, loops } from './agents.mjs';
import { MODEL, URL, run } from './checks.mjs';

const provider = createOpenAICompatible({ name: 'jaxserve', baseURL: `${URL}/v1`, apiKey: 'none' });
const tools = Object.fromEntries(
  Object.entries(TOOLS).map(([name, each]) => [name, tool({ ...each, inputSchema: jsonSchema(CITY) })]),
);
const how = {
  model: provider(MODEL), tools, temperature: 0, maxOutputTokens: 200, maxRetries: 0, stopWhen: isStepCount(5),
};

const anAgentLoop = () => loops(async (prompt) => (await generateText({ ...how, prompt })).text);

async function aStreamedAgentLoop() {
  return loops(async (prompt) => {
    let failure;
    const result = streamText({ ...how, prompt, onError: ({ error }) => (failure = error) });
    await result.consumeStream();
    if (failure) throw failure;
    return result.text;
  });
}

await run(anAgentLoop, aStreamedAgentLoop);
