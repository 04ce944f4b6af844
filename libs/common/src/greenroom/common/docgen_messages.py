"""Generates docs/messages.md, docs/asyncapi.json and the lifecycle diagram from the code.

`python -m greenroom.common.docgen_messages DOCS_DIR` writes them; a test fails when they differ from the code.
"""

import inspect
import sys
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from greenroom.common import lifecycle, messages, topology
from greenroom.common.messages import CATALOG, Described

_REF: Final = "#/components/schemas/{name}"
_GENERATED: Final = "<!-- Generated from the code by `make docs`; edit the docstrings there. -->"


def generate() -> dict[str, str]:
    """Return file name → content."""
    return {
        "messages.md": _messages_page(),
        "asyncapi.json": msgspec.json.format(msgspec.json.encode(_asyncapi(), order="sorted"), indent=2).decode()
        + "\n",
        "lifecycle.md": _lifecycle_page(),
    }


def main() -> None:
    """Write the files into the folder that is the first argument."""
    folder = Path(sys.argv[1])
    for name, text in generate().items():
        (folder / name).write_text(text)


def _members(kind: Any) -> tuple[Any, ...]:
    value = getattr(kind, "__value__", kind)
    return get_args(value) or (value,)


def _messages_page() -> str:
    lines = [
        _GENERATED,
        "# Messages",
        "",
        "Every message is JSON unless it says bytes; `gr.v1` is the version of the whole.",
        "",
    ]
    lines += ["| subject | message | kind | stream | published by |", "|---|---|---|---|---|"]
    for row in CATALOG:
        names = " or ".join(_name(member) for member in _members(row.message))
        if row.reply is not None:
            names += " → " + " or ".join(_name(member) for member in _members(row.reply))
        lines.append(f"| `{_subject(row)}` | {names} | {row.kind} | {row.stream or '–'} | {row.owner} |")
    lines += ["", "## Streams", "", "| stream | subjects | retention | kept for | what |", "|---|---|---|---|---|"]
    for stream in topology.STREAMS:
        kept = f"{stream.max_age_s:,.0f} s" if stream.max_age_s else "no limit"
        filters = ", ".join(f"`{subject}`" for subject in stream.subjects)
        lines.append(f"| {stream.name} | {filters} | {stream.retention} | {kept} | {stream.description} |")
    lines += ["", "## Durable consumers", "", "| consumer | stream | what |", "|---|---|---|"]
    lines += [f"| {consumer.name} | {consumer.stream} | {consumer.description} |" for consumer in topology.CONSUMERS]
    lines += ["", "## Structures", ""]
    for name, schema in sorted(_schemas().items()):
        lines += _structure(name, schema)
    lines += ["## Headers of an audio chunk", "", _doc(messages.AudioHeader), ""]
    lines += [f"- `{header.value}`" for header in messages.AudioHeader]
    lines += ["", "## Event types", "", _doc(messages.EventType), ""]
    lines += [f"- `{kind.value}`" for kind in messages.EventType]
    return "\n".join(lines) + "\n"


def _structure(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"### {name}", ""]
    if description := schema.get("description"):
        lines += [" ".join(description.split()), ""]
    if "enum" in schema:
        return [*lines, ", ".join(f"`{value}`" for value in schema["enum"]), ""]
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    if not properties:
        return lines
    required = set(schema.get("required", ()))
    lines += ["| field | type | default |", "|---|---|---|"]
    for field, kind in properties.items():
        default = "required" if field in required else f"`{msgspec.json.encode(kind.get('default')).decode()}`"
        lines.append(f"| `{field}` | {_type(kind)} | {default} |")
    return [*lines, ""]


def _type(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        name = kind["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if options := kind.get("anyOf"):
        return " or ".join(_type(option) for option in options)
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    if kind.get("type") == "array":
        items = kind.get("items")
        return f"list of {_type(items)}" if items else "list"
    text = str(kind.get("type", "any"))
    return f"{text} ({kind['format']})" if "format" in kind else text


def _lifecycle_page() -> str:
    lines = [_GENERATED, "# The life of a session", "", "```mermaid", lifecycle.diagram(), "```", ""]
    lines += ["| transition | what it says |", "|---|---|"]
    lines += [f"| {kind.__name__} | {_doc(kind)} |" for kind in _members(lifecycle.Transition)]
    return "\n".join(lines) + "\n"


def _asyncapi() -> dict[str, Any]:
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for row in CATALOG:
        key = _key(row)
        members = [*_members(row.message), *(_members(row.reply) if row.reply is not None else ())]
        channels[key] = {
            "address": _subject(row),
            "description": row.summary,
            "parameters": {field.rstrip("*"): {} for field in row.subject.fields if not _is_named(row, field)},
            "messages": {_name(member): _message(member) for member in members},
            "x-stream": row.stream,
            "x-owner": row.owner,
        }
        operations[key] = {"action": "send", "channel": {"$ref": f"#/channels/{key}"}, "summary": row.summary}
        if row.reply is not None:
            operations[key]["reply"] = {
                "messages": [{"$ref": f"#/channels/{key}/messages/{_name(member)}"} for member in _members(row.reply)]
            }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Greenroom", "version": "1", "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"schemas": _schemas()},
    }


def _message(member: Any) -> dict[str, Any]:
    if member is bytes:
        return {"contentType": "application/octet-stream", "payload": {"type": "string", "format": "binary"}}
    return {"payload": {"$ref": _REF.format(name=_name(member))}}


def _schemas() -> dict[str, Any]:
    kinds: list[Any] = [messages.ExternalEvent]
    for row in CATALOG:
        kinds += [member for member in _members(row.message) if member is not bytes]
        if row.reply is not None:
            kinds += _members(row.reply)
    _, components = msgspec.json.schema_components(list(dict.fromkeys(kinds)), ref_template=_REF)
    return dict(sorted(components.items()))


def _subject(row: Described) -> str:
    last = row.subject.fields[-1]
    return row.subject.template.replace(f"{{{last}}}", row.name) if row.name else row.subject.template


def _is_named(row: Described, field: str) -> bool:
    return row.name is not None and field == row.subject.fields[-1]


def _key(row: Described) -> str:
    tokens = [token for token in row.subject.template.split(".")[2:] if not token.startswith("{")]
    return "-".join([*tokens, row.name] if row.name else tokens)


def _name(member: Any) -> str:
    return str(member.__name__)


def _doc(kind: Any) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


if __name__ == "__main__":
    main()
