"""What deploy/nomad/nats allows is what the services do: on a real server, with TLS, each with its own login."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from greenroom.common import subjects, topology, topology_admin
from greenroom.common.bodies import Bodies
from greenroom.common.broker import Message, NoResponder
from greenroom.common.clock import utcnow
from greenroom.common.desired import Desired
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ids import uuid7
from greenroom.common.leadership import Leadership
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Ended, Ending, Outcome, Ready, Session, Started
from greenroom.common.mailbox import keep
from greenroom.common.mailboxes import Mailboxes
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.nats_client import NatsClient
from greenroom.common.secrets import SecretBox
from greenroom.common.spool import Spool
from greenroom.recorder.backlog import backlog
from greenroom.recorder.retention import sweep
from tests.support.deployed_nats import DeployedNats, password
from tests.support.ledgers import leased, request

TENANT = "acme"
_DEADLINE_S = 10.0
_SERVICES = ("api", "scheduler", "runner", "recorder", "publisher")


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[DeployedNats]:
    """Run the server of this module, with the streams as the operator makes them."""
    server = DeployedNats(tmp_path_factory.mktemp("deployed"))
    with pytest.MonkeyPatch.context() as environment:
        # As the jobs have it: beside the authorities that the image trusts.
        environment.setenv("SSL_CERT_DIR", str(server.ca.hashed_folder()))
        async with server.running():
            async with server.broker("operator") as operator:
                await topology_admin.apply(operator)
                assert await topology_admin.diff(operator) == []
            yield server


class Services:
    """One connection for each login."""

    def __init__(self, brokers: dict[str, NatsBroker]) -> None:
        self.api = brokers["api"]
        self.scheduler = brokers["scheduler"]
        self.runner = brokers["runner"]
        self.recorder = brokers["recorder"]
        self.publisher = brokers["publisher"]


@pytest.fixture
async def services(server: DeployedNats) -> AsyncGenerator[Services]:
    """Give a connection for each login, and no violations by the end of the test."""
    async with contextlib.AsyncExitStack() as connections:
        brokers = {name: await connections.enter_async_context(server.broker(name)) for name in _SERVICES}
        yield Services(brokers)


async def test_a_session_goes_through_all_services(services: Services) -> None:
    """Ledger by compare-and-set, watch, heartbeat, start, claim, stop and history of one session."""
    api, scheduler, runner = Ledger(services.api), Ledger(services.scheduler), Ledger(services.runner)
    for broker in (services.api, services.scheduler):
        await topology_admin.check(broker)
    entry = await api.create(request(tenant=TENANT))
    session = entry.session
    tokens = {"tenant": TENANT, "session_id": session.id}

    heard = await _listen(services.scheduler, subjects.RUNNER_HEARTBEAT.wildcard())
    seen_by_api = await _listen(services.api, subjects.RUNNER_HEARTBEAT.wildcard())
    await services.runner.publish(subjects.RUNNER_HEARTBEAT.format(pool="default", runner_id="r1"), b"{}")
    assert (await _next(heard)).subject == (await _next(seen_by_api)).subject

    watch = await scheduler.watch()
    watched = await anext(aiter(watch))
    assert watched.session.id == session.id
    entry = await scheduler.advance(watched, leased())

    for name in ("start", "drain"):
        command = subjects.RUNNER_CMD.format(pool="default", runner_id="r1", name=name)
        await _answer(services.runner, command)
        assert (await services.scheduler.request(command, b"{}", timeout_s=5)).data == b"yes"

    lifecycle = subjects.SESSION_LIFECYCLE.format(**tokens)
    stop_seen = await _listen(services.runner, lifecycle)
    stored = subjects.SESSION_STORED.format(**tokens)
    waiter = await _listen(services.api, stored)
    claimed = await runner.last(TENANT, session.id)
    assert claimed is not None
    entry = await runner.advance(claimed, Started(runner_id="r1", epoch=1))
    assert ((await _next(waiter)).subject, (await _next(stop_seen)).subject) == (stored, lifecycle)
    await runner.advance(entry, Ready(epoch=1))
    await api.move(TENANT, session.id, lambda _: Ending(by="client", epoch=1, reason="stopped"))
    entry = await runner.move(
        TENANT, session.id, lambda _: Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="stopped")
    )
    assert [each.transition for each in await api.history(TENANT, session.id)][-1] == entry.transition
    await watch.close()


async def test_media_goes_between_edge_and_session_process(services: Services) -> None:
    """Connect and transfer by request, frames both ways, the look at the edge, and practice in the own inbox."""
    tokens = {"tenant": TENANT, "session_id": uuid7()}
    connect = subjects.SESSION_CMD.format(**tokens, name="connect")
    inward, outward = (subjects.SESSION_MEDIA.format(**tokens, direction=direction) for direction in ("in", "out"))
    await _answer(services.runner, connect)
    assert (await services.api.request(connect, b"{}", timeout_s=5)).data == b"yes"
    await _answer(services.api, subjects.SESSION_ASK.wildcard(name="transfer"))
    asked = subjects.SESSION_ASK.format(**tokens, name="transfer")
    assert (await services.runner.request(asked, b"{}", timeout_s=5)).data == b"yes"
    at_process, at_edge = await _listen(services.runner, inward), await _listen(services.api, outward)
    await services.api.publish(inward, b"frame")
    await services.runner.publish(outward, b"frame")
    assert (await _next(at_process)).data == (await _next(at_edge)).data == b"frame"

    corner = f"_INBOX.practice.{uuid7()}.stream.anything"
    await _answer(services.runner, corner)
    assert (await services.runner.request(corner, b"", timeout_s=5)).data == b"yes"
    with pytest.raises(NoResponder):
        await services.runner.request(
            subjects.SESSION_MEDIA.format(**tokens | {"tenant": "b"}, direction="out"), b"", timeout_s=5
        )


async def test_events_and_audio_come_to_the_recorder_and_are_purged(services: Services) -> None:
    """Spooled by the session process or published by others; pulled, acknowledged, handed back, parked, purged."""
    tokens = {"tenant": TENANT, "session_id": uuid7()}
    await _drained(services.recorder)
    spool = Spool(services.runner, max_bytes=1_000_000)
    running = asyncio.create_task(spool.run())
    event = subjects.SESSION_EVENT.format(**tokens, type="user_spoke")
    audio = subjects.SESSION_AUDIO.format(**tokens, track="user")
    spool.put(event, b"{}", msg_id=uuid7(), headers={}, droppable=False)
    spool.put(audio, b"pcm", msg_id=uuid7(), headers={}, droppable=True)
    assert await spool.flush(_DEADLINE_S) == 0
    running.cancel()
    foreign = subjects.SESSION_EVENT.format(**tokens, type="crm.ticket_opened")
    await services.publisher.append(foreign, b"{}", msg_id=uuid7())
    decision = subjects.SESSION_EVENT.format(**tokens, type="scheduler.decision")
    await services.scheduler.append(decision, b"{}", msg_id=uuid7())

    recorder = services.recorder
    await topology_admin.check(recorder)
    assert await _taken(recorder, "SESSIONS", "recorder-sessions", 3) == {event, foreign, decision}
    assert await _taken(recorder, "AUDIO", "recorder-audio", 1) == {audio}
    await _until(lambda: _settled(recorder))
    assert await recorder.count("AUDIO", subjects.SESSION_AUDIO.wildcard(**tokens)) == 0
    await recorder.append(subjects.SESSION_EVENT.format(**tokens, type="recording_saved"), b"{}", msg_id=uuid7())
    for kind in ("transcript.ready", "post_call.summary"):
        await recorder.append(subjects.SESSION_EVENT.format(**tokens, type=kind), b"{}", expected_last=0)
    step = subjects.POST_CALL.format(**tokens, step="summary")
    await recorder.append(step, b"{}", msg_id=uuid7())
    assert await _taken(recorder, "POSTCALL", "recorder-postcall", 1) == {step}
    await recorder.append(subjects.PARKED.format(stream="SESSIONS"), b"{}", msg_id=uuid7())
    await recorder.purge("SESSIONS", subjects.SESSION_ALL.wildcard(**tokens), up_to=1_000_000)
    assert await recorder.count("SESSIONS", subjects.SESSION_ALL.wildcard(**tokens)) == 0


async def test_the_recorder_has_erased_sessions_forgotten(services: Services) -> None:
    """What is kept of a session under its subjects and what names it elsewhere is deleted; what names others stays."""
    erased, other = uuid7(), uuid7()
    for session_id in (erased, other):
        body = f'{{"session_id": "{session_id}"}}'.encode()
        for subject in (subjects.TICKET, subjects.CALL):
            await services.api.append(subject.format(key=session_id), body)
        await services.api.append(subjects.IDEMPOTENCY.format(tenant=TENANT, key=session_id), body)
        for subject in (subjects.SECRET, subjects.BODY, subjects.MAILBOX):
            await services.api.append(subject.format(tenant=TENANT, session_id=session_id), b"{}")
        await services.scheduler.append(subjects.DECISION.format(pool="default"), body)
        await services.recorder.append(subjects.PARKED.format(stream="AUDIO"), body)
    assert await sweep.forget(services.recorder, [(TENANT, erased)]) == 5
    by_subject = (("SECRETS", subjects.SECRET), ("BODIES", subjects.BODY), ("COMMANDS", subjects.MAILBOX))
    for stream, subject in by_subject:
        own = subject.format(tenant=TENANT, session_id=erased)
        assert await services.recorder.count(stream, own) == 0, stream
    everywhere = (*sweep.READ_THROUGH, *((stream, subject.wildcard()) for stream, subject in by_subject))
    for stream, everything in everywhere:
        assert await services.recorder.count(stream, everything) >= 1, stream
    assert await sweep.forget(services.recorder, [(TENANT, erased)]) == 0
    assert await sweep.forget(services.recorder, [(TENANT, other)]) == 5


async def test_scheduler_and_recorder_are_elected(services: Services) -> None:
    """Each takes the claim that is its own, renews it, and gives it back; the api reads who leads."""
    for broker, name in ((services.scheduler, "scheduler-default"), (services.recorder, "recorder")):
        leadership = Leadership(broker, name, "one")
        running = asyncio.create_task(leadership.run(_for_ever))
        await _until(lambda leadership=leadership: _true(leadership.leading))
        running.cancel()
        await asyncio.wait({running})
        assert await services.api.last("LEADERS", subjects.LEADER.format(name=name)) is not None


async def test_what_the_api_keeps_and_what_the_scheduler_answers(services: Services) -> None:
    """Tickets, idempotency records, secrets, releases and the policy; queue queries; verdicts and decisions."""
    for subject, stream in (
        (subjects.TICKET.format(key=uuid7()), "TICKETS"),
        (subjects.IDEMPOTENCY.format(tenant=TENANT, key=uuid7()), "IDEMPOTENCY"),
    ):
        revision = await services.api.append(subject, b"{}", expected_last=0)
        await services.api.append(subject, b"", expected_last=revision)
        assert await services.api.last(stream, subject) is not None

    box, releases = SecretBox(services.api), subjects.RELEASE.format(transport="daily")
    await box.put(TENANT, "s1", {"token": "t"})
    assert await SecretBox(services.runner).take(TENANT, "s1", keep=False) == {"token": "t"}
    assert await box.take(TENANT, "s1", keep=False) == {}
    now = utcnow()
    given = Session(id="s1", tenant=TENANT, agent="a", bot="a", body={"a": 1}, requested_at=now, queue_deadline_at=now)
    put = await Bodies(services.api).put(given)
    assert (await Bodies(services.runner).fetch(put)).body == {"a": 1}
    await Bodies(services.api).forget(TENANT, "s1")
    heard = await _listen(services.runner, subjects.MAILBOX_STORED.format(tenant=TENANT, session_id="s1"))
    for mailboxes in (Mailboxes(services.api), Mailboxes(services.runner)):
        version = (await mailboxes.read(TENANT, "s1")).desired.version + 1
        await mailboxes.change(TENANT, "s1", lambda box, version=version: keep(box, Desired(version=version)))
        assert (await _next(heard)).data
    assert (await Mailboxes(services.api).read(TENANT, "s1")).desired.version == 2

    await services.api.append(releases, b"{}", msg_id=uuid7())
    assert await _taken(services.api, "RELEASES", "api-releases", 1) == {releases}

    current, verdicts = (subjects.POLICY.format(name=name) for name in ("current", "verdicts"))
    await services.api.append(current, b"{}")
    reader = await services.scheduler.read("POLICY", [subjects.POLICY.wildcard()], last_per_subject=True)
    assert (await anext(aiter(reader))).subject == current
    await reader.close()
    await services.scheduler.append(verdicts, b"{}", expected_last=0)
    assert await services.api.last("POLICY", verdicts) is not None
    spending = subjects.POLICY.format(name="spending")
    assert await services.recorder.last("POLICY", spending) is None
    await services.recorder.append(spending, b"{}", expected_last=0)
    reader = await services.api.read("POLICY", [spending], last_per_subject=True)
    assert (await anext(aiter(reader))).subject == spending
    await reader.close()
    notice = subjects.NOTICE.format(tenant=TENANT, kind="budget.reached")
    await services.recorder.append(notice, b"{}", msg_id=uuid7())
    reached = subjects.NOTICE.format(tenant=TENANT, kind="limit.reached")
    await services.scheduler.append(reached, b"{}", msg_id=uuid7())
    assert await _taken(services.recorder, "NOTICES", "recorder-notices", 2) == {notice, reached}
    await services.scheduler.append(subjects.DECISION.format(pool="default"), b"{}", msg_id=uuid7())
    for name in ("queue", "waiting", "pools"):
        query = subjects.REQUEST.format(service="scheduler", name=name)
        await _answer(services.scheduler, query)
        assert (await services.api.request(query, b"{}", timeout_s=5)).data == b"yes"


_SESSION = "gr.v1.session.acme.s1"
_MAKES_STREAMS = ("$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.DELETE.SESSIONS", "$JS.API.STREAM.UPDATE.SESSIONS")
_TAKES_FROM_THE_RECORDER = ("$JS.API.CONSUMER.MSG.NEXT.AUDIO.recorder-audio", "$JS.ACK.AUDIO.recorder-audio.1.1.1.1.0")
_FORBIDDEN = {
    "api": {
        "publish": (
            "gr.v1.leader.scheduler-default",
            "gr.v1.policy.verdicts",
            "gr.v1.decision.default",
            "gr.v1.runner.default.r1.cmd.start",
            "gr.v1.runner.default.r1.heartbeat",
            f"{_SESSION}.event.recording_saved",
            f"{_SESSION}.audio.user",
            f"{_SESSION}.media.out",
            "$JS.API.STREAM.PURGE.SESSIONS",
            "$JS.API.CONSUMER.CREATE.AUDIO.mine",
        ),
        "subscribe": ("gr.v1.runner.*.*.cmd.*", "gr.v1.>", ">", "gr.v1.session.*.*.audio.*"),
    },
    "scheduler": {
        "publish": (
            "gr.v1.leader.recorder",
            "gr.v1.policy.current",
            "gr.v1.ticket.abc",
            f"{_SESSION}.event.user_spoke",
            f"{_SESSION}.media.in",
            f"{_SESSION}.audio.bot",
            "$JS.API.DIRECT.GET.TICKETS.gr.v1.ticket.abc",
            "$JS.API.STREAM.PURGE.SESSIONS",
        ),
        "subscribe": ("gr.v1.session.*.*.media.in", "gr.v1.session.>", ">"),
    },
    "runner": {
        "publish": (
            "gr.v1.policy.current",
            "gr.v1.policy.verdicts",
            "gr.v1.leader.scheduler-default",
            "gr.v1.ticket.abc",
            "gr.v1.runner.default.r2.cmd.start",
            f"{_SESSION}.event.recording_saved",
            f"{_SESSION}.event.scheduler.decision",
            f"{_SESSION}.media.in",
            "gr.v1.parked.SESSIONS",
            "$JS.API.DIRECT.GET.TICKETS.gr.v1.ticket.abc",
            "$JS.API.DIRECT.GET.SESSIONS",
            "$JS.API.STREAM.MSG.GET.SESSIONS",
            "$JS.API.CONSUMER.CREATE.SESSIONS.mine",
        ),
        "subscribe": ("gr.v1.session.*.*.event.>", "gr.v1.ticket.*", ">"),
    },
    "recorder": {
        "publish": (
            f"{_SESSION}.lifecycle",
            f"{_SESSION}.event.user_spoke",
            f"{_SESSION}.audio.user",
            "gr.v1.leader.scheduler-default",
            "gr.v1.policy.current",
            "$JS.API.STREAM.PURGE.LEADERS",
            "$JS.API.STREAM.MSG.DELETE.SESSIONS",
            "$JS.API.CONSUMER.DELETE.SESSIONS.recorder-sessions",
        ),
        "subscribe": ("gr.v1.session.*.*.media.in", ">"),
    },
    "publisher": {
        "publish": (
            f"{_SESSION}.lifecycle",
            f"{_SESSION}.event.call_completed",
            f"{_SESSION}.event.scheduler.decision",
            f"{_SESSION}.audio.user",
            "gr.v1.runner.default.r1.heartbeat",
            "$JS.API.STREAM.INFO.SESSIONS",
        ),
        "subscribe": ("gr.v1.session.>", ">"),
    },
}


@pytest.mark.parametrize("login", _SERVICES)
async def test_the_rest_is_refused(server: DeployedNats, login: str) -> None:
    """Nobody writes what is another's, takes what is meant for another, or makes, changes and deletes streams."""
    publish = _FORBIDDEN[login]["publish"] + _MAKES_STREAMS
    if login != "recorder":
        publish += _TAKES_FROM_THE_RECORDER
    subscribe = _FORBIDDEN[login]["subscribe"]
    async with _raw(server.url(login)) as (client, refusals):
        for subject in publish:
            await client.publish(subject, b"{}")
        for subject in subscribe:
            await client.subscribe(subject)
        await client.flush(5)
        await _until(lambda: _true(len(refusals) >= len(publish) + len(subscribe)))
    said = "\n".join(refusals).lower()
    assert [subject for subject in publish if f'publish to "{subject.lower()}"' not in said] == []
    assert [subject for subject in subscribe if f'subscription to "{subject.lower()}"' not in said] == []


