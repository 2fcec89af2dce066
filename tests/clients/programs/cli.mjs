// Runs the program of a coding agent in a home of its own, which holds nothing of the user's.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const WITHIN_MS = 120_000;
const BIN = join(import.meta.dirname, 'node_modules', '.bin');

/** Makes a home with a folder to work in, and removes it when `use` is done with it. */
export async function withHome(use) {
  const home = mkdtempSync(join(tmpdir(), 'client-'));
  try {
    return await use(home);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}

/** Runs a program of the npm project in a folder; returns the lines of JSON that it prints. */
export async function lines(program, words, folder, environment) {
  const child = spawn(join(BIN, program), words, {
    cwd: folder,
    env: { PATH: process.env.PATH, LANG: 'C.UTF-8', HOME: folder, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: WITHIN_MS,
  });
  let output = '';
  let errors = '';
  child.stdout.on('data', (data) => (output += data));
  child.stderr.on('data', (data) => (errors += data));
  const code = await new Promise((resolve, reject) => child.on('close', resolve).on('error', reject));
  console.error(output, errors);
  assert.equal(code, 0, `${program} ended with ${code}: ${(errors || output).slice(-300)}`);
  return output.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
}
