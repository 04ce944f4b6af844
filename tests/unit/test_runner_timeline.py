"""What is counted of a session that has ended."""

from greenroom.common.clock import SystemClock
from greenroom.common.lifecycle import Outcome
from greenroom.common.metrics import Metrics
from greenroom.runner.instruments import Instruments
from greenroom.runner.isolation.groups import GroupEnd
from greenroom.runner.slots import Verdict
from greenroom.runner.timeline import Timeline
from greenroom.runner.verdicts import Exit
from tests.support.session_rig import new_session

GOODBYE = Verdict(by="session", outcome=Outcome.COMPLETED, reason="goodbye")
MB = 2**20


def counted(*exits: Exit | None) -> dict[str, float]:
    """Return the metrics after sessions that have ended in these ways, by name and labels."""
    metrics = Metrics()
    instruments = Instruments(metrics)
    for exited in exits:
        Timeline(new_session("echo"), None, clock=SystemClock(), instruments=instruments).ended(GOODBYE, exited)
    lines = [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_what_control_groups_have_counted_is_in_the_metrics() -> None:
    """Peaks one by one, the rest added up."""
    group = GroupEnd(peak_bytes=200 * MB, throttled_s=0.75, forks_refused=12)
    found = counted(*[Exit(code=0, max_rss_bytes=90 * MB, cpu_s=1.5, group=group)] * 2)
    expected = {
        "greenroom_session_peak_memory_bytes_sum": 400 * MB,
        "greenroom_session_peak_memory_bytes_count": 2,
        "greenroom_session_max_rss_bytes_sum": 180 * MB,
        "greenroom_session_throttled_seconds_total": 1.5,
        "greenroom_session_forks_refused_total": 24,
        "greenroom_session_cpu_seconds_total": 3,
        'greenroom_runner_session_ends_total{outcome="completed",reason="goodbye"}': 2,
    }
    assert {name: found[name] for name in expected} == expected


def test_what_nobody_has_counted_is_no_zero() -> None:
    """Without a control group, or a process, there is no peak that would pull down the others."""
    found = counted(Exit(code=0), None)
    assert found["greenroom_session_peak_memory_bytes_count"] == 0
    assert found["greenroom_session_max_rss_bytes_count"] == 0
