"""The catalogue of messages: complete, and in agreement with subjects and streams."""

import inspect
import itertools
from collections import Counter

import msgspec
import pytest

from greenroom.common import (
    budgets,
    call_messages,
    commands,
    desired,
    lifecycle,
    mailbox,
    media_messages,
    messages,
    move_messages,
    notices,
    peer_messages,
    pins,
    policy,
    post_call_messages,
    subjects,
    topology,
)
from greenroom.common.lifecycle import Requested
from greenroom.common.message_catalog import CATALOG, Described
from greenroom.common.messages import Event, ExternalEvent, LedgerEntry
from greenroom.common.subjects import Subject
from tests.contract.golden_messages import structs
from tests.support.memory_streams import matches

SUBJECTS = {name: value for name, value in vars(subjects).items() if isinstance(value, Subject)}


def sample(row: Described) -> str:
    """Return a subject that the row's message may be published on."""
    tokens = dict.fromkeys(row.subject.fields, "x")
    if row.name:
        tokens[row.subject.fields[-1]] = row.name
    return row.subject.format(**tokens)


def streams_of(subject: str) -> list[str]:
    """Return the streams that take a subject."""
    return [each.name for each in topology.STREAMS if any(matches(pattern, subject) for pattern in each.subjects)]


def test_every_struct_is_in_the_catalogue() -> None:
    """What the modules of messages define is reached from a row, or it isn't a message."""
    defined = {
        name
        for module in (
            messages,
            budgets,
            commands,
            desired,
            lifecycle,
            mailbox,
            media_messages,
            notices,
            call_messages,
            move_messages,
            peer_messages,
            pins,
            policy,
            post_call_messages,
        )
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, msgspec.Struct)
    }
    assert defined == set(structs())


def test_every_subject_is_in_the_catalogue() -> None:
    """Except for the one that only subscribes: all of a session."""
    described = {row.subject for row in CATALOG}
    assert {name for name, subject in SUBJECTS.items() if subject not in described} == {"SESSION_ALL"}


def test_no_two_rows_are_about_the_same_subject() -> None:
    """Whoever gets a message knows by its subject what it is."""
    for left, right in itertools.combinations(CATALOG, 2):
        assert sample(left) != sample(right)
    shared = Counter(row.subject for row in CATALOG)
    for row in CATALOG:
        assert row.name or shared[row.subject] == 1, row.subject


@pytest.mark.parametrize("row", CATALOG, ids=sample)
def test_a_row_is_in_the_stream_that_takes_its_subject(row: Described) -> None:
    """And in no other one; what belongs to no stream is taken by none, wildcards included."""
    assert streams_of(sample(row)) == ([row.stream] if row.stream else [])
    if row.stream:
        stream = next(stream for stream in topology.STREAMS if stream.name == row.stream)
        assert row.subject.wildcard() in stream.subjects
    assert row.summary.endswith(".")
    assert row.owner


def test_every_subject_of_a_stream_is_in_the_catalogue() -> None:
    """A stream keeps nothing that isn't described."""
    described = {row.subject.wildcard() for row in CATALOG if row.stream}
    assert {subject for stream in topology.STREAMS for subject in stream.subjects} == described


def test_requests_have_replies_and_nothing_else_has() -> None:
    """A command that nobody answers couldn't be told from one that got lost."""
    for row in CATALOG:
        assert (row.reply is not None) == (row.kind in {"command", "request"}), sample(row)


@pytest.mark.parametrize("name", structs())
def test_messages_are_frozen_and_made_by_keyword(name: str) -> None:
    """Nobody changes a message that others hold, and fields may be added in any place."""
    config = structs()[name].__struct_config__
    assert config.frozen
    assert all(
        parameter.kind is inspect.Parameter.KEYWORD_ONLY
        for parameter in inspect.signature(structs()[name]).parameters.values()
    )


def test_an_event_is_an_external_event_with_everything_given() -> None:
    """What we publish ourselves passes the check for what others publish."""
    fields = {field.name for field in msgspec.structs.fields(Event)}
    assert {field.name for field in msgspec.structs.fields(ExternalEvent)} == fields
    assert all(not field.required for field in msgspec.structs.fields(ExternalEvent))


def test_decode_names_the_field_that_is_wrong() -> None:
    """Whoever sent it can find the mistake."""
    with pytest.raises(msgspec.ValidationError, match=r"\$\.transition"):
        messages.decode(b'{"id": "1", "at": "2026-01-01T00:00:00Z", "transition": {"type": "jumped"}}', LedgerEntry)
    with pytest.raises(msgspec.ValidationError, match="session"):
        messages.decode(b'{"type": "requested"}', Requested)
    with pytest.raises(msgspec.DecodeError):
        messages.decode(b"{", Event)


def test_a_nesting_bomb_is_a_decode_error() -> None:
    """A hundred kilobytes of brackets are malformed like anything else: they end no reader."""
    bomb = b'{"data": {"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}"
    with pytest.raises(msgspec.DecodeError, match="nested"):
        messages.decode(bomb, ExternalEvent)
