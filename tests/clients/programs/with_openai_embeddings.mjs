// Embeddings by the openai SDK in Node, which asks for base64 unless it is told otherwise.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { MODEL, URL, refused, run } from './checks.mjs';

const TEXTS = ['A cat sits on the mat.', 'A kitten is on the rug.', 'Shares fell by two percent.'];
const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: 'none', maxRetries: 0 });
const ask = (how = {}) => client.embeddings.create({ model: MODEL, input: TEXTS, ...how });
const product = (one, other) => one.reduce((sum, value, index) => sum + value * other[index], 0);

async function embeddings() {
  const { data, usage } = await ask();
  const [cat, kitten, shares] = data.map((each) => each.embedding);
  assert.ok(Math.abs(product(cat, cat) - 1) < 1e-5);
  assert.ok(product(cat, kitten) > 0.5 && product(cat, shares) < 0.2);
  assert.ok(usage.prompt_tokens > 0);
  return `${cat.length} numbers, alike ${product(cat, kitten).toFixed(2)}, unlike ${product(cat, shares).toFixed(2)}`;
}

async function numbersAreTheSameAsInBase64() {
  const [floats, base64] = await Promise.all([ask({ encoding_format: 'float' }), ask()]);
  floats.data.forEach(({ embedding }, index) => {
    const other = base64.data[index].embedding;
    assert.ok(embedding.every((value, place) => Math.abs(value - other[place]) < 1e-6));
  });
}

async function dimensionsThatTheModelDoesNotHave() {
  const error = await refused(() => ask({ dimensions: 100_000 }));
  assert.ok(error instanceof OpenAI.BadRequestError, error);
  assert.equal(error.param, 'dimensions');
}

await run(embeddings, numbersAreTheSameAsInBase64, dimensionsThatTheModelDoesNotHave);
