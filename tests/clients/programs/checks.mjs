// What the programs of the Node clients share; the same as checks.py.
import assert from 'node:assert/strict';

export const [URL, MODEL] = process.argv.slice(2);
export const QUESTION = 'Tell me in two sentences why the sky is blue.';
export const TO_GO_ON = 'Once upon a time, there was a';
export const UNKNOWN_MODEL = 'no-such-model';
export const TOO_MANY_TOKENS = 10_000_000;
export const TOO_LONG = 'word '.repeat(20_000);
export const OVERFLOW = /maximum context length/; // the words by which clients know it
const IDLE_WITHIN_MS = 30_000;

/** Tries one after the other and tells of each, by its name: plainChat → "plain chat". */
export async function run(...trials) {
  for (const trial of trials) {
    const told = { tried: trial.name.replace(/[A-Z]/g, (letter) => ' ' + letter.toLowerCase()), ok: true, said: '' };
    try {
      told.said = (await trial()) ?? '';
    } catch (error) {
      console.error(error);
      Object.assign(told, { ok: false, said: `${error.name}: ${error.message}` });
    }
    console.log(JSON.stringify(told));
  }
}

/** The error that `ask` ends with. */
export async function refused(ask) {
  let answer;
  try {
    answer = await ask();
  } catch (error) {
    return error;
  }
  assert.fail(`answered: ${JSON.stringify(answer)}`);
}

export async function collected(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

/** A stop string: a word in the midst of `text`, with the space before it. */
export function innerWord(text) {
  const words = text.split(' ');
  assert.ok(words.length > 4, `an answer too short to be stopped in: ${text}`);
  return ' ' + words[Math.floor(words.length / 2)];
}

export const until = (text, stop) => text.slice(0, text.indexOf(stop));

/** Returns once the server says that no request runs; what a client has left must be gone soon. */
export async function waitUntilIdle() {
  const end = Date.now() + IDLE_WITHIN_MS;
  let running;
  while (Date.now() < end) {
    const metrics = await (await fetch(`${URL}/metrics`)).text();
    running = metrics.match(/^vllm:num_requests_running\{.*\} (.*)$/m)[1];
    if (Number(running) === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`${running} requests run ${IDLE_WITHIN_MS} ms after the client has left`);
}
