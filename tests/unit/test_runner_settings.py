"""What the runner can be told from the environment."""

import msgspec
import pytest

from greenroom.common.errors import SettingsInvalid
from greenroom.common.settings import load
from greenroom.runner.brake import Thresholds
from greenroom.runner.host import Host
from greenroom.runner.settings import RunnerSettings, default_slots


def test_defaults_fit_the_host() -> None:
    """Without settings slots are measured, twelve a processor until they are, and four processes wait."""
    settings = load(RunnerSettings, {})
    assert settings.slots == "auto"
    assert default_slots() == int(12 * Host().processors()) >= 1
    assert settings.standby_target == 4
    assert settings.drain_timeout_s == 3600.0


def test_there_are_never_more_standby_processes_than_slots() -> None:
    """The standby target is bounded by the slots."""
    assert load(RunnerSettings, {"GREENROOM_SLOTS": "2", "GREENROOM_STANDBY": "9"}).standby_target == 2


def test_the_runner_id_can_be_part_of_a_subject() -> None:
    """The dots of a host name become dashes."""
    assert load(RunnerSettings, {"GREENROOM_INSTANCE_ID": "node1.eu.example-17"}).runner_id == "node1-eu-example-17"


def test_a_long_instance_id_keeps_what_tells_it_from_others() -> None:
    """An id of over 128 characters is cut, and two that differ at the end only stay two."""
    names = ("n" * 150 + "-17", "n" * 150 + "-18")
    ids = {load(RunnerSettings, {"GREENROOM_INSTANCE_ID": name}).runner_id for name in names}
    assert len(ids) == 2
    assert {len(each) for each in ids} == {128}


def test_a_claim_makes_a_runner_for_one_session() -> None:
    """With a claim the runner has the id that its lease names, one slot, and no process in waiting."""
    env = {"GREENROOM_CLAIM": "acme/s-1/2", "GREENROOM_SLOTS": "24", "GREENROOM_INSTANCE_ID": "node1.eu"}
    settings = load(RunnerSettings, env)
    assert settings.runner_id == "cold-s-1-2"
    assert (settings.slots, settings.standby_target) == (1, 0)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=RunnerSettings)
    assert again == settings
    assert load(RunnerSettings, {}).claimed is None


def test_labels_are_names_and_values() -> None:
    """Labels are told as they were written."""
    settings = load(RunnerSettings, {"GREENROOM_LABELS": "gpu=l4, region=eu-west, os.version=12.4"})
    assert settings.label_values == {"gpu": "l4", "region": "eu-west", "os.version": "12.4"}


@pytest.mark.parametrize(("written", "echo", "other"), [("", 1, 1), ("3", 3, 3), ("echo=4", 4, 1), ("3,echo=4", 4, 3)])
def test_versions_are_for_all_bots_or_for_one(written: str, echo: int, other: int) -> None:
    """One number is for all bots, `name=number` for that one; the default is 1."""
    settings = load(RunnerSettings, {"GREENROOM_BOT_VERSION": written})
    assert (settings.version_of("echo"), settings.version_of("other")) == (echo, other)


def test_the_brake_can_be_switched_off() -> None:
    """`GREENROOM_BRAKE=false` takes all thresholds away, whatever they are."""
    assert load(RunnerSettings, {}).thresholds == Thresholds(
        loop_lag_ms=100, cpu_pressure_percent=98, throttled_percent=10, memory_percent=5, refuse_memory_percent=2
    )
    assert load(RunnerSettings, {"GREENROOM_BRAKE": "false"}).thresholds == Thresholds()


def test_settings_survive_the_way_to_the_zygote() -> None:
    """The zygote gets the very settings of the runner."""
    settings = load(RunnerSettings, {"GREENROOM_BOTS": "a=m.n:bot, b=o:bot", "NATS_URL": "nats://u:p@h:1"})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=RunnerSettings) == settings


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("GREENROOM_POOL", "eu.west", "GREENROOM_POOL is 'eu.west'"),
        ("GREENROOM_BOTS", "echo", "GREENROOM_BOTS has 'echo' (expected: name[@version]=module:function"),
        ("GREENROOM_BOTS", "b/my bot.py", "GREENROOM_BOTS has 'b/my bot.py' (expected: "),
        ("GREENROOM_SLOTS", "0", "GREENROOM_SLOTS is '0'"),
        ("GREENROOM_LABELS", "gpu", "GREENROOM_LABELS has 'gpu' (expected: name=value"),
        ("GREENROOM_LABELS", "gpu=", "GREENROOM_LABELS has 'gpu='"),
        ("GREENROOM_LABELS", "gpu=l4,gpu=t4", "GREENROOM_LABELS says twice what gpu is"),
        ("GREENROOM_BOT_VERSION", "0", "GREENROOM_BOT_VERSION has '0'"),
        ("GREENROOM_BOT_VERSION", "1,2", "GREENROOM_BOT_VERSION says twice what the version is"),
        ("GREENROOM_ORDINAL", "-1", "GREENROOM_ORDINAL is -1"),
        ("GREENROOM_INSTANCE", "two words", "GREENROOM_INSTANCE is 'two words'"),
        ("GREENROOM_CLAIM", "s-1", "GREENROOM_CLAIM is wrong: 's-1' isn't TENANT/SESSION_ID/EPOCH"),
    ],
)
def test_unusable_settings_are_named(name: str, value: str, complaint: str) -> None:
    """The message names the variable and what was expected."""
    with pytest.raises(SettingsInvalid) as caught:
        load(RunnerSettings, {name: value})
    assert complaint in caught.value.detail


def test_slots_may_be_left_to_what_is_measured() -> None:
    """`auto` stands for as many as the host takes, and is a value like any other to whoever reads of settings."""
    settings = load(RunnerSettings, {"GREENROOM_SLOTS": "auto"})
    assert (settings.slots, settings.most_slots) == ("auto", 512)
    with pytest.raises(SettingsInvalid, match="GREENROOM_SLOTS is 'many'"):
        load(RunnerSettings, {"GREENROOM_SLOTS": "many"})
    with pytest.raises(SettingsInvalid, match="GREENROOM_SLOTS"):
        load(RunnerSettings, {"GREENROOM_SLOTS": "513"})
