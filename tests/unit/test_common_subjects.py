"""Subjects: one template that publishes, subscribes and parses."""

import itertools
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import subjects
from greenroom.common.subjects import InvalidToken, Subject
from tests.support.memory_streams import matches

ALL = {name: value for name, value in vars(subjects).items() if isinstance(value, Subject)}
ALPHABET = string.ascii_letters + string.digits + "_-"
TOKEN = st.text(ALPHABET, min_size=1, max_size=128)
REST = st.lists(st.text(ALPHABET, min_size=1, max_size=64), min_size=1, max_size=8).map(".".join)
ANY = st.sampled_from(sorted(ALL)).map(ALL.__getitem__)

BAD_TOKENS = [
    "", ".", "*", ">", "a.b", "a.", ".a", "a.*", "a.>", "a*", "a b", " a", "a\n", "\na", "\x00", "a/b", "a:b", "$JS",
    "ü", "٣", "a" * 129,
]  # fmt: skip
BAD_RESTS = [
    "", ".", "*", ">", "a..b", "a.", ".a", "a.*", "*.a", "a.>", ">.a", "a b.c", "a.b\n", "ü.a", "a" * 65,
    "a." + "b" * 65, ".".join("abcdefghi"),
]  # fmt: skip


def rest_of(subject: Subject) -> str | None:
    """Return the name of the placeholder that stands for several tokens."""
    found = re.search(r"\{(\w+)\*\}", subject.template)
    return found[1] if found else None


def tokens_of(subject: Subject) -> st.SearchStrategy[dict[str, str]]:
    """Return good tokens for each placeholder."""
    return st.fixed_dictionaries({field: REST if field == rest_of(subject) else TOKEN for field in subject.fields})


SUBJECT_AND_TOKENS = ANY.flatmap(lambda subject: st.tuples(st.just(subject), tokens_of(subject)))


@given(SUBJECT_AND_TOKENS)
def test_parse_gives_back_what_was_formatted(case: tuple[Subject, dict[str, str]]) -> None:
    """Whatever the tokens: a subject that was made from a template is parsed by it into the same tokens."""
    subject, tokens = case
    assert subject.parse(subject.format(**tokens)) == tokens


@given(SUBJECT_AND_TOKENS, st.data())
def test_a_wildcard_hears_what_its_template_formats(case: tuple[Subject, dict[str, str]], data: st.DataObject) -> None:
    """With some tokens given it hears the subjects that have just those, whatever the others are."""
    subject, tokens = case
    given_names = data.draw(st.sets(st.sampled_from(subject.fields)))
    pattern = subject.wildcard(**{name: tokens[name] for name in given_names})
    assert matches(subject.wildcard(), subject.format(**tokens))
    assert matches(pattern, subject.format(**tokens))
    other = data.draw(tokens_of(subject))
    same = all(other[name] == tokens[name] for name in given_names)
    assert matches(pattern, subject.format(**other)) == same


@given(SUBJECT_AND_TOKENS, ANY)
def test_a_subject_belongs_to_one_template(case: tuple[Subject, dict[str, str]], other: Subject) -> None:
    """No template parses, and no wildcard hears, what another one formats; only SESSION_ALL is for all of a session."""
    subject, tokens = case
    formatted = subject.format(**tokens)
    if other is subject or subjects.SESSION_ALL in {subject, other}:
        return
    assert other.parse(formatted) is None
    assert not matches(other.wildcard(), formatted)


@pytest.mark.parametrize("name", sorted(ALL))
def test_nothing_can_be_smuggled_into_a_subject(name: str) -> None:
    """Dots, wildcards, blanks, line ends and foreign letters are refused in every placeholder, by both uses."""
    subject = ALL[name]
    good = dict.fromkeys(subject.fields, "x")
    for field in subject.fields:
        for bad in BAD_RESTS if field == rest_of(subject) else BAD_TOKENS:
            with pytest.raises(InvalidToken):
                subject.format(**{**good, field: bad})
            with pytest.raises(InvalidToken):
                subject.wildcard(**{field: bad})


