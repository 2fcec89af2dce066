"""What a GBNF grammar derives, by definition: sets of end positions, until nothing changes. For short texts."""

from jaxserve.structured.productions import Alternation, CharClass, Concatenation, Repetition, RuleRef


class Recognizer:
    """Of one text: where each rule may end, for each place at which it may begin, and whether it may go on from there.

    ends[name, start]    places at which a text of the rule that begins at `start` may end
    goes_on              (name, start) of rules of which some text begins with all that is left of the text

    Every rule must derive some finite text.
    """

    def __init__(self, rules, text):
        self._rules, self._text = rules, text
        self.ends = {(name, start): set() for name in rules for start in range(len(text) + 1)}
        self.goes_on = set()
        size = -1
        while size != (size := len(self.goes_on) + sum(map(len, self.ends.values()))):
            for name, start in self.ends:
                ends, goes_on = self._derive(rules[name], start)
                self.ends[name, start] |= ends
                self.goes_on |= {(name, start)} if goes_on else set()

    def accepts(self):
        return len(self._text) in self.ends["root", 0]

    def is_prefix(self):
        return ("root", 0) in self.goes_on

    def _derive(self, node, start):
        """(where the node may end, whether some text of the node begins with all that is left)"""
        match node:
            case CharClass(ranges):
                if start == len(self._text):
                    return set(), True
                is_in = any(low <= ord(self._text[start]) <= high for low, high in ranges)
                return ({start + 1} if is_in else set()), is_in and start + 1 == len(self._text)
            case RuleRef(name):
                return self.ends[name, start], (name, start) in self.goes_on
            case Alternation(options):
                derived = [self._derive(option, start) for option in options]
                return set().union(*(ends for ends, _ in derived)), any(goes_on for _, goes_on in derived)
            case Concatenation(items):
                return self._follow(items, {start})
            case Repetition(item, least, most):
                bound = len(self._text) + 1
                times = max(least, bound) if most is None else most
                ends, goes_on = self._follow([item] * least, {start})
                reached, found = ends, set(ends)
                for _ in range(least, min(times, least + bound)):
                    reached, goes_further = self._follow([item], reached)
                    goes_on |= goes_further
                    found |= reached
                return found, goes_on

    def _follow(self, items, starts):
        """One item behind the other, from any of the starts."""
        goes_on = len(self._text) in starts
        for item in items:
            derived = [self._derive(item, start) for start in starts]
            starts = set().union(*(ends for ends, _ in derived))
            goes_on |= any(further for _, further in derived) or len(self._text) in starts
        return starts, goes_on