async def test_what_is_refused_was_not_stored(server: DeployedNats, services: Services) -> None:
    """A runner's policy never reaches the stream: its append isn't acknowledged, and nothing is there."""
    subject = subjects.POLICY.format(name="forged")
    with pytest.raises(BrokerUnavailable):
        await services.runner.append(subject, b"{}", timeout_s=0.3)
    async with server.broker("operator") as operator:
        assert await operator.count("POLICY", subject) == 0


async def test_who_has_no_password_does_not_get_in(server: DeployedNats) -> None:
    """Neither with a wrong one, nor with that of another login."""
    for guess in (server.url("api").replace(password("api"), "guess"), server.url("api").replace("//api", "//admin")):
        with pytest.raises(nats.errors.Error):
            await _try(guess)


async def test_a_server_of_an_unknown_authority_is_not_believed(
    server: DeployedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the authority's certificate nobody sends a password."""
    monkeypatch.delenv("SSL_CERT_DIR")
    with pytest.raises(ssl.SSLCertVerificationError):
        await _try(server.url("api"))


async def _try(url: str) -> None:
    """Connect once, and leave nothing open."""
    client = NatsClient()
    try:
        await client.connect(url, allow_reconnect=False, connect_timeout=5)
    finally:
        client.abort()


@contextlib.asynccontextmanager
async def _raw(url: str) -> AsyncGenerator[tuple[Client, list[str]]]:
    """Give a plain connection, and what the server refuses on it."""
    refusals: list[str] = []

    async def refused(error: Exception) -> None:
        refusals.append(str(error))

    client = NatsClient()
    try:
        await client.connect(url, error_cb=refused, connect_timeout=5)
        yield client, refusals
        await client.close()
    finally:
        client.abort()


async def _listen(broker: NatsBroker, subject: str) -> asyncio.Queue[Message]:
    """Subscribe, and return what comes."""
    heard: asyncio.Queue[Message] = asyncio.Queue()

    async def hear(message: Message) -> None:
        heard.put_nowait(message)

    await broker.subscribe(subject, hear)
    await _in_effect(broker)
    return heard


async def _next(heard: asyncio.Queue[Message]) -> Message:
    return await asyncio.wait_for(heard.get(), _DEADLINE_S)


async def _in_effect(broker: NatsBroker) -> None:
    """Wait until the server has what was subscribed to: nats-py's first ping may overtake it, the second can't."""
    await broker.client.flush(5)
    await broker.client.flush(5)


async def _answer(broker: NatsBroker, subject: str) -> None:
    async def yes(_: Message) -> bytes:
        return b"yes"

    await broker.serve(subject, yes)
    await _in_effect(broker)


async def _taken(recorder: NatsBroker, stream: str, consumer: str, count: int) -> set[str]:
    """Pull, hand back what comes first, acknowledge everything, and return the subjects."""
    pull = await recorder.pull(stream, consumer)
    taken: set[str] = set()
    handed_back = False
    async with asyncio.timeout(_DEADLINE_S):
        while len(taken) < count:
            for delivery in await pull.fetch(10, 0.5):
                if not handed_back:
                    handed_back = True
                    await delivery.nak(0.05)
                else:
                    await delivery.ack()
                    taken.add(delivery.message.subject)
    await pull.close()
    return taken


async def _drained(recorder: NatsBroker) -> None:
    """Acknowledge what other tests left."""
    for consumer in _recorders():
        pull = await recorder.pull(consumer.stream, consumer.name)
        while deliveries := await pull.fetch(100, 0.3):
            for delivery in deliveries:
                await delivery.ack()
        await pull.close()


async def _settled(recorder: NatsBroker) -> bool:
    return [(await backlog(recorder, each.stream, each.name)).in_hand for each in _recorders()] == [0] * len(
        _recorders()
    )


def _recorders() -> list[topology.Consumer]:
    return [consumer for consumer in topology.CONSUMERS if consumer.name.startswith("recorder-")]


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _true(value: bool) -> bool:  # noqa: FBT001 - what it is asked for
    return value


async def _until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_DEADLINE_S):
        while not await reached():
            await asyncio.sleep(0.02)
