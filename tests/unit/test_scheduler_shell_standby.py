"""The scheduler tells runners how many processes should wait, when sessions come fast."""

from greenroom.common import subjects
from greenroom.common.broker import Message
from greenroom.common.messages import SetStandby, decode
from tests.support.scheduler_growing import HEARING_S, ask
from tests.support.scheduler_rig import Rig
from tests.support.scheduler_scenarios import play


def test_a_fast_pool_has_more_processes_waiting() -> None:
    """While nobody comes nothing is said; when sessions come by the dozen, each runner is told again and again."""

    async def scenario(rig: Rig) -> None:
        told: list[tuple[str, SetStandby]] = []

        async def hear(message: Message) -> None:
            told.append((message.subject.split(".")[4], decode(message.data, SetStandby)))

        await rig.broker.subscribe(subjects.RUNNER_CMD.wildcard(name="standby"), hear)
        for name in ("r1", "r2"):
            await rig.runner(name, slots=500)
        rig.scheduler()
        await rig.clock.sleep(HEARING_S + 40)
        assert told == []
        for _ in range(40):
            for _ in range(10):
                await ask(rig)
            await rig.clock.sleep(1)
        assert {runner for runner, _ in told} == {"r1", "r2"}
        assert all(4 < wish.target <= 64 for _, wish in told)
        assert len(told) >= 4

    play(scenario)
