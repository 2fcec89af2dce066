// The server that this page came from: requests, events, and what its refusals mean.

import { key } from "./store.js";

const BASE = location.pathname.replace(/[^/]*$/, ""); // works under a proxy's path prefix, too

/** Something that the server said, or that it did not answer. field: the request's field that it names; needsKey: 401. */
export class ApiError extends Error {
  constructor(message, { field = null, needsKey = false, status = 0 } = {}) {
    super(message);
    Object.assign(this, { field, needsKey, status });
  }
}

/** The response, if it is a good one. Throws ApiError, or AbortError. */
export async function call(path, options = {}) {
  const held = key.get();
  const headers = { "Content-Type": "application/json", ...(held && { Authorization: "Bearer " + held }) };
  const response = await fetch(BASE + path, { ...options, headers }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it still running?");
  });
  if (!response.ok) throw await refusal(response, held);
  return response;
}

export const post = (path, body, signal) => call(path, { method: "POST", body: JSON.stringify(body), signal });

async function refusal(response, held) {
  const { status } = response;
  if (status === 401) {
    const message = held ? "The server does not know this API key." : "This server wants an API key. Enter it in the settings, then try again.";
    return new ApiError(message, { needsKey: true, status });
  }
  const body = await response.json().catch(() => null);
  const error = body?.error;
  const message = typeof error === "string" ? error : error?.message;
  return new ApiError(message ?? `The server answered with status ${status} and no reason.`, { field: error?.param?.replace(/^body\./, "") ?? null, status });
}

/** The JSON of each server-sent event, until [DONE]. Throws ApiError for an event that is an error, or a broken connection. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The connection to the server broke off.");
    });
    if (done) throw new ApiError("The server ended the answer without finishing it.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message ?? "The server could not finish this answer.");
      yield event;
    }
  }
}
