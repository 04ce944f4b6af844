"""Nomad's job files as data: parsed, variables put in, heredocs and files read.

Only what the files of deploy/nomad use is understood: `var.name`, `${var.name}` inside strings, and `file("path")`.
Anything else is an error here, which keeps the files plain. What Nomad puts in at run time (`${NOMAD_ALLOC_ID}`,
`${attr.…}`) stays as it is written.
"""

import re
import textwrap
from pathlib import Path
from typing import Any, Final

import hcl2
import pygohcl

type Body = dict[str, Any]

_OPTIONS: Final = hcl2.SerializationOptions(strip_string_quotes=True, explicit_blocks=False, with_comments=False)
_WHOLE: Final = re.compile(r"\$\{var\.(\w+)\}")
_FILE: Final = re.compile(r'\$\{file\("([^"]+)"\)\}')
_INSIDE: Final = re.compile(r"(\$?)\$\{([^}]*)\}")
_HEREDOC: Final = re.compile(r"<<-?(\w+)\n(.*?)\n?[ \t]*\1", re.DOTALL)
_RUNTIME: Final = re.compile(r"NOMAD_\w+|(?:attr|node|meta|env)\.[\w.]+")


class JobspecError(ValueError):
    """A job file says something that it shouldn't, or that isn't understood here."""


def parse(text: str) -> Body:
    """Return a file as nested dicts and lists, blocks as lists of their bodies, each in a dict of its labels.

    Raises:
        JobspecError: it isn't HCL.
    """
    try:
        return hcl2.loads(text if text.endswith("\n") else text + "\n", serialization_options=_OPTIONS)
    except Exception as error:  # a parser's errors have no base of their own
        raise JobspecError(str(error)) from error


def parse_with_the_other_parser(text: str) -> Body:
    """Return the file as HashiCorp's own parser of HCL reads it.

    Raises:
        JobspecError: it isn't HCL.
    """
    try:
        return pygohcl.loads(text)
    except pygohcl.HCLParseError as error:
        raise JobspecError(str(error)) from error


def names_in(value: Any) -> set[str]:
    """Return every name of an attribute or block, and every label, in what a parser returned."""
    if isinstance(value, dict):
        return {str(name) for name in value}.union(*(names_in(inner) for inner in value.values()))
    if isinstance(value, list):
        return set[str]().union(*(names_in(inner) for inner in value))
    return set()


def variables_of(parsed: Body) -> dict[str, Body]:
    """Return the declared variables by name."""
    return {name: body for declared in parsed.get("variable", ()) for name, body in declared.items()}


def evaluate(parsed: Body, values: Body, folder: Path) -> Body:
    """Return the one job of a file, as `{"id": label, **body}`, with variables and files put in.

    Args:
        parsed: the file.
        values: the var-file, parsed; what the job doesn't declare is left out, as `-hcl2-strict=false` does.
        folder: of the file; paths begin there.

    Raises:
        JobspecError: there isn't exactly one job, a variable has no value or one of another type, or something isn't
            understood.
    """
    declared = variables_of(parsed)
    taken = {name: body["default"] for name, body in declared.items() if "default" in body}
    taken |= {name: value for name, value in values.items() if name in declared}
    for name, body in declared.items():
        if name not in taken:
            raise JobspecError(f"variable {name} has no value")
        if not _fits(taken[name], body["type"]):
            raise JobspecError(f"variable {name} is {taken[name]!r}, declared as {body['type']}")
    if len(parsed["job"]) != 1 or parsed.keys() - {"variable", "job"}:
        raise JobspecError("a file has variables and one job")
    ((label, body),) = parsed["job"][0].items()
    return {"id": label, **_Evaluation(taken, folder).of(body)}


def _fits(value: Any, declared: str) -> bool:
    match declared.removeprefix("${").removesuffix("}"):
        case "string":
            return isinstance(value, str)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "list(string)":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case _:
            return False


class _Evaluation:
    def __init__(self, values: Body, folder: Path) -> None:
        self._values = values
        self._folder = folder

    def of(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self.of(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.of(inner) for inner in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> Any:
        if whole := _WHOLE.fullmatch(text):
            return self._value(whole[1])
        if path := _FILE.fullmatch(text):
            return (self._folder / path[1]).read_text()
        if heredoc := _HEREDOC.fullmatch(text.strip('"')):
            return _INSIDE.sub(self._inside, textwrap.dedent(heredoc[2]) + "\n")
        return _INSIDE.sub(self._inside, text).replace('\\"', '"')

    def _inside(self, match: re.Match[str]) -> str:
        escaped, expression = match[1], match[2].strip()
        if escaped or _RUNTIME.fullmatch(expression):
            return match[0]
        if expression.startswith("var."):
            return str(self._value(expression.removeprefix("var.")))
        raise JobspecError(f"${{{expression}}} isn't understood")

    def _value(self, name: str) -> Any:
        if name not in self._values:
            raise JobspecError(f"var.{name} isn't declared")
        return self._values[name]


def blocks(body: Body, kind: str) -> list[Body]:
    """Return the unlabelled blocks of a kind in a body; none is an empty list."""
    found = body.get(kind, [])
    return found if isinstance(found, list) else [found]


def labelled(body: Body, kind: str) -> dict[str, Body]:
    """Return the blocks of a kind that carry one label, by label."""
    return {label: inner for each in blocks(body, kind) for label, inner in each.items()}


def block(body: Body, kind: str) -> Body:
    """Return the one block of a kind, or an empty one."""
    found = blocks(body, kind)
    return found[0] if found else {}


def tasks_of(job: Body) -> list[tuple[str, Body, Body]]:
    """Return the tasks of a job as (`group/task`, group, task)."""
    return [
        (f"{group_name}/{task_name}", group, task)
        for group_name, group in labelled(job, "group").items()
        for task_name, task in labelled(group, "task").items()
    ]


_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(duration: str) -> float:
    """Return a duration as Go writes them (`1h30m`) in seconds.

    Raises:
        JobspecError: it isn't one.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise JobspecError(f"{duration!r} isn't a duration")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
