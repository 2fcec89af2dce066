// TeX in Markdown: $…$ and \(…\) in a line, $$…$$ and \[…\] displayed. KaTeX writes MathML, which browsers draw themselves.

const CLOSERS = { "$$": "$$", "\\[": "\\]", "\\(": "\\)", $: "$" };
const MAX_INLINE_CHARS = 2000; // how far a closing mark is looked for

let escape;

/** A markdown-it plugin. */
export function math(md) {
  escape = md.utils.escapeHtml;
  md.inline.ruler.before("escape", "math_inline", inline);
  md.block.ruler.before("fence", "math_block", block, { alt: ["paragraph", "reference", "blockquote", "list"] });
  md.renderer.rules.math_inline = (tokens, at) => typeset(tokens[at].content, tokens[at].info === "display", tokens[at].markup);
  md.renderer.rules.math_block = (tokens, at) => `<div class="math scroll" tabindex="0" role="group" aria-label="Formula">${typeset(tokens[at].content, true, tokens[at].markup)}</div>\n`;
}

function typeset(tex, displayMode, opener) {
  try {
    return katex.renderToString(tex, { output: "mathml", displayMode, throwOnError: true, strict: "ignore", trust: false, maxExpand: 300, maxSize: 40 });
  } catch { // not TeX that KaTeX knows, or not TeX at all: shown as it was written
    return `<code class="tex">${escape(opener + tex + CLOSERS[opener])}</code>`;
  }
}

function openerAt(text, at) {
  const two = text.slice(at, at + 2);
  return two in CLOSERS ? two : text[at] === "$" ? "$" : null;
}

function inline(state, silent) {
  const { src, pos, posMax } = state;
  const opener = openerAt(src, pos);
  if (!opener || (src[pos] === "\\" && src[pos - 1] === "\\")) return false;
  const begin = pos + opener.length;
  const end = closing(src, begin, Math.min(posMax, begin + MAX_INLINE_CHARS), opener);
  if (end < 0) return false;
  if (!silent) {
    const token = state.push("math_inline", "", 0);
    token.content = src.slice(begin, end);
    token.markup = opener;
    token.info = opener === "$$" || opener === "\\[" ? "display" : "";
  }
  state.pos = end + opener.length;
  return true;
}

/** Where the closing mark stands, or -1. A single $ is held to pandoc's rules, so that "$5 and $10" stays money. */
function closing(src, begin, limit, opener) {
  if (opener === "$" && (begin >= limit || /\s/.test(src[begin]))) return -1;
  const closer = CLOSERS[opener];
  for (let at = begin; (at = src.indexOf(closer, at)) >= 0 && at + closer.length <= limit; at += 1) {
    if (src[at - 1] === "\\" && closer[0] === "$") continue;
    if (at === begin) return -1;
    const isMoney = opener === "$" && (/\s/.test(src[at - 1]) || /\d/.test(src[at + 1] ?? ""));
    return isMoney ? -1 : at;
  }
  return -1;
}

/** Lines from an opener at a line's beginning to a closer at a line's end, without an empty line between. */
function block(state, startLine, endLine, silent) {
  const line = (number) => state.src.slice(state.bMarks[number] + state.tShift[number], state.eMarks[number]);
  const first = line(startLine);
  const opener = first.startsWith("$$") ? "$$" : first.startsWith("\\[") ? "\\[" : null;
  if (!opener || state.sCount[startLine] - state.blkIndent >= 4) return false;
  const parts = [];
  for (let number = startLine; number < endLine; number += 1) {
    const text = number === startLine ? first.slice(2) : line(number);
    if (number > startLine && (!text.trim() || state.sCount[number] < state.blkIndent)) return false;
    const end = text.indexOf(CLOSERS[opener]);
    if (end < 0) { parts.push(text); continue; }
    parts.push(text.slice(0, end));
    if (text.slice(end + 2).trim() || !parts.join("").trim()) return false;
    if (silent) return true;
    const token = state.push("math_block", "", 0);
    Object.assign(token, { block: true, content: parts.join("\n").trim(), markup: opener, map: [startLine, number + 1] });
    state.line = number + 1;
    return true;
  }
  return false;
}
