"""What the runner can be told from the environment."""

import msgspec
import pytest

from greenroom.common.errors import SettingsInvalid
from greenroom.common.settings import load
from greenroom.runner.settings import RunnerSettings


def test_defaults_fit_the_host() -> None:
    """Without settings there are some slots for each processor and at most four processes in waiting."""
    settings = load(RunnerSettings, {})
    assert settings.slots >= 12
    assert settings.standby_target == 4
    assert settings.drain_timeout_s == 3600.0


def test_there_are_never_more_standby_processes_than_slots() -> None:
    """The standby target is bounded by the slots."""
    assert load(RunnerSettings, {"GREENROOM_SLOTS": "2", "GREENROOM_STANDBY": "9"}).standby_target == 2


def test_the_runner_id_can_be_part_of_a_subject() -> None:
    """The dots of a host name become dashes."""
    assert load(RunnerSettings, {"GREENROOM_INSTANCE_ID": "node1.eu.example-17"}).runner_id == "node1-eu-example-17"


def test_settings_survive_the_way_to_the_zygote() -> None:
    """The zygote gets the very settings of the runner."""
    settings = load(RunnerSettings, {"GREENROOM_BOTS": "a=m.n:bot, b=o:bot", "NATS_URL": "nats://u:p@h:1"})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=RunnerSettings) == settings


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("GREENROOM_POOL", "eu.west", "GREENROOM_POOL is 'eu.west'"),
        ("GREENROOM_BOTS", "echo", "GREENROOM_BOTS has 'echo' (expected: name=module:function)"),
        ("GREENROOM_SLOTS", "0", "GREENROOM_SLOTS is '0'"),
    ],
)
def test_unusable_settings_are_named(name: str, value: str, complaint: str) -> None:
    """The message names the variable and what was expected."""
    with pytest.raises(SettingsInvalid) as caught:
        load(RunnerSettings, {name: value})
    assert complaint in caught.value.detail
