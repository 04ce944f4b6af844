"""What OpenAI's client does for each request to a chat model, and for each piece of its answer, done sooner.

*Answers.* The client takes whatever a server sends: it puts objects together in Python, by the annotations of its
types, and checks nothing. That takes fifteen times as long as pydantic takes to check everything, in C. What pydantic
finds to be as the types say comes out the same either way; all else goes the client's own way, as ever.

*Requests.* The client looks through the whole conversation, by the annotations of each message, for keys that are
written otherwise and for values that need a format: of chat models no parameter has such. Only what isn't JSON yet
(models of pydantic's, iterators) has to be looked for.
"""

import importlib
from typing import Any, Final, cast

from openai import BaseModel, NotGiven, Omit
from openai.types.chat import ChatCompletionChunk, completion_create_params
from pydantic import ValidationError

_responses: Any = importlib.import_module("openai._base_client")
_requests: Any = importlib.import_module("openai.resources.chat.completions.completions")
_construct_type: Final[Any] = _responses.construct_type
_maybe_transform: Final[Any] = _requests.async_maybe_transform

_CHAT: Final = (
    completion_create_params.CompletionCreateParamsStreaming,
    completion_create_params.CompletionCreateParamsNonStreaming,
)
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


class _NotPlain(Exception):
    """There is something that isn't JSON yet."""


def take_shortcuts() -> None:
    """Have all clients of OpenAI's in this process take them; conformance tests look at the client's types."""
    _responses.construct_type = construct_type
    _requests.async_maybe_transform = maybe_transform


def construct_type(*, value: object, type_: object, metadata: list[Any] | None = None) -> object:
    """Return what the client's own function returns.

    But a field with the name of an argument of the client's constructor (`_fields_set`), at which that fails, is a
    field like others.

    Args:
        value: decoded JSON.
        type_: what it should be.
        metadata: of the type.
    """
    if type_ is ChatCompletionChunk:
        try:
            # Strict: nothing is converted.
            chunk = ChatCompletionChunk.model_validate(value, strict=True)
        except ValidationError:
            pass
        else:
            _count_fields_only(chunk)
            for choice in chunk.choices:
                _count_fields_only(choice)
                _count_fields_only(choice.delta)
            return chunk
    return _construct_type(value=value, type_=type_, metadata=metadata)


def _count_fields_only(model: BaseModel) -> None:
    """Take the names that the type doesn't have from those that were set: pydantic has them there, the client not.

    But what may be left out the client has pydantic check, too.
    """
    if model.model_extra:
        model.model_fields_set.difference_update(model.model_extra)


async def maybe_transform(data: dict[str, Any], expected_type: object) -> object:
    """Return what the client's own function returns: JSON, without what wasn't given.

    Args:
        data: parameters by name.
        expected_type: of the parameters.
    """
    if any(expected_type is kind for kind in _CHAT):
        try:
            return {name: _copied(value) for name, value in data.items() if not isinstance(value, NotGiven | Omit)}
        except _NotPlain:
            pass
    return await _maybe_transform(data, expected_type)


def _copied(value: Any) -> Any:
    """Return a copy, as a request that is tried again has to be what it was.

    Raises:
        _NotPlain: it isn't JSON.
    """
    kind = cast("type[object]", type(value))
    if kind in _SCALARS:
        return value
    if kind is dict:
        return {key: _copied(inner) for key, inner in value.items()}
    if kind is list:
        return [_copied(inner) for inner in value]
    raise _NotPlain
