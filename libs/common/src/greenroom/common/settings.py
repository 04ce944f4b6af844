"""Settings from the environment, as msgspec structs: parsed once, at the start, all problems at once.

A field `drain_timeout_s` is read from `GREENROOM_DRAIN_TIMEOUT_S`; `Annotated[..., Env("NATS_URL")]` names
another variable. An empty variable counts as unset. Lists (`tuple[str, ...]`) are separated by commas.
"""

import difflib
import math
import os
import re
import socket
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec

from greenroom.common.errors import SettingsInvalid

PREFIX: Final = "GREENROOM_"
_TYPE_NAMES: Final[dict[Any, str]] = {str: "text", int: "whole number", float: "number", bool: "true | false"}
_UNITS: Final = {"ms": "milliseconds", "s": "seconds", "bytes": "bytes", "mb": "megabytes", "hz": "hertz"}
# What msgspec says on a number out of bounds.
_BOUND: Final = re.compile(r"Expected `\w+` ([<>]=? .+)")
_LONGEST_SHOWN: Final = 100
# The credentials in a URL.
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True, kw_only=False)
class Env:
    """How a setting looks from outside.

    Attributes:
        name: the variable, where it isn't the prefix and the field's name.
        help: one sentence for docs/configuration.md.
        unit: the unit, where the end of the field's name doesn't say it (`_s`, `_ms`, `_bytes`).
        secret: never shown, in no message and no `repr`.
    """

    name: str = ""
    help: str = ""
    unit: str = ""
    secret: bool = False


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One setting, described for people."""

    field: str
    env: str
    type: str
    unit: str
    # As it would be written into the environment; None: there is no fixed default.
    default: str | None
    required: bool
    secret: bool
    help: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all settings. Its `repr` masks secrets and the credentials inside URLs."""

    def __repr__(self) -> str:
        """Return the settings without secrets."""
        shown = ", ".join(f"{name}={value!r}" for name, value in redacted(self).items())
        return f"{type(self).__name__}({shown})"


def default_instance_id() -> str:
    """Return a name for this process among its like: host and process id."""
    return f"{socket.gethostname()}-{os.getpid()}"


class ServiceSettings(Settings, frozen=True, kw_only=True):
    """What every service can be told."""

    nats_url: Annotated[str, Env("NATS_URL", help="NATS servers, separated by commas")] = "nats://127.0.0.1:4222"
    instance_id: Annotated[str, Env(help="Name of this process among its like")] = msgspec.field(
        default_factory=default_instance_id
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Env(help="Least level of what is logged")] = (
        "info"
    )
    log_format: Annotated[
        Literal["auto", "json", "console"], Env(help="Form of the log; auto: console on a terminal, else JSON")
    ] = "auto"
    health_host: Annotated[str, Env(help="Address of /livez, /readyz and /metrics")] = "127.0.0.1"
    health_port: Annotated[
        int,
        msgspec.Meta(ge=0, le=65_535),
        Env(help="Port of /livez, /readyz and /metrics; 0: any free one, see the log"),
    ] = 0
    drain_timeout_s: Annotated[
        float, msgspec.Meta(ge=0), Env(help="How long a stopping service may take to finish what it has begun")
    ] = 20.0
    otlp_endpoint: Annotated[
        str | None,
        Env("OTEL_EXPORTER_OTLP_ENDPOINT", help="Where spans go (OTLP over HTTP, base URL); unset: nowhere"),
    ] = None
    trace_content: Annotated[
        bool, Env(help="Keep what was said in spans, in attributes with a `pii` segment; else it is removed")
    ] = False