@given(SUBJECT_AND_TOKENS, st.text(), st.data())
def test_any_text_is_a_token_or_refused(case: tuple[Subject, dict[str, str]], text: str, data: st.DataObject) -> None:
    """What is accepted keeps the number of dots and holds no wildcard."""
    subject, tokens = case
    field = data.draw(st.sampled_from(subject.fields))
    try:
        formatted = subject.format(**{**tokens, field: text})
    except InvalidToken:
        return
    assert not set(formatted) & set("*> \t\r\n")
    before = subject.format(**tokens)
    if field != rest_of(subject):
        assert formatted.count(".") == before.count(".")
    assert subject.parse(formatted) == {**tokens, field: text}


@pytest.mark.parametrize("name", sorted(ALL))
def test_tokens_must_be_those_of_the_template(name: str) -> None:
    """A missing token can't be published with, and an unknown one is a mistake, not a wider subscription."""
    subject = ALL[name]
    good = dict.fromkeys(subject.fields, "x")
    for field in subject.fields:
        with pytest.raises(InvalidToken, match=field):
            subject.format(**{key: value for key, value in good.items() if key != field})
    with pytest.raises(InvalidToken, match="nothing"):
        subject.format()
    with pytest.raises(InvalidToken, match="tenent"):
        subject.format(**good, tenent="x")
    with pytest.raises(InvalidToken, match="tenent"):
        subject.wildcard(tenent="x")


@pytest.mark.parametrize(
    "subject",
    [
        "gr.v1.session.t.s.lifecycle.more",
        "gr.v1.session.t.lifecycle",
        "gr.v1.session.t.s.lifecycle\n",
        "gr.v1.session.t..lifecycle",
        "gr.v1.session.*.s.lifecycle",
        "gr.v2.session.t.s.lifecycle",
        "xgr.v1.session.t.s.lifecycle",
        "grxv1xsessionxtxsxlifecycle",
        "",
    ],
)
def test_what_has_another_shape_is_not_parsed(subject: str) -> None:
    """Neither more nor fewer tokens, nor another version, nor a wildcard."""
    assert subjects.SESSION_LIFECYCLE.parse(subject) is None


def test_a_rest_is_one_to_eight_tokens() -> None:
    """Event types of other services have dots, within bounds."""
    event = subjects.SESSION_EVENT
    assert event.format(tenant="t", session_id="s", type="crm.ticket_opened") == (
        "gr.v1.session.t.s.event.crm.ticket_opened"
    )
    assert event.parse("gr.v1.session.t.s.event.a.b.c.d.e.f.g.h") == {
        "tenant": "t", "session_id": "s", "type": "a.b.c.d.e.f.g.h",
    }  # fmt: skip
    assert event.parse("gr.v1.session.t.s.event.a.b.c.d.e.f.g.h.i") is None
    assert event.parse("gr.v1.session.t.s.event") is None
    assert event.wildcard(tenant="t") == "gr.v1.session.t.*.event.>"


def test_every_template_is_there_once() -> None:
    """Two names for one subject would be two truths."""
    templates = [subject.template for subject in ALL.values()]
    assert len(set(templates)) == len(templates) > 0
    for subject in ALL.values():
        assert len(set(subject.fields)) == len(subject.fields)
        assert subject.template.startswith("gr.v1.")
        assert rest_of(subject) in {None, subject.fields[-1]}
        assert repr(subject) == f"Subject({subject.template!r})"


def test_wildcards_of_two_templates_never_meet() -> None:
    """Streams on different subjects can't overlap, which the server would refuse."""
    for left, right in itertools.combinations([each for name, each in ALL.items() if name != "SESSION_ALL"], 2):
        sample = left.format(**dict.fromkeys(left.fields, "x"))
        assert not matches(right.wildcard(), sample)
