// OpenAI's Codex with a provider of its own: a text, commands, a patch, a session that goes on, an answer in a form.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MODEL, URL, run } from './checks.mjs';
import { lines, withHome } from './cli.mjs';
import { CITY, HELLO, SAID } from './tasks.mjs';

const CONFIG = `
model = "${MODEL}"
model_provider = "jaxserve"
model_context_window = 1000000
model_reasoning_summary = "detailed"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[model_providers.jaxserve]
name = "jaxserve"
base_url = "${URL}/v1"
wire_api = "responses"
env_key = "JAXSERVE_KEY"
request_max_retries = 0
stream_max_retries = 0

[analytics]
enabled = false
`;

const codex = (words, home) => lines(
  'codex', ['exec', ...words], home, { CODEX_HOME: home, JAXSERVE_KEY: 'none', RUST_LOG: 'warn' },
);
const GIVEN = ['--json', '--skip-git-repo-check'];

/** Runs Codex once for each list of words, in one home; returns the events of the last, and that home's reader. */
const session = (...turns) => withHome(async (home) => {
  writeFileSync(join(home, 'config.toml'), CONFIG);
  writeFileSync(join(home, 'schema.json'), JSON.stringify(CITY));
  let events;
  for (const words of turns) events = await codex([...GIVEN, ...words], home);
  const done = events.filter((event) => event.type === 'item.completed').map((event) => event.item);
  const text = done.filter((item) => item.type === 'agent_message').at(-1)?.text;
  const { usage } = events.find((event) => event.type === 'turn.completed');
  let file;
  try {
    file = readFileSync(join(home, 'note.txt'), 'utf8');
  } catch {
    file = undefined;
  }
  return { done, text, usage, file };
});

async function aText() {
  const { done, text, usage } = await session([HELLO]);
  assert.equal(text, SAID);
  assert.ok(usage.input_tokens > 0 && usage.output_tokens > 0);
  return done.map((item) => item.type).join(', ');
}

async function commands() {
  const command = (text) => `call ${SHELL} with ${JSON.stringify(SHELL_INPUT(text))}`;
  const { done, usage, text } = await session([`${command('echo one')} then ${command('echo two > note.txt; cat note.txt')}`]);
  const ran = done.filter((item) => item.type === 'command_execution').map((item) => item.aggregated_output.trim());
  assert.deepEqual(ran, ['one', 'two']);
  assert.match(text, /two/);
  assert.ok(usage.cached_input_tokens > 0);
  return `${usage.cached_input_tokens} of ${usage.input_tokens} tokens are cached`;
}

async function aSessionOfTwentyTurns() {
  const steps = Array.from({ length: 19 }, (_, n) => `call ${SHELL} with ${JSON.stringify(SHELL_INPUT(`echo n${n}`))}`);
  const { done, usage } = await session([steps.join(' then ')]);
  const ran = done.filter((item) => item.type === 'command_execution').map((item) => item.aggregated_output.trim());
  assert.deepEqual(ran, Array.from({ length: 19 }, (_, n) => `n${n}`));
  return `${usage.cached_input_tokens} of ${usage.input_tokens} tokens are cached`;
}

async function aSessionThatGoesOn() {
  const { text } = await session([HELLO], ['resume', '--last', 'And you?']);
  assert.equal(text, 'You said: And you?');
}

async function anAnswerInAForm() {
  const { text } = await session(['--output-schema', 'schema.json', HELLO]);
  assert.deepEqual(JSON.parse(text), { city: 'Oslo' });
}

const SHELL = 'exec_command';
const SHELL_INPUT = (cmd) => ({ cmd });

await run(aText, commands, aSessionOfTwentyTurns, aSessionThatGoesOn, anAnswerInAForm);
