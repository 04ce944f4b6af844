"""What OpenAI's client reads and writes is the same with shortcuts; its types, on which they stand, are as known."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Required,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import NOT_GIVEN, BaseModel, omit
from openai._utils import PropertyInfo
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage, completion_create_params
from openai.types.chat.chat_completion_chunk import Choice, ChoiceDelta
from pydantic import ValidationError

from greenroom.runner import openai_shortcuts
from greenroom.runner.openai_shortcuts import construct_type, maybe_transform

CHAT = completion_create_params.CompletionCreateParamsStreaming
# Those that the client puts together itself; what may be left out in them it has pydantic check, too.
PUT_TOGETHER = {ChatCompletionChunk, Choice, ChoiceDelta}
# What strict and usual checks make the same of, if the strict one passes.
CHECKED = (str, int, float, bool, NoneType)

# ---------------------------------------------------------------------------- answers

texts = st.text(st.characters(), max_size=5)  # halves of surrogate pairs, too: JSON may have them
numbers = st.integers() | st.sampled_from([2**53 + 1, 2**70, -(2**63), 0])
scalars = st.none() | st.booleans() | numbers | st.floats() | texts | st.sampled_from(["1", "stop", "function"])
# The client fails at fields that have the names of its constructor's arguments.
names = texts | st.sampled_from(["x_groq", "reasoning_content", "model_config", "copy", "self", "content", "delta"])
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2), max_leaves=4
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object as it should be, maybe with more than that."""
    more = st.just({}) | st.dictionaries(names.filter(lambda name: name not in fields), junk, max_size=2)
    return st.tuples(st.fixed_dictionaries(dict(fields)), more).map(lambda parts: parts[0] | parts[1])


def chunks() -> st.SearchStrategy[Any]:
    """Chunks of an answer."""
    maybe_text = st.none() | texts
    function = some(name=maybe_text, arguments=maybe_text)
    call = some(index=numbers, id=maybe_text, function=st.none() | function, type=st.sampled_from([None, "function"]))
    token = some(token=texts, bytes=st.none() | st.lists(numbers, max_size=2), logprob=st.floats() | numbers)
    tokens = st.none() | st.lists(token.map(lambda it: it | {"top_logprobs": []}), max_size=2)
    audio = some(id=maybe_text, data=maybe_text, expires_at=st.none() | numbers, transcript=maybe_text)
    delta = some(
        role=st.sampled_from([None, "assistant", "tool"]),
        content=maybe_text,
        refusal=maybe_text,
        audio=st.none() | audio,
        function_call=st.none() | function,
        tool_calls=st.none() | st.lists(call, max_size=2),
    )
    choice = some(
        index=numbers,
        delta=delta,
        finish_reason=st.sampled_from([None, "stop", "length"]),
        logprobs=st.none() | some(content=tokens, refusal=tokens),
    )
    details = some(audio_tokens=st.none() | numbers, cached_tokens=st.none() | numbers)
    usage = some(prompt_tokens=numbers, completion_tokens=numbers, total_tokens=numbers, prompt_tokens_details=details)
    failed = some(type=st.just("error"), code=texts, message=texts)
    result = some(
        type=st.just("moderation_result"),
        model=texts,
        flagged=st.booleans(),
        categories=st.dictionaries(texts, st.booleans(), max_size=1),
        category_scores=st.dictionaries(texts, st.floats() | numbers, max_size=1),
        category_applied_input_types=st.just({"hate": ["text"]}),
    )
    results = some(type=st.just("moderation_results"), model=texts, results=st.lists(result, max_size=1))
    return some(
        id=texts,
        object=st.just("chat.completion.chunk"),
        created=numbers,
        model=texts,
        choices=st.lists(choice, max_size=2),
        service_tier=st.sampled_from([None, "default"]),
        system_fingerprint=maybe_text,
        usage=st.none() | usage,
        moderation=st.none() | some(input=failed | results, output=failed | results),
    )


@st.composite
def bent(draw: st.DrawFn) -> Any:
    """Chunks of which something is missing, null, or isn't what it should be."""
    chunk = draw(chunks())
    for _ in range(draw(st.integers(1, 2))):
        owner, name = draw(st.sampled_from(list(_places(chunk))))
        if isinstance(owner, dict) and draw(st.booleans()):
            del owner[name]
        else:
            owner[name] = draw(st.sampled_from(["1", True, 1.0, 1, None, "eos"]) | junk)
        if not chunk:
            break
    return chunk


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for name, each in list(inner):
        yield value, name
        if isinstance(each, dict | list):
            yield from _places(each)


