"""Session processes that log in at the broker as themselves: a whole call, and what they can't do."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.client import Client

from greenroom.common import mailbox, subjects, topology_admin
from greenroom.common.bodies import Bodies
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.commands import CommandDone, CommandRequest, Configure
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Session, State
from greenroom.common.mailboxes import Mailboxes
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.secrets import SecretBox
from greenroom.common.spool import Spool
from greenroom.runner.isolation import callout
from greenroom.runner.isolation.callout import Issuer, new_seed
from greenroom.runner.isolation.grants import Grant
from tests.support.api_world import eventually
from tests.support.callout_nats import CalloutNats
from tests.support.deployed_nats import DeployedNats
from tests.support.ledgers import request
from tests.support.runner_process import request as request_bot
from tests.support.runner_process import runner_process

TENANT = "acme"
# As large as any may be.
LARGE = {"text": "x" * 999_989}


@pytest.fixture(scope="module")
async def deployed(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[DeployedNats]:
    """A server as deploy/nomad runs it."""
    server = DeployedNats(tmp_path_factory.mktemp("deployed"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SSL_CERT_DIR", str(server.ca.hashed_folder()))
        async with server.running():
            async with server.broker("operator") as operator:
                await topology_admin.apply(operator)
            yield server


@pytest.fixture
async def server(deployed: DeployedNats) -> AsyncGenerator[DeployedNats]:
    """The server, and a runner's answers to its questions."""
    async with deployed.broker("runner") as runner:
        await callout.serve(runner, deployed.issuer)
        await runner.flush(5)
        yield deployed


async def a_session(server: DeployedNats) -> Session:
    """Return a session that is in the ledger."""
    async with server.broker("api") as api:
        return (await Ledger(api).create(request(tenant=TENANT))).session


@contextlib.asynccontextmanager
async def logged_in(server: DeployedNats, session: Session) -> AsyncGenerator[NatsBroker]:
    """Give the connection of a session's process."""
    url = server.issuer.url_for(server.url("runner"), session)
    inbox = Grant(session.tenant, session.id, 0).inbox
    broker = await NatsBroker.connect(url, name="session", timeout_s=5, inbox=inbox)
    try:
        yield broker
    finally:
        await broker.close()


async def test_a_session_process_can_do_its_work(server: DeployedNats) -> None:
    """Events and audio into streams, frames both ways, commands answered, secrets taken: with a login of its own."""
    session = await a_session(server)
    tokens = {"tenant": TENANT, "session_id": session.id}
    async with logged_in(server, session) as broker, server.broker("api") as api:
        await SecretBox(api).put(TENANT, session.id, {"token": "t"})
        assert await SecretBox(broker).take(TENANT, session.id, keep=False) == {"token": "t"}
        given = await Bodies(api).put(msgspec.structs.replace(session, body=LARGE))
        assert (await Bodies(broker).fetch(given)).body == LARGE
        spool = Spool(broker, max_bytes=100_000)
        running = asyncio.create_task(spool.run())
        spool.put(
            subjects.SESSION_EVENT.format(**tokens, type="user_spoke"),
            b"{}",
            msg_id=uuid7(),
            headers={},
            droppable=False,
        )
        spool.put(
            subjects.SESSION_AUDIO.format(**tokens, track="user"), b"pcm", msg_id=uuid7(), headers={}, droppable=False
        )
        assert await spool.flush(10) == 0
        running.cancel()

        async def yes(_: Message) -> bytes:
            return b"yes"

        frames: asyncio.Queue[bytes] = asyncio.Queue()

        async def hear(message: Message) -> None:
            frames.put_nowait(message.data)

        connect = subjects.SESSION_CMD.format(**tokens, name="connect")
        inward, outward = (subjects.SESSION_MEDIA.format(**tokens, direction=each) for each in ("in", "out"))
        await broker.serve(connect, yes)
        await broker.subscribe(inward, hear)
        await broker.flush(5)
        assert (await api.request(connect, b"", timeout_s=5)).data == b"yes"
        await api.publish(inward, b"frame in")
        assert await asyncio.wait_for(frames.get(), 5) == b"frame in"
        await api.subscribe(outward, hear)
        await api.flush(5)
        await broker.publish(outward, b"frame out")
        assert await asyncio.wait_for(frames.get(), 5) == b"frame out"
        await api.serve(subjects.SESSION_ASK.wildcard(name="transfer"), yes)
        await api.flush(5)
        asked = subjects.SESSION_ASK.format(**tokens, name="transfer")
        assert (await broker.request(asked, b"", timeout_s=5)).data == b"yes"


@contextlib.asynccontextmanager
async def raw(server: DeployedNats, session: Session) -> AsyncGenerator[tuple[Client, list[str]]]:
    """Give a session's login without our own broker around it, and what the server objects to."""
    objections: list[str] = []

    async def object_to(error: Exception) -> None:
        objections.append(str(error).lower())

    url = server.issuer.url_for(server.url("runner"), session)
    client = await nats.connect(url, error_cb=object_to, allow_reconnect=False)
    try:
        yield client, objections
    finally:
        await client.close()