def load[S: Settings](settings_type: type[S], env: Mapping[str, str]) -> S:
    """Read the settings from `env`.

    Raises:
        SettingsInvalid: one line for each variable that is missing or wrong, with its unit.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for info in msgspec.structs.fields(settings_type):
        row = _row(info)
        raw = env.get(row.env, "").strip()
        if not raw:
            if info.required:
                problems.append(f"{row.env} isn't set{_expectation(row)}")
            continue
        try:
            values[info.name] = _parse(raw, info.type)
        except ValueError as error:
            problems.append(_complaint(row, raw, error))
    if not problems:
        try:
            return settings_type(**values)
        except ValueError as error:  # what the type's own __post_init__ says about values that don't go together
            problems.append(str(error))
    raise SettingsInvalid("; ".join(problems))


def describe(settings_type: type[Settings]) -> list[Row]:
    """Return one row for each setting, in the order of the fields."""
    return [_row(info) for info in msgspec.structs.fields(settings_type)]


def unknown_variables(env: Iterable[str], settings_types: Iterable[type[Settings]]) -> dict[str, str | None]:
    """Return the `GREENROOM_*` variables that no setting reads, each with the one most likely meant, or None."""
    known = {row.env for settings_type in settings_types for row in describe(settings_type)}
    tails = {name.removeprefix(PREFIX): name for name in known}
    unknown: dict[str, str | None] = {}
    for name in sorted(set(env) - known):
        if name.startswith(PREFIX):
            close = difflib.get_close_matches(name.removeprefix(PREFIX), tails, n=1, cutoff=0.7)
            unknown[name] = tails[close[0]] if close else None
    return unknown


def redacted(settings: Settings) -> dict[str, Any]:
    """Return the values by field, fit to be shown: secrets masked, credentials in URLs too."""
    shown: dict[str, Any] = {}
    for info in msgspec.structs.fields(settings):
        value = getattr(settings, info.name)
        if _annotation(info.type)[1].secret:
            value = "***" if value else value
        elif isinstance(value, str):
            value = _USERINFO.sub("***", value)
        shown[info.name] = value
    return shown


def _annotation(field_type: Any) -> tuple[Any, Env]:
    """Split an annotation into the type for msgspec and what it says on the environment."""
    if typing.get_origin(field_type) is not Annotated:
        return field_type, Env()
    parts = typing.get_args(field_type)
    env = next((part for part in parts[1:] if isinstance(part, Env)), Env())
    return parts[0], env


def _row(info: msgspec.structs.FieldInfo) -> Row:
    plain, env = _annotation(info.type)
    default = None
    if info.default is not msgspec.NODEFAULT and info.default is not None:
        default = _written(info.default)
    suffix = info.name.rpartition("_")[2]
    return Row(
        field=info.name,
        env=env.name or PREFIX + info.name.upper(),
        type=_type_name(plain),
        unit=env.unit or _UNITS.get(suffix, ""),
        default="***" if default and env.secret else default,
        required=info.required,
        secret=env.secret,
        help=env.help,
    )


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(str(item) for item in typing.cast("Iterable[object]", value))
    return str(value)


def _type_name(plain: Any) -> str:
    plain, _ = _annotation(plain)
    if typing.get_origin(plain) is Literal:
        return " | ".join(str(choice) for choice in typing.get_args(plain))
    choices = [choice for choice in typing.get_args(plain) if choice is not type(None)]
    if typing.get_origin(plain) is tuple:
        return f"list of {_type_name(choices[0])}"
    if choices:
        return " | ".join(_type_name(choice) for choice in choices)
    return _TYPE_NAMES.get(plain, str(plain.__name__))


def _parse(raw: str, field_type: Any) -> Any:
    plain, _ = _annotation(field_type)
    given: object = raw
    if typing.get_origin(plain) is tuple:
        given = [part.strip() for part in raw.split(",") if part.strip()]
    value = msgspec.convert(given, field_type, strict=False)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it isn't a finite number")
    return value


def _expectation(row: Row) -> str:
    unit = f" in {row.unit}" if row.unit else ""
    return f" (expected: {row.type}{unit})"


def _complaint(row: Row, raw: str, error: ValueError) -> str:
    if row.secret:
        return f"{row.env} has an unusable value, not shown here{_expectation(row)}"
    bound = _BOUND.fullmatch(str(error))
    problem = f"must be {bound[1]}" if bound else "can't be used"
    shown = _USERINFO.sub("***", raw)[:_LONGEST_SHOWN]
    return f"{row.env} is {shown!r}, which {problem}{_expectation(row)}"