def anatomy(value: Any) -> Any:
    """All that can be told of an object: types, fields in their order, which were set, what else came."""
    if isinstance(value, BaseModel):
        inner = (value.__dict__, value.__pydantic_extra__ or {}, sorted(value.model_fields_set))
        return type(value), value.__pydantic_private__, [anatomy(part) for part in inner]
    if isinstance(value, dict):
        return dict, [(name, anatomy(inner)) for name, inner in value.items()]
    if isinstance(value, list):
        return list, [anatomy(inner) for inner in value]
    return type(value), repr(value)


@settings(max_examples=500, deadline=None)
@given(bent() | chunks() | junk)
def test_a_chunk_is_what_the_client_makes_of_it(data: Any) -> None:
    """Whatever a server sends: the same objects, with the same fields, that are written the same way."""
    ours: Any = construct_type(value=data, type_=ChatCompletionChunk)
    theirs: Any = openai_shortcuts._construct_type(value=data, type_=ChatCompletionChunk)
    assert anatomy(ours) == anatomy(theirs)
    if isinstance(theirs, ChatCompletionChunk):
        assert _written(ours.model_dump) == _written(theirs.model_dump)
        assert _written(ours.to_dict) == _written(theirs.to_dict)


def _written(write: Callable[..., Any]) -> Any:
    try:
        return anatomy(write(warnings=False))
    except UnicodeEncodeError as error:
        return str(error)  # pydantic writes no name with half a surrogate pair


@settings(max_examples=100, deadline=None)
@given(chunks())
def test_a_chunk_as_it_should_be_is_not_put_together_in_python(data: Any) -> None:
    """Which is what servers send most; with fields of their own, too."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair: pydantic refuses it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_shortcuts, "_construct_type", None)
        assert isinstance(construct_type(value=data, type_=ChatCompletionChunk), ChatCompletionChunk)


def test_other_types_are_the_clients_business() -> None:
    """What isn't a chunk is made as ever, whether its type has fields with defaults or converts."""
    made = construct_type(value={"id": 1, "choices": None}, type_=ChatCompletion)
    assert isinstance(made, ChatCompletion)
    assert made.id == 1
    assert construct_type(value=1, type_=float) == 1.0


def test_the_types_of_chunks_convert_nothing_that_is_not_known() -> None:
    """What the client puts together itself has texts, whole numbers and literals, as they are written; no more."""
    seen: set[Any] = set()
    atoms = set(_atoms(ChatCompletionChunk, seen, optional=False))
    assert atoms == {str, int, ChatCompletionChunk, Choice, ChoiceDelta}
    models = {each for each in seen if isinstance(each, type) and issubclass(each, BaseModel)}
    assert models > PUT_TOGETHER
    for model in models:
        assert model.model_config.get("extra") == "allow", model
        assert model.__pydantic_decorators__ == BaseModel.__pydantic_decorators__, model
        assert not model.__private_attributes__, model
        for field in model.model_fields.values():
            assert (field.alias, field.validation_alias) == (None, None)
            assert field.is_required() or field.default is None


def _atoms(annotation: Any, seen: set[Any], *, optional: bool) -> Iterator[Any]:
    """Yield what the client puts together; look at everything."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        assert all(type(value) is str for value in inner)
    elif origin in (Union, UnionType, list, dict, Annotated):
        for each in inner:
            if not isinstance(each, PropertyInfo):
                yield from _atoms(each, seen, optional=optional or origin in (Union, UnionType))
        assert optional or origin is not dict
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not optional:
            yield annotation
        if annotation not in seen:
            seen.add(annotation)
            for field in annotation.model_fields.values():
                yield from _atoms(field.annotation, seen, optional=optional)
    else:
        assert annotation in CHECKED
        if not optional:
            yield annotation


# ---------------------------------------------------------------------------- requests

# Made anew for each way: an iterator is read once.
type Make = Callable[[], Any]

_said = ChatCompletionMessage(role="assistant", content="Yes.", extra=1)  # pyright: ignore[reportCallIssue]
_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_PARTS: list[Any] = [
    {"type": "text", "text": "See."},
    {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
]
messages = st.sampled_from(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": _PARTS},
        {"role": "user", "content": tuple(_PARTS)},
        {"role": "user", "content": "Hi.", "name": omit},
        {"role": "assistant", "content": None, "tool_calls": [_CALL], "reasoning": {"odd": [1, None, 0.5, True]}},
        {"role": "tool", "content": "{}", "tool_call_id": "c"},
        _said,
    ]
)
wholes: list[Callable[[list[Any]], Any]] = [list, tuple, iter]
_SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", None]}}, "required": []}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": _SCHEMA}}
params: Mapping[str, st.SearchStrategy[Make]] = {
    "model": st.just(lambda: "m"),
    "messages": st.builds(
        lambda said, whole: lambda: whole(said), st.lists(messages, max_size=3), st.sampled_from(wholes)
    ),
    "tools": st.sampled_from(
        [
            lambda: omit,
            lambda: NOT_GIVEN,
            lambda: [{"type": "function", "function": {"name": "f", "parameters": _SCHEMA}}],
        ]
    ),
    "temperature": st.sampled_from([lambda: omit, lambda: None, lambda: 1, lambda: 0.5]),
    "stop": st.sampled_from([lambda: omit, lambda: "x", lambda: ["x"], lambda: ("x",)]),
    "logit_bias": st.sampled_from([lambda: omit, lambda: {"5": 1}]),
    "metadata": st.sampled_from([lambda: omit, lambda: {"a": "b"}, lambda: _said]),
    "unheard_of": st.sampled_from([lambda: omit, lambda: [_said], lambda: {"a": {1: "b"}}]),
}


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict(params)))
def test_a_request_is_what_the_client_makes_of_it(made: dict[str, Make]) -> None:
    """Whatever is asked: the same parameters, whether they are JSON already, models, iterators or not given."""

    async def both() -> list[Any]:
        ways = (maybe_transform, openai_shortcuts._maybe_transform)
        return [await way({name: make() for name, make in made.items()}, CHAT) for way in ways]

    ours, theirs = asyncio.run(both())
    assert anatomy(ours) == anatomy(theirs)


async def test_a_request_stays_what_it_was() -> None:
    """What is added to the conversation meanwhile isn't in a request that is tried again."""
    said: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}]
    made: Any = await maybe_transform({"messages": said, "model": "m"}, CHAT)
    said[0]["content"][0]["text"] = "Ho."
    said.append({})
    assert made == {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}], "model": "m"}


