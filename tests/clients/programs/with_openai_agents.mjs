// The openai SDK in Node: runTools, whole and streamed.
import OpenAI from 'openai';
import { CITY, TOOLS, loops } from './agents.mjs';
import { MODEL, URL, run } from './checks.mjs';

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: 'none', maxRetries: 0 });
const tools = Object.entries(TOOLS).map(([name, { description, execute }]) => ({
  type: 'function', function: { name, description, parameters: CITY, parse: JSON.parse, function: execute },
}));
const ask = (content, how = {}) => client.chat.completions.runTools(
  { model: MODEL, messages: [{ role: 'user', content }], tools, temperature: 0, max_tokens: 200, ...how },
  { maxChatCompletions: 5 },
).finalContent();

const anAgentLoop = () => loops(ask);
const aStreamedAgentLoop = () => loops((question) => ask(question, { stream: true }));

await run(anAgentLoop, aStreamedAgentLoop);
