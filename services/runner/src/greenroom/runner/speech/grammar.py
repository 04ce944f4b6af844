"""A JSGF grammar as the smallest graph of words that has the same sentences. Pure; imports the standard library only.

pocketsphinx compiles JSGF by copying a rule to every place where it is mentioned: the front desk's grammar becomes 2032
states with 21,459 transitions, 15 MB, most of which is written to with each sentence. The smallest deterministic
graph of the same sentences has 133 states and 627 transitions.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_COMMENT: Final = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_HEADER: Final = re.compile(r"\s*#JSGF\s+V1\.0[^;]*;\s*grammar\s+[\w.]+\s*;")
_RULE: Final = re.compile(r"\s*(public\s+)?<([\w.]+)>\s*=([^;=]*)")
_TOKEN: Final = re.compile(r"\s*(<[\w.]+>|[|()\[\]]|[\w'.-]+)")
_CLOSING: Final = {"(": ")", "[": "]"}


class Arc(NamedTuple):
    """A step from one state to another by a word."""

    source: int
    word: str
    target: int


class WordGraph(NamedTuple):
    """A sentence is a way from state 0 to one of `accepting`. States are numbered without gaps."""

    arcs: tuple[Arc, ...]
    accepting: frozenset[int]

    @property
    def words(self) -> frozenset[str]:
        """All words of the grammar."""
        return frozenset(arc.word for arc in self.arcs)

    @property
    def states(self) -> int:
        """How many states there are."""
        return 1 + max((max(arc.source, arc.target) for arc in self.arcs), default=0)


def word_graph(jsgf: str) -> WordGraph:
    """Compile a grammar: rules, alternatives, groups and optional parts; no weights, tags, repetition or recursion.

    Raises:
        ValueError: the grammar can't be parsed, has no sentences, or uses what isn't supported.
    """
    rough = _Compiler(_parse(jsgf)).automaton
    # Brzozowski: what is made deterministic backwards and then forwards is the smallest there is.
    smallest = _determinized(_reversed(_determinized(_reversed(rough))))
    arcs = tuple(Arc(source, word, target) for source, word, target in smallest.steps if word is not None)
    if not arcs:
        raise ValueError("the grammar has no sentences")
    return WordGraph(arcs, frozenset(smallest.ends))


# ---------------------------------------------------------------------------- from text to rules


class _Rules(NamedTuple):
    tokens: dict[str, list[str]]
    public: str


def _parse(jsgf: str) -> _Rules:
    text = _COMMENT.sub(" ", jsgf)
    header = _HEADER.match(text)
    if header is None:
        raise ValueError("the grammar doesn't begin with `#JSGF V1.0;` and `grammar NAME;`")
    tokens: dict[str, list[str]] = {}
    public: list[str] = []
    for statement in text[header.end() :].split(";"):
        if not statement.strip():
            continue
        rule = _RULE.fullmatch(statement)
        if rule is None:
            raise ValueError(f"the grammar has a statement that isn't a rule: {statement.strip()[:60]!r}")
        tokens[rule[2]] = _tokens(rule[3])
        if rule[1]:
            public.append(rule[2])
    if len(public) != 1:
        raise ValueError(f"the grammar has {len(public)} public rules, not one")
    return _Rules(tokens, public[0])


def _tokens(body: str) -> list[str]:
    found: list[str] = []
    position, end = 0, len(body.rstrip())
    while position < end:
        token = _TOKEN.match(body, position)
        if token is None:
            raise ValueError(f"the grammar has something that isn't supported: {body[position:].strip()[:20]!r}")
        found.append(token[1])
        position = token.end()
    return found


# ---------------------------------------------------------------------------- from rules to an automaton


class _Automaton(NamedTuple):
    """Steps from state to state, by a word or, with None, by nothing."""

    steps: list[tuple[int, str | None, int]]
    starts: set[int]
    ends: set[int]


class _Compiler:
    """Writes each rule out where it is mentioned."""

    def __init__(self, rules: _Rules) -> None:
        self._rules = rules
        self._steps: list[tuple[int, str | None, int]] = []
        self._states = 0
        self._open: list[str] = []
        start = self._new()
        self.automaton = _Automaton(self._steps, {start}, {self._rule(rules.public, start)})

    def _new(self) -> int:
        self._states += 1
        return self._states - 1

    def _rule(self, name: str, start: int) -> int:
        if name not in self._rules.tokens:
            raise ValueError(f"the grammar has no rule <{name}>")
        if name in self._open:
            raise ValueError(f"the grammar's rule <{name}> contains itself")
        self._open.append(name)
        end = self._choice(iter(self._rules.tokens[name]), start, None)
        self._open.pop()
        return end

    def _choice(self, tokens: Iterator[str], start: int, closing: str | None) -> int:
        """Add alternatives up to the closing bracket; return the state in which all of them end."""
        end = self._new()
        at = start
        for symbol in tokens:
            if symbol == closing:
                break
            if symbol == "|":
                self._steps.append((at, None, end))
                at = start
            else:
                at = self._part(symbol, tokens, at)
        else:
            if closing is not None:
                raise ValueError(f"the grammar lacks a {closing!r}")
        self._steps.append((at, None, end))
        return end

    def _part(self, symbol: str, tokens: Iterator[str], at: int) -> int:
        if symbol in _CLOSING:
            # A state of its own: what is optional must not lead back to where other alternatives begin.
            inside = self._new()
            self._steps.append((at, None, inside))
            end = self._choice(tokens, inside, _CLOSING[symbol])
            if symbol == "[":
                self._steps.append((inside, None, end))
            return end
        if symbol in _CLOSING.values():
            raise ValueError(f"the grammar has a {symbol!r} too many")
        if symbol.startswith("<"):
            return self._rule(symbol[1:-1], at)
        end = self._new()
        self._steps.append((at, symbol, end))
        return end


# ---------------------------------------------------------------------------- from one automaton to another


def _reversed(automaton: _Automaton) -> _Automaton:
    steps = [(target, word, source) for source, word, target in automaton.steps]
    return _Automaton(steps, automaton.ends, automaton.starts)


def _determinized(automaton: _Automaton) -> _Automaton:
    """Return the automaton in which each state is a set of states of the given one; it starts in state 0."""
    free: dict[int, list[int]] = defaultdict(list)
    by_word: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for source, word, target in automaton.steps:
        if word is None:
            free[source].append(target)
        else:
            by_word[source].append((word, target))

    def closure(states: Iterable[int]) -> frozenset[int]:
        reached = set(states)
        unseen = list(reached)
        while unseen:
            new = [target for target in free[unseen.pop()] if target not in reached]
            reached.update(new)
            unseen += new
        return frozenset(reached)

    start = closure(automaton.starts)
    numbers = {start: 0}
    todo = [start]
    steps: list[tuple[int, str | None, int]] = []
    while todo:
        states = todo.pop()
        targets: dict[str, set[int]] = defaultdict(set)
        for state in states:
            for word, target in by_word[state]:
                targets[word].add(target)
        # In order, so that the same grammar gives the same graph in every process.
        for word in sorted(targets):
            reached = closure(targets[word])
            if reached not in numbers:
                numbers[reached] = len(numbers)
                todo.append(reached)
            steps.append((numbers[states], word, numbers[reached]))
    return _Automaton(steps, {0}, {number for states, number in numbers.items() if states & automaton.ends})