def test_no_parameter_of_a_chat_is_written_otherwise() -> None:
    """No key has another name on the wire, and no value a format: JSON stays as it is."""
    for kind in openai_shortcuts._CHAT:
        infos = list(_infos(kind, set()))
        assert [info for info in infos if info.alias is not None or info.format is not None] == []


def test_a_parameter_that_is_written_otherwise_would_be_seen() -> None:
    """The walk through the types finds a format deep in another request's."""
    assert [info.format for info in _infos(_Elsewhere, set())] == ["iso8601"]


class _Due(TypedDict):
    at: Annotated[datetime, PropertyInfo(format="iso8601")]


class _Elsewhere(TypedDict):
    dues: Required[list[_Due] | None]


def _infos(annotation: Any, seen: set[Any]) -> Iterator[PropertyInfo]:
    if isinstance(annotation, PropertyInfo):
        yield annotation
        return
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    inner: list[Any] = list(get_args(annotation))
    if is_typeddict(annotation):
        inner += get_type_hints(annotation, include_extras=True).values()
    for each in inner:
        yield from _infos(each, seen)


# ---------------------------------------------------------------------------- the client


async def test_the_client_takes_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A streamed answer's chunks come by way of the one, its request by way of the other."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "service_tier": "default"}
    choice = {"index": 0, "delta": {"content": "Hi."}, "finish_reason": None}
    asked: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content))
        event = json.dumps(chunk | {"choices": [choice]})
        return httpx2.Response(
            200, headers={"content-type": "text/event-stream"}, text=f"data: {event}\n\ndata: [DONE]\n\n"
        )

    for owner, name in (
        (openai_shortcuts._responses, "construct_type"),
        (openai_shortcuts._requests, "async_maybe_transform"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    # Were these asked, it would fail.
    monkeypatch.setattr(openai_shortcuts, "_construct_type", None)
    monkeypatch.setattr(openai_shortcuts, "_maybe_transform", None)
    taken: list[object] = []
    monkeypatch.setattr(openai_shortcuts, "construct_type", _noting(construct_type, taken))
    monkeypatch.setattr(openai_shortcuts, "maybe_transform", _noting(maybe_transform, taken))
    openai_shortcuts.take_shortcuts()
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http_client:
        client = openai.AsyncOpenAI(api_key="none", base_url="http://none/v1", http_client=http_client)
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi?"}], stream=True
        )
        said = [each.choices[0].delta.content async for each in stream]
    assert said == ["Hi."]
    assert asked == [{"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi?"}]}]
    assert taken == [CHAT, ChatCompletionChunk]


def _noting(function: Any, taken: list[object]) -> Any:
    def noting(*args: Any, **kwargs: Any) -> Any:
        taken.append(kwargs["type_"] if "type_" in kwargs else args[1])
        return function(*args, **kwargs)

    return noting


def test_strictness_is_what_keeps_types() -> None:
    """Without it pydantic would make something else of what the client leaves alone."""
    data = {"id": "c", "object": "chat.completion.chunk", "created": "1", "model": "m", "choices": []}
    assert ChatCompletionChunk.model_validate(data).created == 1
    with pytest.raises(ValidationError):
        ChatCompletionChunk.model_validate(data, strict=True)
    made: Any = construct_type(value=data, type_=ChatCompletionChunk)
    assert made.created == "1"
