"""The graph of words that a grammar is compiled to."""

import itertools
from collections.abc import Iterator
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.speech.grammar import WordGraph, word_graph

_HEAD = "#JSGF V1.0; grammar test; public <all> = "
# A grammar's text, and what it says: sentences are tuples of words.
type _Part = tuple[str, frozenset[tuple[str, ...]]]


def _sentences(graph: WordGraph) -> Iterator[str]:
    """Yield all that can be said on the way through a graph."""
    todo: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    while todo:
        state, said = todo.pop()
        if state in graph.accepting:
            yield " ".join(said)
        todo += [(target, (*said, word)) for source, word, target in graph.arcs if source == state]


@pytest.mark.parametrize(
    ("body", "sentences"),
    [
        ("yes", {"yes"}),
        ("yes | no", {"yes", "no"}),
        ("yes [please]", {"yes", "yes please"}),
        ("[oh] (yes | no) thanks", {"yes thanks", "no thanks", "oh yes thanks", "oh no thanks"}),
        ("<a> and <a>; <a> = one | two", {"one and one", "one and two", "two and one", "two and two"}),
        ("at <t>; <t> = noon | six [o'clock] // whenever\n", {"at noon", "at six", "at six o'clock"}),
        ("/* either */ a | b a | (b [c] | b c)", {"a", "b a", "b", "b c"}),
    ],
)
def test_a_graph_says_what_its_grammar_says(body: str, sentences: set[str]) -> None:
    """Rules, alternatives, groups, optional parts and comments mean what they mean in JSGF."""
    said = list(_sentences(word_graph(f"{_HEAD}{body};")))
    assert set(said) == sentences
    assert len(said) == len(sentences)


def _sequence(parts: list[_Part]) -> _Part:
    said = {tuple(itertools.chain(*words)) for words in itertools.product(*(sentences for _, sentences in parts))}
    return " ".join(text for text, _ in parts), frozenset(said)


def _choice(parts: list[_Part]) -> _Part:
    return f"({' | '.join(text for text, _ in parts)})", frozenset().union(*(sentences for _, sentences in parts))


_words: st.SearchStrategy[_Part] = st.sampled_from("abc").map(lambda word: (word, frozenset({(word,)})))
_parts = st.recursive(
    _words,
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(_sequence),
        st.lists(parts, min_size=1, max_size=3).map(_choice),
        parts.map(lambda part: (f"[{part[0]}]", part[1] | {()})),
    ),
    max_leaves=8,
)


@given(_parts.filter(lambda part: any(part[1])))
def test_any_grammar_keeps_its_sentences(part: _Part) -> None:
    """Whatever is nested in what, each sentence is in the graph once, and nothing else is."""
    body, sentences = part
    graph = word_graph(f"{_HEAD}{body};")
    assert sorted(_sentences(graph)) == sorted(" ".join(words) for words in sentences)
    assert {state for arc in graph.arcs for state in (arc.source, arc.target)} == set(range(graph.states))


def test_a_graph_is_as_small_as_can_be() -> None:
    """What can be said from two states differs, or they are one."""
    graph = word_graph(resources.files("greenroom.runner.bots").joinpath("frontdesk.jsgf").read_text())
    futures: list[object] = [state in graph.accepting for state in range(graph.states)]
    while True:
        refined: list[object] = [
            (futures[state], frozenset((arc.word, futures[arc.target]) for arc in graph.arcs if arc.source == state))
            for state in range(graph.states)
        ]
        numbers = {future: number for number, future in enumerate(dict.fromkeys(refined))}
        if len(numbers) == len(set(futures)):
            break
        futures = [numbers[future] for future in refined]
    assert len(set(futures)) == graph.states < 150


@pytest.mark.parametrize(
    ("grammar", "complaint"),
    [
        ("", "begin with"),
        (f"{_HEAD}(yes;", "lacks a '\\)'"),
        (f"{_HEAD}yes];", "a '\\]' too many"),
        (f"{_HEAD}<other>;", "no rule <other>"),
        (f"{_HEAD}on and <all>;", "contains itself"),
        (f"{_HEAD}very* good;", "isn't supported"),
        (f"{_HEAD}/0.5/ yes | no;", "isn't supported"),
        (f"{_HEAD}[];", "no sentences"),
        ("#JSGF V1.0; grammar test; <all> = yes;", "0 public rules"),
        ("#JSGF V1.0; grammar test; import <other.*>; public <all> = yes;", "isn't a rule"),
    ],
)
def test_a_grammar_that_cant_be_compiled_is_refused(grammar: str, complaint: str) -> None:
    """What is wrong, or not supported, is said; nothing is left out silently."""
    with pytest.raises(ValueError, match=complaint):
        word_graph(grammar)
