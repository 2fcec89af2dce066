// The AI SDK's provider for OpenAI, which asks /v1/responses.
import { createOpenAI } from '@ai-sdk/openai';
import { reasoned, trials } from './ai_sdk.mjs';
import { MODEL, URL, run } from './checks.mjs';

const provider = createOpenAI({ baseURL: `${URL}/v1`, apiKey: 'none' });
const stateless = { providerOptions: { openai: { store: false, include: ['reasoning.encrypted_content'] } } };
const suffixed = (each) => Object.defineProperty((...given) => each(...given), 'name', { value: `${each.name}Stateless` });

async function reasoning() {
  const openai = { forceReasoning: true, reasoningSummary: 'detailed' }; // it knows the models that reason by name
  await reasoned(provider.responses(MODEL), { providerOptions: { openai } });
}

await run(
  ...trials(provider, MODEL), reasoning, ...trials(provider.responses, MODEL, stateless).map(suffixed),
);
