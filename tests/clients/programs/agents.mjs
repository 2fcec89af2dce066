// What the programs of the Node agents share: two tools, what is asked, and what a loop must have made of it.
import assert from 'node:assert/strict';

const ASKED = ['What is the weather in Oslo now?', 'What time is it in Tokyo?', 'What is the weather in Lima now?'];
let called = [];
export const CITY = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
export const TOOLS = {
  get_weather: {
    description: 'Get the current weather in a city.',
    execute: ({ city }) => (called.push('get_weather'), `It is sunny in ${city}, 21 degrees.`),
  },
  get_time: {
    description: 'Get the current time in a city.',
    execute: () => (called.push('get_time'), '12:30'),
  },
};

/**
 * Asks each question of an agent. A call that was written must have been made, not told as words. A small model may go
 * on calling until the client gives up: that is counted, and no fault of the server.
 */
export async function loops(answer) {
  let calls = 0;
  let endless = 0;
  for (const question of ASKED) {
    called = [];
    let text;
    try {
      text = (await answer(question)) ?? '';
    } catch (error) {
      if (/--tool-call-parser/.test(error.message)) return 'refused: the model knows no calls';
      if (!called.length) throw error;
      endless += 1;
      text = '';
    }
    calls += called.length > 0;
    assert.ok(called.length || !text.includes('"get_'), `a call in the words: ${text}`);
  }
  return `tools were called in ${calls} of ${ASKED.length}` + (endless ? `, ${endless} without an end` : '');
}