async def test_a_session_process_can_do_nothing_else(server: DeployedNats) -> None:
    """It reads no other session's subjects, writes no ledger, its own neither, and asks the broker for nothing more."""
    mine, other = await a_session(server), await a_session(server)
    ours, theirs = ({"tenant": TENANT, "session_id": each.id} for each in (mine, other))
    lifecycle = subjects.SESSION_LIFECYCLE.format(**theirs)
    forbidden = {
        "publish": (
            lifecycle,
            subjects.SESSION_LIFECYCLE.format(**ours),
            subjects.SESSION_EVENT.format(**theirs, type="user_spoke"),
            subjects.SESSION_EVENT.format(**ours, type="recording_saved"),
            subjects.SESSION_AUDIO.format(**theirs, track="bot"),
            subjects.SESSION_MEDIA.format(**theirs, direction="out"),
            subjects.SESSION_CMD.format(**theirs, name="stop"),
            subjects.SESSION_ASK.format(**theirs, name="transfer"),
            subjects.SESSION_ASK.format(**ours, name="anything"),
            subjects.SECRET.format(**theirs),
            subjects.BODY.format(**theirs),
            subjects.BODY.format(**ours),
            subjects.MAILBOX.format(**theirs),
            f"$JS.API.DIRECT.GET.COMMANDS.{subjects.MAILBOX.format(**theirs)}",
            subjects.MAILBOX_STORED.format(**ours),
            subjects.RUNNER_CMD.format(pool="default", runner_id="r1", name="start"),
            subjects.RUNNER_HEARTBEAT.format(pool="default", runner_id="r1"),
            f"$JS.API.DIRECT.GET.SESSIONS.{lifecycle}",
            f"$JS.API.DIRECT.GET.SECRETS.{subjects.SECRET.format(**theirs)}",
            f"$JS.API.DIRECT.GET.BODIES.{subjects.BODY.format(**theirs)}",
            "$JS.API.STREAM.MSG.GET.SESSIONS",
            "$JS.API.CONSUMER.CREATE.SESSIONS.mine",
            f"{Grant(TENANT, other.id, 0).inbox}.x",
        ),
        "subscription": (
            lifecycle,
            subjects.SESSION_EVENT.wildcard(**theirs),
            subjects.SESSION_MEDIA.format(**theirs, direction="in"),
            subjects.MAILBOX_STORED.format(**theirs),
            subjects.SESSION_CMD.wildcard(),
            f"{Grant(TENANT, other.id, 0).inbox}.>",
            "_INBOX.>",
            callout.SUBJECT,
            ">",
        ),
    }
    async with raw(server, mine) as (client, objections):
        for what, patterns in forbidden.items():
            for pattern in patterns:
                objections.clear()
                if what == "publish":
                    await client.publish(pattern, b"x")
                else:
                    await client.subscribe(pattern)
                await client.flush()
                async with asyncio.timeout(5):
                    while not objections:
                        await asyncio.sleep(0.005)
                assert f'permissions violation for {what} to "{pattern}"'.lower() in objections[0]
    async with server.broker("runner") as runner:
        last = await Ledger(runner).last(TENANT, other.id)
        assert last is not None
        assert last.session.state is State.REQUESTED


async def test_nobody_gets_in_with_another_token(server: DeployedNats) -> None:
    """A token of another issuer, one that is made up, and another name with a good token are refused."""
    session = await a_session(server)
    good = server.issuer.url_for(server.url("runner"), session)
    for url in (
        Issuer(new_seed()).url_for(server.url("runner"), session),
        server.url("runner").replace("runner:1e5runner", "session:made-up"),
        good.replace("session:", "runner:"),
        good.replace("session:", "somebody:"),
    ):
        with pytest.raises(BrokerUnavailable):
            await NatsBroker.connect(url, name="intruder", timeout_s=2)


async def test_a_whole_session_with_a_login_of_its_own(tmp_path: Path) -> None:
    """A runner with an issuer runs sessions from standby to the last event, and they come back after an outage."""
    seed = new_seed()
    async with (
        CalloutNats(tmp_path, Issuer(seed).public_key) as nats_server,
        runner_process(nats_server.url, GREENROOM_NATS_ISSUER_SEED=seed) as it,
    ):
        requested = await request_bot(it.ledger, "echo")
        session_id = requested.session.id
        waits = CommandRequest(id="a", by="key", at=utcnow(), command=Configure(version=1, mode="calm"))
        boxes = Mailboxes(it.broker)
        await boxes.change("default", session_id, lambda box: mailbox.post(box, waits, 1))
        await it.begin(requested)
        # Taken, carried out and written down by the session's own login.
        box = await eventually(lambda: boxes.read("default", session_id), lambda box: box.posted[0].answer is not None)
        assert isinstance(box.posted[0].answer, CommandDone)
        assert box.desired.version == 1
        subject = subjects.SESSION_EVENT.wildcard(tenant="default", session_id=session_id)
        await nats_server.restart()
        async with asyncio.timeout(30):
            while not it.broker.connected:
                await asyncio.sleep(0.05)
        await it.stop(session_id)
        ended = await it.reaches(session_id, State.ENDED)
        assert (ended.reason, ended.detail) == ("client-stop", None)
        # The first, the command and the last: nothing that was said is missing.
        assert await it.broker.count("SESSIONS", subject) == 3
