"""A reference recogniser for GBNF: sets of end positions, computed until nothing changes. For short texts."""

from jaxserve.structured.productions import Alternation, CharClass, Concatenation, Repetition, RuleRef


class Recognizer:
    """Recognises one text by the rules of a grammar, each of which must derive some finite text.

    ends[name, start]   indices at which a text of the rule that begins at `start` may end
    unfinished          (name, start) of rules some text of which begins with the whole rest of the text
    """

    def __init__(self, rules, text):
        self._rules, self._text = rules, text
        self.ends = {(name, start): set() for name in rules for start in range(len(text) + 1)}
        self.unfinished = set()
        size = -1
        while size != (size := len(self.unfinished) + sum(map(len, self.ends.values()))):
            for name, start in self.ends:
                ends, is_unfinished = self._derive(rules[name], start)
                self.ends[name, start] |= ends
                self.unfinished |= {(name, start)} if is_unfinished else set()

    def accepts(self):
        return len(self._text) in self.ends["root", 0]

    def is_prefix(self):
        return ("root", 0) in self.unfinished

    def _derive(self, node, start):
        """Return (indices at which the node may end, whether some text of it begins with the rest of the text)."""
        match node:
            case CharClass(ranges):
                if start == len(self._text):
                    return set(), True
                is_in = any(low <= ord(self._text[start]) <= high for low, high in ranges)
                return ({start + 1} if is_in else set()), is_in and start + 1 == len(self._text)
            case RuleRef(name):
                return self.ends[name, start], (name, start) in self.unfinished
            case Alternation(options):
                derived = [self._derive(option, start) for option in options]
                return set().union(*(ends for ends, _ in derived)), any(is_unfinished for _, is_unfinished in derived)
            case Concatenation(items):
                return self._follow(items, {start})
            case Repetition(item, least, most):
                bound = len(self._text) + 1
                times = max(least, bound) if most is None else most
                ends, is_unfinished = self._follow([item] * least, {start})
                reached, all_ends = ends, set(ends)
                for _ in range(least, min(times, least + bound)):
                    reached, is_more_unfinished = self._follow([item], reached)
                    is_unfinished |= is_more_unfinished
                    all_ends |= reached
                return all_ends, is_unfinished

    def _follow(self, items, starts):
        """Derive items one after the other, from any of the starts."""
        is_unfinished = len(self._text) in starts
        for item in items:
            derived = [self._derive(item, start) for start in starts]
            starts = set().union(*(ends for ends, _ in derived))
            is_unfinished |= any(is_item_unfinished for _, is_item_unfinished in derived) or len(self._text) in starts
        return starts, is_unfinished
