"""Renders what the jobs' templates use of Nomad's template language, with values of a test in the place of Nomad's.

`env`, `with nomadVar`, `range nomadService` and `if ne` on two words; anything else is left standing, to be seen.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

_BLOCK: Final = r"\{\{-?\s*%s\s*-?\}\}"
_END: Final = _BLOCK % "end"
_IF_NE: Final = re.compile(_BLOCK % r'if ne "([^"]*)" "([^"]*)"' + r"(.*)" + _END, re.DOTALL)
_RANGE: Final = re.compile(_BLOCK % r'range nomadService "([^"]+)"' + r"(.*?)" + _END, re.DOTALL)
_WITH: Final = re.compile(_BLOCK % r'with nomadVar "([^"]+)"' + r"(.*?)" + _END, re.DOTALL)
_ENV: Final = re.compile(_BLOCK % r'env "(\w+)"')
_FIELD: Final = re.compile(_BLOCK % r"\.(\w+)")


class Nomad(msgspec.Struct, frozen=True, kw_only=True):
    """What Nomad would know: the task's environment, services by name as (address, port), variables by path."""

    env: Mapping[str, str] = {}
    services: Mapping[str, Sequence[tuple[str, int]]] = {}
    variables: Mapping[str, Mapping[str, str]] = {}


def render(template: str, nomad: Nomad) -> str:
    """Return what the template becomes."""

    def instances(match: re.Match[str]) -> str:
        found = nomad.services.get(match[1], ())
        return "".join(_fields(match[2], {"Address": address, "Port": str(port)}) for address, port in found)

    text = _RANGE.sub(instances, template)
    text = _WITH.sub(lambda match: _fields(match[2], nomad.variables[match[1]]), text)
    text = _IF_NE.sub(lambda match: match[3] if match[1] != match[2] else "", text)
    return _ENV.sub(lambda match: nomad.env[match[1]], text)


def _fields(text: str, values: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda match: values[match[1]], text)
