// The AI SDK's provider for Anthropic, which asks /v1/messages.
import { createAnthropic } from '@ai-sdk/anthropic';
import { reasoned, trials } from './ai_sdk.mjs';
import { MODEL, URL, run } from './checks.mjs';

const provider = createAnthropic({ baseURL: `${URL}/v1`, apiKey: 'none' });

async function reasoning() {
  const thinking = { type: 'enabled', budgetTokens: 1024 };
  await reasoned(provider(MODEL), { providerOptions: { anthropic: { thinking } } });
}

await run(...trials(provider, MODEL), reasoning);
