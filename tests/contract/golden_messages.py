"""Golden messages: what has once gone over the wire, and must decode for ever.

`golden/{Struct}.{n}.json` is one message each, `golden/{Enumeration}.{n}.json` a list of values. They are never changed
and never removed; to add those of new structs, of new fields and of new values:

    python -m tests.contract.golden_messages

It writes only what the existing ones don't show yet: for each struct a message with every field, none of them at its
default, and one with the required fields alone, which says that all the others may stay away; of enumerations the
values that are in none.
"""

import enum
import functools
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec

from greenroom.common import commands, messages
from greenroom.common.media_messages import MediaKind
from greenroom.common.message_catalog import CATALOG
from greenroom.common.messages import ExternalEvent

FOLDER: Final = Path(__file__).parent / "golden"

_AT: Final = "2026-02-03T04:05:06.789012Z"
_TEXTS: Final = {
    "id": "019c2183-5b20-7e3a-9d41-6f0e2a7b8c9d",
    "session_id": "019c2183-5b20-7e3a-9d41-6f0e2a7b8c9d",
    "tenant": "acme",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "runner_id": "runner-1",
    "digits": "1042#",
    "target": "+4930123456",
    "reason": "grüße, “goodbye” \u2028 🎧",
    "subject": "gr.v1.session.acme.019c2183-5b20-7e3a-9d41-6f0e2a7b8c9d.event.crm.ticket_opened",
}


# ---------------------------------------------------------------------------- which there are


@functools.cache
def structs() -> dict[str, type[msgspec.Struct]]:
    """Return every struct that goes over the wire, by name: those of the catalogue and all that they are made of."""
    return {name: kind for name, kind in _reachable().items() if _is(kind, msgspec.Struct)}


@functools.cache
def enumerations() -> dict[str, Any]:
    """Return every enumeration and named literal type that goes over the wire, by name."""
    return {name: kind for name, kind in _reachable().items() if name not in structs()}


def values(kind: Any) -> list[Any]:
    """Return the values of an enumeration or literal type, as they are in JSON."""
    kind = _unnamed(kind)
    return list(get_args(kind)) if get_origin(kind) is Literal else [member.value for member in kind]


@functools.cache
def _reachable() -> dict[str, Any]:
    found: dict[str, Any] = {}
    waiting: list[Any] = [
        ExternalEvent,
        *(kind for row in CATALOG for kind in (row.message, row.reply)),
        # Not in any struct: open vocabularies, and what is outside of the bodies.
        messages.EventType,
        messages.AudioHeader,
        MediaKind,
        messages.Track,
        commands.SessionState,
    ]
    while waiting:
        kind = waiting.pop()
        bare = _unnamed(kind)
        if get_origin(bare) is Literal or _is(bare, enum.Enum):
            found[kind.__name__] = kind
        elif _is(bare, msgspec.Struct) and bare.__name__ not in found:
            found[bare.__name__] = bare
            waiting += [field.type for field in msgspec.structs.fields(bare)]
        else:
            waiting += get_args(bare)
    return dict(sorted(found.items()))


def _is(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _unnamed(kind: Any) -> Any:
    """Return what is behind an alias made by `type X = …`."""
    return getattr(kind, "__value__", kind)


# ---------------------------------------------------------------------------- what they look like


def full(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return a message with every field, none at its default."""
    fields = {field.encode_name: _value(field) for field in msgspec.structs.fields(kind)}
    return _tag(kind) | fields


def minimal(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return a message with the required fields alone."""
    fields = {field.encode_name: _value(field) for field in msgspec.structs.fields(kind) if field.required}
    return _tag(kind) | fields


def _tag(kind: type[msgspec.Struct]) -> dict[str, Any]:
    config = kind.__struct_config__
    return {} if config.tag_field is None else {config.tag_field: config.tag}


def _value(field: msgspec.structs.FieldInfo) -> Any:
    default = None if field.required else field.default
    return next(value for value in _values(field.type, field.name) if value != default)


def _values(kind: Any, name: str) -> Iterator[Any]:
    """Iterate over some values of a type, as JSON has them."""
    kind = _unnamed(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from (value for value in _values(arguments[0], name) if _fits(kind, value))
    elif origin in {typing.Union, types.UnionType}:
        for member in arguments:
            yield from _values(member, name) if member is not types.NoneType else ()
    elif origin is Literal:
        yield from arguments
    elif origin is tuple:
        yield [next(_values(arguments[0], name))]
    elif origin is dict:
        yield {"key": next(_values(arguments[1], "value"))}
    elif _is(kind, msgspec.Struct):
        yield full(kind)
    elif _is(kind, enum.Enum):
        yield from values(kind)
    else:
        yield from _PLAIN[kind.__name__](name)


def _fits(kind: Any, value: Any) -> bool:
    """Tell whether a value keeps the bounds that a type has beside its name."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


_PLAIN: Final[dict[str, Any]] = {
    "str": lambda name: [_TEXTS.get(name, f"a {name}"), f"another {name}"],
    "int": lambda _: [7, 8, 1],
    "float": lambda _: [1.5, 2.5, 0.25],
    "bool": lambda _: [True, False],
    "bytes": lambda _: ["AP9ncg=="],
    "datetime": lambda _: [_AT],
    "time": lambda _: ["08:00:00"],
    "dict": lambda _: [{"key": "value"}],
    "Raw": lambda _: [{"id": "1", "list": [1, None, True]}],
    "Any": lambda _: [{"text": "grüße", "number": 1.5, "none": None, "list": [1, {"deep": True}]}],
}


# ---------------------------------------------------------------------------- what is kept


def golden(name: str) -> list[Path]:
    """Return the golden messages of a struct, or values of an enumeration, the oldest first."""
    return sorted(FOLDER.glob(f"{name}.*.json"), key=_number)


def missing(name: str) -> list[Any]:
    """Return the messages or lists of values that the golden ones don't show yet."""
    kept: list[Any] = [msgspec.json.decode(path.read_bytes()) for path in golden(name)]
    if name in enumerations():
        known = {value for some in kept for value in some}
        added = [value for value in values(enumerations()[name]) if value not in known]
        return [added] if added else []
    kind = structs()[name]
    wanted: list[dict[str, Any]] = []
    if not any(set(full(kind)) <= set(message) for message in kept):
        wanted.append(full(kind))
    if not any(set(message) == set(minimal(kind)) for message in [*kept, *wanted]):
        wanted.append(minimal(kind))
    return wanted


def decode(path: Path, data: bytes | None = None) -> Any:
    """Return what is in a golden file, or in other data of the same kind.

    Raises:
        msgspec.DecodeError: it is no such message any more.
        KeyError: there is no such struct any more.
    """
    name = path.name.split(".")[0]
    kind: Any = list[enumerations()[name]] if name in enumerations() else structs()[name]
    return messages.decode(path.read_bytes() if data is None else data, kind)


def main() -> None:
    """Write the missing ones."""
    for name in (*structs(), *enumerations()):
        for message in missing(name):
            number = max(map(_number, golden(name)), default=0) + 1
            path = FOLDER / f"{name}.{number}.json"
            path.write_bytes(msgspec.json.format(msgspec.json.encode(message)) + b"\n")
            decode(path)
            sys.stdout.write(f"{path}\n")


def _number(path: Path) -> int:
    return int(path.name.split(".")[1])


if __name__ == "__main__":
    main()
