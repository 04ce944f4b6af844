"""Small scenarios for tests of the simulation, in few words."""

from pathlib import Path
from typing import Any, Final

import msgspec

from greenroom.devtools.sim.scenario import Scenario, load, parse
from greenroom.devtools.sim.world import Result, simulate

# Two runners of four slots, and a call of a minute each twenty seconds: three at a time.
PLAIN: Final[dict[str, Any]] = {
    "title": "test",
    "seed": 1,
    "duration_s": 300,
    "pools": [{"runners": 2, "slots": 4, "standby": 2}],
    "scheduler": {"spread": True},
    "callers": [
        {"when": {"kind": "constant", "per_s": 0.05, "regular": True}, "length": {"kind": "constant", "s": 60}}
    ],
}
# The same for a pool that grows.
GROWING: Final[dict[str, Any]] = PLAIN | {
    "launcher": {"cold_start": {"kind": "constant", "s": 10}},
    "policy": {
        "pools": [
            {
                "name": "default",
                "baseline": 4,
                "maximum": 40,
                "slots_per_runner": 4,
                "cold_starts": 10,
                "cooldown_s": 10.0,
                "idle_retire_s": 60.0,
            }
        ]
    },
}


def toml(fields: dict[str, Any]) -> bytes:
    """Return a scenario as the text of a file."""
    return "\n".join(f"{name} = {_inline(value)}" for name, value in fields.items()).encode()


def _inline(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{name} = {_inline(each)}" for name, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_inline(each) for each in value) + "]"
        case _:
            return msgspec.json.encode(value).decode()


def scenario(base: dict[str, Any] | None = None, folder: Path | None = None, **fields: Any) -> Scenario:
    """Return a scenario that differs from another one (`PLAIN`) by some fields."""
    return parse(toml((base or PLAIN) | fields), "test.toml", folder=folder)


def play(base: dict[str, Any] | None = None, **fields: Any) -> Result:
    """Play it."""
    return simulate(scenario(base, **fields))


def part(name: str, **fields: Any) -> Result:
    """Play a shipped scenario, or a part of it."""
    return simulate(msgspec.structs.replace(load(name), **fields))
