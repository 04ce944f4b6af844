"""Settings from the environment."""

from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from greenroom.common.errors import SettingsInvalid
from greenroom.common.settings import (
    Env,
    ServiceSettings,
    Settings,
    describe,
    load,
    redacted,
    unknown_variables,
)

PASSWORD = "hunter2"


class Example(Settings, frozen=True, kw_only=True):
    """One field of each sort."""

    database_url: Annotated[str, Env("DATABASE_URL", help="Where the rows go", secret=True)]
    slots: Annotated[int, msgspec.Meta(ge=1), Env(help="How many")] = 4
    start_timeout_s: float = 30.0
    window: Annotated[float, Env(unit="days")] = 1.0
    mode: Literal["fast", "safe"] = "safe"
    loud: bool = False
    pools: tuple[str, ...] = ("default",)
    host: str | None = None

    def __post_init__(self) -> None:
        if self.mode == "fast" and self.slots > 8:
            raise ValueError("GREENROOM_SLOTS must be 8 or less where GREENROOM_MODE is fast")


GOOD = {"DATABASE_URL": f"postgres://me:{PASSWORD}@db/x"}


def problems_of(env: dict[str, str]) -> str:
    """Return what is said about a wrong environment."""
    with pytest.raises(SettingsInvalid) as caught:
        load(Example, env)
    return caught.value.detail


def test_defaults() -> None:
    """What isn't set, or is set to nothing, has its default."""
    settings = load(Example, {**GOOD, "GREENROOM_SLOTS": "  "})
    assert (settings.slots, settings.pools, settings.host, settings.loud) == (4, ("default",), None, False)


def test_every_sort_of_value() -> None:
    """Numbers, truth values, choices and lists are read from text."""
    env = {
        "GREENROOM_SLOTS": " 7 ",
        "GREENROOM_START_TIMEOUT_S": "0.5",
        "GREENROOM_MODE": "fast",
        "GREENROOM_LOUD": "true",
        "GREENROOM_POOLS": "default, gpu,",
        "GREENROOM_HOST": "h",
    }
    settings = load(Example, {**GOOD, **env})
    assert (settings.slots, settings.start_timeout_s, settings.mode) == (7, 0.5, "fast")
    assert (settings.loud, settings.pools, settings.host) == (True, ("default", "gpu"), "h")


def test_all_problems_at_once_with_name_and_unit() -> None:
    """One error names every variable at fault, what is wrong with it, and the unit."""
    detail = problems_of(
        {
            "GREENROOM_SLOTS": "0",
            "GREENROOM_START_TIMEOUT_S": "soon",
            "GREENROOM_WINDOW": "nan",
            "GREENROOM_MODE": "quick",
            "GREENROOM_LOUD": "perhaps",
        }
    )
    assert detail.split("; ") == [
        "DATABASE_URL isn't set (expected: text)",
        "GREENROOM_SLOTS is '0', which must be >= 1 (expected: whole number)",
        "GREENROOM_START_TIMEOUT_S is 'soon', which can't be used (expected: number in seconds)",
        "GREENROOM_WINDOW is 'nan', which can't be used (expected: number in days)",
        "GREENROOM_MODE is 'quick', which can't be used (expected: fast | safe)",
        "GREENROOM_LOUD is 'perhaps', which can't be used (expected: true | false)",
    ]


def test_values_that_do_not_go_together() -> None:
    """What a settings type says about its values as a whole is reported like the rest."""
    assert "GREENROOM_SLOTS must be 8 or less" in problems_of(
        {**GOOD, "GREENROOM_SLOTS": "9", "GREENROOM_MODE": "fast"}
    )


def test_secrets_are_never_shown() -> None:
    """Neither `repr`, nor the described default, nor an error shows a secret or the credentials in a URL."""

    class Secretive(ServiceSettings, frozen=True, kw_only=True):
        port: Annotated[int, Env(secret=True)] = 4711

    settings = load(Example, GOOD)
    assert PASSWORD not in repr(settings)
    assert redacted(settings)["database_url"] == "***"
    secretive = load(Secretive, {"NATS_URL": f"nats://me:{PASSWORD}@127.0.0.1"})
    assert "nats://***@127.0.0.1" in repr(secretive)
    assert all(row.default == "***" for row in describe(Secretive) if row.secret)
    with pytest.raises(SettingsInvalid) as caught:
        load(Secretive, {"GREENROOM_PORT": PASSWORD, "GREENROOM_HEALTH_PORT": f"tcp://a:{PASSWORD}@h"})
    assert PASSWORD not in caught.value.detail


def test_describe() -> None:
    """Each setting is described by variable, type, unit, default and help."""
    rows = {row.env: row for row in describe(Example)}
    assert list(rows)[:2] == ["DATABASE_URL", "GREENROOM_SLOTS"]
    url, timeout = rows["DATABASE_URL"], rows["GREENROOM_START_TIMEOUT_S"]
    assert (url.required, url.secret, url.default, url.help) == (True, True, None, "Where the rows go")
    assert (timeout.type, timeout.unit, timeout.default) == ("number", "seconds", "30.0")
    assert rows["GREENROOM_POOLS"].type == "list of text"
    assert rows["GREENROOM_MODE"].type == "fast | safe"
    assert rows["GREENROOM_LOUD"].default == "false"


def test_every_service_setting_has_help() -> None:
    """What all services share is explained."""
    assert all(row.help for row in describe(ServiceSettings))


def test_unknown_variables() -> None:
    """Variables with our prefix that nobody reads are found, with the one that was probably meant."""
    env = ["GREENROOM_SLOT", "GREENROOM_ZZZ", "GREENROOM_LOG_LEVEL", "PATH"]
    assert unknown_variables(env, [Example, ServiceSettings]) == {
        "GREENROOM_SLOT": "GREENROOM_SLOTS",
        "GREENROOM_ZZZ": None,
    }


@settings_of_hypothesis(max_examples=50)
@given(
    slots=st.integers(1, 2**63 - 1),
    timeout_s=st.floats(allow_nan=False, allow_infinity=False),
    pools=st.lists(st.from_regex(r"[a-z0-9-]+", fullmatch=True), min_size=1),
    loud=st.booleans(),
)
def test_what_is_written_is_read(slots: int, timeout_s: float, pools: list[str], *, loud: bool) -> None:
    """Any value written in the form that `describe` shows is read back as the same value."""
    settings = load(
        Example,
        {
            **GOOD,
            "GREENROOM_SLOTS": str(slots),
            "GREENROOM_START_TIMEOUT_S": repr(timeout_s),
            "GREENROOM_POOLS": ",".join(pools),
            "GREENROOM_LOUD": str(loud).lower(),
        },
    )
    assert settings == Example(
        database_url=GOOD["DATABASE_URL"], slots=slots, start_timeout_s=timeout_s, pools=tuple(pools), loud=loud
    )


@given(st.dictionaries(st.sampled_from([row.env for row in describe(Example)]), st.text(max_size=20)))
def test_nothing_else_ever_escapes(env: dict[str, str]) -> None:
    """Whatever the environment holds, the outcome is settings or one error that begins with a variable."""
    problems = "GREENROOM_"
    try:
        load(Example, env)
    except SettingsInvalid as error:
        problems = error.detail
    assert problems.startswith(("GREENROOM_", "DATABASE_URL"))
