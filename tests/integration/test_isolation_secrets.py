"""Secrets of bots, from the runner's directory into the sessions of the bots that name them, and nowhere else."""

import asyncio
from pathlib import Path

from greenroom.common import subjects
from greenroom.common.clock import utcnow
from greenroom.common.lifecycle import Leased, State
from greenroom.common.messages import StartRefused, StartSession, encode
from greenroom.runner.isolation import kernel
from tests.integration.test_isolation_process import look
from tests.support.runner_process import request, runner_process
from tests.support.runner_rig import until

BOTS = "needy=tests.support.needy_bot:bot,mirror=tests.support.mirror_bot:bot"
NAMES = ["NEEDED_KEY", "OTHER_KEY"]


async def test_secrets_reach_the_sessions_of_their_bot_only(nats_url: str, tmp_path: Path) -> None:
    """A bot is offered once its secrets are there, gets them and a rotated one too; other bots get and read nothing."""
    reports, secrets = tmp_path / "reports", tmp_path / "secrets"
    reports.mkdir()
    secrets.mkdir()
    (secrets / "OTHER_KEY").write_text("other-canary")
    async with runner_process(nats_url, GREENROOM_BOTS=BOTS, GREENROOM_SECRETS_DIR=str(secrets)) as it:

        def missing() -> tuple[str, ...]:
            return next(offer.missing_secrets for offer in it.heartbeats[-1].bots if offer.name == "needy")

        assert missing() == ("NEEDED_KEY",)
        (secrets / "NEEDED_KEY").write_text("first-canary\n")
        await until(lambda: not missing())
        seen = await look(it, reports, bot="needy", secrets=NAMES)
        assert seen["values"] == {"NEEDED_KEY": "first-canary", "OTHER_KEY": "other-canary"}
        assert "canary" not in seen["initial_environment"]
        files = [str(secrets / "NEEDED_KEY"), str(Path(__file__))]
        other = await look(it, reports, secrets=NAMES, files=files)
        assert other["values"] == {"NEEDED_KEY": None, "OTHER_KEY": None}
        # The user of all sessions may read the file; it is Landlock that keeps them out.
        kept_out = "PermissionError" if kernel.landlock_version() else "done"
        assert list(other["read"].values()) == [kept_out, "done"]
        beats = len(it.heartbeats)
        (secrets / "NEEDED_KEY").write_text("second-canary, and longer")
        await asyncio.sleep(1.5)
        seen = await look(it, reports, bot="needy", secrets=NAMES)
        assert seen["values"]["NEEDED_KEY"] == "second-canary, and longer"
        assert "canary" not in "".join(str(beat) for beat in it.heartbeats[: beats + 1])
        (secrets / "NEEDED_KEY").unlink()
        await until(lambda: missing() == ("NEEDED_KEY",))


async def test_a_start_without_its_secrets_is_refused(nats_url: str) -> None:
    """A runner that is told to start a bot whose secrets it hasn't got refuses, and says which; names, no values."""
    env = {"GREENROOM_SECRET_OTHER_KEY": "other-canary"}
    async with runner_process(nats_url, GREENROOM_BOTS=BOTS, **env) as it:
        requested = await request(it.ledger, "needy")
        lease = Leased(runner_id=it.runner_id, epoch=1, expires_at=utcnow())
        entry = await it.ledger.advance(requested, lease)
        subject = subjects.RUNNER_CMD.format(pool="default", runner_id=it.runner_id, name="start")
        body = encode(StartSession(session=entry.session, revision=entry.revision))
        reply = await it.broker.request(subject, body, timeout_s=5)
        assert reply.data == encode(StartRefused(code="secret-missing", detail="NEEDED_KEY"))
        last = await it.ledger.last("default", entry.session.id)
        assert last is not None
        assert last.session.state is State.LEASED
