// Markdown to elements, the only place where HTML is parsed. markdown-it escapes what the model wrote (`html: false`), links
// are of three schemes only, images are shown as links, and the page's Content-Security-Policy runs no script but ours.

import { math } from "./math.js";

const MAX_COLOURED_CHARS = 50_000; // of one code block
const MAX_COLOURED_WHILE_OPEN = 4_000; // while it is being written, it is coloured anew each time
const LANGUAGES = { js: "javascript", jsx: "javascript", ts: "javascript", typescript: "javascript", tsx: "javascript", mjs: "javascript",
  py: "python", python3: "python", sh: "bash", shell: "bash", zsh: "bash", console: "bash", html: "markup", xml: "markup", svg: "markup",
  jsonc: "json", scss: "css", c: "clike", cpp: "clike", "c++": "clike", "c#": "clike", csharp: "clike", java: "clike", go: "clike",
  rust: "clike", rs: "clike", kotlin: "clike", swift: "clike", php: "clike", dart: "clike", scala: "clike" };

const md = markdownit({ html: false, linkify: true }).use(math);
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false }); // "main.py" is a file, not a place in Paraguay
md.validateLink = (url) => /^(https?|mailto):/i.test(url.trim());
const escape = md.utils.escapeHtml;

Object.assign(md.renderer.rules, {
  link_open(tokens, at, options, env, self) {
    tokens[at].attrSet("target", "_blank");
    tokens[at].attrSet("rel", "noopener noreferrer nofollow");
    return self.renderToken(tokens, at, options);
  },
  image(tokens, at) { // not loaded: an address can carry what was said to whoever owns it
    const token = tokens[at];
    return `<a href="${escape(token.attrGet("src"))}" target="_blank" rel="noopener noreferrer nofollow">${escape(token.content || "image")}</a>`;
  },
  table_open: () => '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>',
  table_close: () => "</table></div>",
  fence: (tokens, at, options, env) => code(tokens[at], env),
  code_block: (tokens, at, options, env) => code(tokens[at], env),
  th_open: (tokens, at) => cell(tokens[at]),
  td_open: (tokens, at) => cell(tokens[at]),
});
// Below the page's own two levels of headings.
for (const rule of ["heading_open", "heading_close"])
  md.renderer.rules[rule] = (tokens, at) => `<${rule === "heading_open" ? "" : "/"}h${Math.min(Number(tokens[at].tag[1]) + 2, 6)}>`;

/** A cell's alignment as a class: the Content-Security-Policy allows no style attributes. */
function cell(token) {
  const align = /text-align:(\w+)/.exec(token.attrGet("style") ?? "")?.[1];
  return align ? `<${token.tag} class="${align}">` : `<${token.tag}>`;
}

function code(token, env) {
  const word = token.info.trim().split(/\s+/)[0].toLowerCase();
  const limit = env.isOpen ? MAX_COLOURED_WHILE_OPEN : MAX_COLOURED_CHARS;
  const text = token.content.replace(/\n$/, "");
  return `<div class="code"><div class="code-head"><span>${escape(word || "text")}</span><button type="button" class="small copy-code">Copy</button></div>`
    + `<pre tabindex="0" aria-label="Code"><code>${text.length > limit ? escape(text) : coloured(text, word)}</code></pre></div>`;
}

function coloured(text, word) {
  const language = LANGUAGES[word] ?? word;
  const grammar = Object.hasOwn(Prism.languages, language) ? Prism.languages[language] : null;
  return grammar && typeof grammar !== "function" ? Prism.highlight(text, grammar, language) : escape(text);
}

export function colouredJson(text) {
  const made = document.createElement("code");
  made.innerHTML = text.length > MAX_COLOURED_CHARS ? escape(text) : coloured(text, "json");
  return made;
}

function toElement(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild;
}

/** The blocks of a text, [{line, html}]: html is a function, since most are not asked twice. */
function blocks(text, env) {
  const groups = [];
  let depth = 0;
  for (const token of md.parse(text, env)) {
    if (depth === 0) groups.push({ line: token.map[0], tokens: [] });
    groups.at(-1).tokens.push(token);
    depth += token.nesting;
  }
  return groups.map(({ line, tokens }) => ({ line, tokens, html: () => md.renderer.render(tokens, md.options, env) }));
}

/**
 * Markdown that is still being written. A block is final once a later one has begun on a line that is complete, because blocks
 * never reopen; so only the last block is parsed again as text comes, whatever the length of the answer.
 */
export class MarkdownView {
  constructor(place) {
    this.place = place;
    this.rest = ""; // what is not final
    this.final = []; // the HTML of each final block
    this.links = {}; // definitions that later blocks refer to
  }

  /** Takes what has come, without showing it. */
  append(text) { this.rest += text.replaceAll("\r", ""); }

  /** Shows all that has come so far. */
  draw() {
    const env = { references: this.links, isOpen: true };
    const found = blocks(this.rest, env);
    const complete = this.rest.split("\n").length - 1;
    let last = found.length - 1;
    while (last > 0 && found[last].line >= complete) last -= 1;
    if (last > 0) {
      env.isOpen = false;
      for (const block of found.slice(0, last)) this.#put(this.final.length, this.final[this.final.push(block.html()) - 1]);
      env.isOpen = true;
      this.rest = this.rest.slice(lineStart(this.rest, found[last].line));
    }
    const tail = found.slice(Math.max(last, 0));
    tail.forEach((block, at) => this.#drawOpen(this.final.length + at, block));
    this.#cut(this.final.length + tail.length);
  }

  /** Shows a whole text; what stands there already and is the same stays. */
  finish(text) {
    const all = blocks(text.replaceAll("\r", ""), {}).map((block) => block.html());
    all.forEach((html, at) => { if (html !== this.final[at]) this.#put(at, html); });
    this.#cut(all.length);
    this.final = all;
    this.rest = "";
  }

  /** A long code block that grows gets text; everything else is made anew. */
  #drawOpen(at, block) {
    const there = this.place.children[at], [token] = block.tokens;
    const text = token.type === "fence" && there?.classList.contains("code") ? there.querySelector("code").firstChild : null;
    if (text?.nodeType === Node.TEXT_NODE && !text.nextSibling && text.length > MAX_COLOURED_WHILE_OPEN && token.content.startsWith(text.data)) {
      text.appendData(token.content.slice(text.length));
    } else this.#put(at, block.html());
  }

  #put(at, html) {
    const made = toElement(html), there = this.place.children[at];
    if (there) there.replaceWith(made);
    else this.place.append(made);
  }

  #cut(length) { while (this.place.children.length > length) this.place.lastElementChild.remove(); }
}

function lineStart(text, line) {
  let at = 0;
  for (let number = 0; number < line; number += 1) at = text.indexOf("\n", at) + 1;
  return at;
}
