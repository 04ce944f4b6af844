"""Request bodies: JSON into structs, and every problem with them as a pointer to where it is."""

import re
from typing import Any, ClassVar, Final, cast

import msgspec
from litestar.dto import AbstractDTO
from litestar.typing import FieldDefinition

from greenroom.common.bodies import MAX_BYTES as MAX_BODY_BYTES
from greenroom.common.errors import BodyTooLarge, FieldProblem, InvalidBody, MalformedJson, UnknownField

# msgspec ends its messages with the place: "Expected `int`, got `str` - at `$.limits.queue_timeout_s`".
_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$(.*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


# What may stand behind the `?` of a URL that starts or opens something: a carrier's webhook, a media socket.
MAX_QUERY_BYTES: Final = 4096
# A request for a session: the largest `body`, and the rest of it.
MAX_START_BYTES: Final = MAX_BODY_BYTES + 64 * 1024


def check_query(query: bytes) -> None:
    """Raise `BodyTooLarge` if more than `MAX_QUERY_BYTES` come in a URL."""
    if len(query) > MAX_QUERY_BYTES:
        raise BodyTooLarge(f"There are {len(query)} bytes behind the `?` of the URL; {MAX_QUERY_BYTES} are taken.")


def decode[T](raw: bytes, kind: type[T]) -> T:
    """Return a request body as a struct.

    Raises:
        MalformedJson: it isn't JSON.
        UnknownField: it has fields that the struct hasn't; all of them are named.
        InvalidBody: a value has a wrong type or isn't allowed.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise _explained(raw, kind, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error


def pointer(*steps: str | int) -> str:
    """Return the JSON pointer (RFC 6901) of the value behind `steps`."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


class JsonBody[T](AbstractDTO[T]):
    """Decodes the `data` of a route by `decode`, and leaves its schema to the struct's own annotations."""

    kind: ClassVar[type[Any]]

    @classmethod
    def of(cls, kind: type[Any]) -> "type[JsonBody[Any]]":
        """Return the decoder for bodies of `kind`."""
        return type(f"{kind.__name__}Body", (cls,), {"kind": kind})

    def decode_bytes(self, value: bytes) -> Any:
        """See `decode`."""
        return decode(value, self.kind)

    @classmethod
    def create_for_field_definition(cls, *_args: Any, **_kwargs: Any) -> None:
        """Do nothing: there is no model between the JSON and the struct."""

    @classmethod
    def create_openapi_schema(cls, field_definition: FieldDefinition, handler_id: str, schema_creator: Any) -> Any:
        """Return the schema of the struct."""
        del handler_id
        return schema_creator.for_field_definition(field_definition)


def _explained(raw: bytes, kind: type[Any], message: str) -> MalformedJson | UnknownField | InvalidBody:
    """Return what is wrong with a body that is no `kind`."""
    try:
        # msgspec stops at the first problem, which may come before the place where the text stops being JSON.
        given: object = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _malformed(error)
    unknown = _unknown_fields(given, kind, "")
    if unknown:
        problems = [FieldProblem(pointer=pointer, detail="There is no such field.") for pointer in unknown]
        return UnknownField(f"Unknown: {', '.join(unknown)}.", errors=problems)
    problem = _problem(message)
    return InvalidBody(f"{problem.pointer or 'The body'}: {problem.detail}", errors=[problem])


def _malformed(error: Exception) -> MalformedJson:
    # msgspec's own text says the byte and nothing of what is there.
    return MalformedJson(str(error) if isinstance(error, msgspec.DecodeError) else "")


def _unknown_fields(given: object, kind: Any, place: str) -> list[str]:
    """Return pointers to all fields, however deep, that the structs of `kind` don't have."""
    if not isinstance(given, dict) or not _is_struct(kind):
        return []
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    fields |= {_tag_field(kind): str} if _tag_field(kind) else {}
    found: list[str] = []
    for name, value in cast("dict[str, object]", given).items():
        where = place + pointer(name)
        if name not in fields:
            found.append(where)
        else:
            found += _unknown_fields(value, _struct_in(fields[name], value), where)
    return found


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _struct_in(annotation: Any, value: object) -> Any:
    """Return the struct of `S`, `S | None` or `Annotated[S, …]`; of several, the one whose tag `value` has."""
    annotation = getattr(annotation, "__value__", annotation)
    inner = [part for part in getattr(annotation, "__args__", ()) if _is_struct(part)]
    if len(inner) > 1 and isinstance(value, dict):
        tagged = cast("dict[str, object]", value)
        return next((part for part in inner if tagged.get(_tag_field(part)) == part.__struct_config__.tag), annotation)
    return inner[0] if inner else annotation


def _tag_field(kind: Any) -> str:
    return kind.__struct_config__.tag_field or ""


def _problem(message: str) -> FieldProblem:
    """Return msgspec's message as a problem; inside a mapping it doesn't say the key, so the pointer ends before."""
    match = _PLACE.search(message)
    if match is None:
        return FieldProblem(pointer="", detail=message)
    steps = [name or index for name, index in _STEP.findall(match[1].partition("[...]")[0])]
    return FieldProblem(pointer=pointer(*steps), detail=message[: match.start()])
