// What this browser keeps: conversations, settings and theme in localStorage, the API key for this tab in sessionStorage.
// Each conversation has a key of its own, so two tabs do not overwrite each other's.
// A conversation: {id, title, updated, messages, firstSeen, limit}; firstSeen: the first message that still fits a context of
// `limit` tokens.

const PREFIX = "jaxserve.";
const CHAT = PREFIX + "chat.";
export const MAX_CONVERSATIONS = 100;
export const MAX_CHARS = 4_000_000; // browsers give an origin about 5 million

export function read(name, otherwise) {
  try { return JSON.parse(localStorage.getItem(PREFIX + name)) ?? otherwise; } catch { return otherwise; }
}

/** Whether it could be written: storage may be full, or forbidden. */
export function write(name, value) {
  try { localStorage.setItem(PREFIX + name, JSON.stringify(value)); return true; } catch { return false; }
}

export const key = {
  get: () => { try { return sessionStorage.getItem(PREFIX + "key") ?? ""; } catch { return ""; } },
  set: (value) => { try { sessionStorage.setItem(PREFIX + "key", value); } catch { /* asked for again after a reload */ } },
};

function chatKeys() {
  try { return Object.keys(localStorage).filter((name) => name.startsWith(CHAT)); } catch { return []; }
}

/** Every conversation, newest first. What cannot be read is passed over. */
export function conversations() {
  const all = chatKeys().map((name) => read(name.slice(PREFIX.length), null));
  return all.filter((one) => Array.isArray(one?.messages)).sort((a, b) => b.updated - a.updated);
}

export const newConversation = () => ({ id: newId(), title: "", updated: Date.now(), messages: [], firstSeen: 0 });

// Not crypto.randomUUID: pages of plain http hosts have none.
const newId = () => Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) => part.toString(36)).join("");

/**
 * Keeps a conversation, and forgets the oldest others where there are too many or the browser has no more room.
 * Returns the titles of those forgotten, and whether this one is kept.
 */
export function save(conversation) {
  const others = conversations().filter((one) => one.id !== conversation.id);
  const size = (one) => JSON.stringify(one).length;
  const forgotten = [];
  let chars = size(conversation) + others.reduce((sum, one) => sum + size(one), 0);
  const forgetOldest = () => {
    const oldest = others.pop();
    chars -= size(oldest);
    remove(oldest.id);
    forgotten.push(oldest.title);
  };
  while (others.length && (others.length >= MAX_CONVERSATIONS || chars > MAX_CHARS)) forgetOldest();
  let isKept = write("chat." + conversation.id, conversation);
  while (!isKept && others.length && chatKeys().length) {
    forgetOldest();
    isKept = write("chat." + conversation.id, conversation);
  }
  return { forgotten, isKept };
}

export function remove(id) {
  try { localStorage.removeItem(CHAT + id); } catch { /* there was none */ }
}

/** Calls when another tab has changed a conversation. */
export function onOtherTab(changed) {
  addEventListener("storage", (event) => { if (event.key === null || event.key.startsWith(CHAT)) changed(); });
}
