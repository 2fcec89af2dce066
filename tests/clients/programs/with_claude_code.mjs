// Anthropic's Claude Code with a base URL: a text, commands, a session that goes on.
import assert from 'node:assert/strict';
import { MODEL, URL, run } from './checks.mjs';
import { lines, withHome } from './cli.mjs';
import { HELLO } from './tasks.mjs';

const claude = (prompt, home, words = []) => lines(
  'claude',
  ['-p', prompt, '--output-format', 'stream-json', '--verbose', '--allowedTools', 'Bash,Read,Write', ...words],
  home,
  {
    ANTHROPIC_BASE_URL: URL,
    ANTHROPIC_AUTH_TOKEN: 'none',
    ANTHROPIC_MODEL: MODEL,
    ANTHROPIC_DEFAULT_HAIKU_MODEL: MODEL,
    ANTHROPIC_SMALL_FAST_MODEL: MODEL,
    CLAUDE_CONFIG_DIR: home,
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
    DISABLE_AUTOUPDATER: '1',
  },
);
const last = (events) => events.find((event) => event.type === 'result');
const results = (events) => events.filter((event) => event.type === 'user')
  .flatMap((event) => event.message.content).filter((block) => block.type === 'tool_result');
const shell = (command) => `call Bash with ${JSON.stringify({ command, description: 'Runs.' })}`;
const share = ({ usage }) => {
  const all = usage.input_tokens + usage.cache_read_input_tokens;
  return `${usage.cache_read_input_tokens} of ${all} tokens are cached`;
};

async function aText() {
  const result = last(await withHome((home) => claude(HELLO, home)));
  assert.deepEqual([result.subtype, result.is_error], ['success', false]);
  assert.match(result.result, /^You said: /); // with the notes of its own that stand around the prompt
  return share(result);
}

async function commands() {
  const task = `${shell('echo one')} then ${shell('echo two > note.txt; cat note.txt')}`;
  const events = await withHome((home) => claude(task, home));
  assert.deepEqual(results(events).map((block) => block.content), ['one', 'two']);
  assert.match(last(events).result, /two/);
  assert.ok(last(events).usage.cache_read_input_tokens > last(events).usage.input_tokens);
  return share(last(events));
}

async function aSessionOfTwentyTurns() {
  const numbers = Array.from({ length: 19 }, (_, number) => `n${number}`);
  const events = await withHome((home) => claude(numbers.map((each) => shell(`echo ${each}`)).join(' then '), home));
  assert.deepEqual(results(events).map((block) => block.content), numbers);
  return share(last(events));
}

async function aToolThatIsFoundAndLoaded() {
  const task = 'call ToolSearch with {"query":"select:WebFetch","max_results":1} then call Bash with {"command":"echo one"}';
  const events = await withHome((home) => claude(task, home));
  assert.deepEqual(results(events)[0].content, [{ type: 'tool_reference', tool_name: 'WebFetch' }]);
  assert.equal(results(events)[1].content, 'one');
}

async function aSessionThatGoesOn() {
  const result = await withHome(async (home) => {
    const first = last(await claude(HELLO, home));
    return last(await claude('And you?', home, ['--resume', first.session_id]));
  });
  assert.equal(result.result, 'You said: And you?');
  assert.ok(result.usage.cache_read_input_tokens > result.usage.input_tokens, JSON.stringify(result.usage));
  return share(result);
}

await run(aText, commands, aToolThatIsFoundAndLoaded, aSessionOfTwentyTurns, aSessionThatGoesOn);
