"""Phone calls from end to end: a carrier, a running api, and real session processes.

Between them a scheduler and runner in one, as small as can be: sessions are leased while there are slots, and each is
run by a process of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import httpx

from greenroom.common.errors import GreenroomError
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Connected, Ended, Leased, Ready, Requeued, Session, Started, State
from greenroom.common.messages import Event
from greenroom.runner.control import Finished, MediaConnected, PipelineReady
from tests.support.api_world import RUNNER, ApiWorld, eventually, running_api
from tests.support.carriers.exchange import NUMBER, Exchange, running_exchange
from tests.support.session_rig import HostProcess, SessionRun, Sessions

TRANSPORTS: Final = ["websocket", "twilio", "telnyx", "plivo", "exotel", "vobiz"]


class CarrierWorld:
    """A carrier and us.

    Attributes:
        exchange: the carrier.
        api: our api.
        client: of the api.
        slots: how many sessions may run; the rest waits.
        runs: processes, by session.
    """

    def __init__(self, exchange: Exchange, api: ApiWorld, client: httpx.AsyncClient, host: Sessions) -> None:
        self.exchange = exchange
        self.api = api
        self.client = client
        self.slots = 2
        self.runs: dict[str, SessionRun] = {}
        self._host = host
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # What those said who ended a session, as a runner remembers it.
        self._details: dict[str, str | None] = {}
        self._forks: set[asyncio.Future[SessionRun]] = set()

    @property
    def name(self) -> str:
        """The carrier's name."""
        return self.exchange.dialect.name

    async def number(self, agent: str = "phone", **wish: Any) -> None:
        """Have an agent answer the number."""
        response = await self.client.put(f"/v1/numbers/{self.name}/{NUMBER}", json={"agent": agent, **wish})
        assert response.status_code == 200, response.text

    async def sessions(self) -> list[Session]:
        """Return all sessions that there ever were, in order."""
        watch = await self.api.ledger.watch()
        found: dict[str, Session] = {}
        try:
            async with asyncio.timeout(10):
                while not watch.caught_up.is_set() or not found:
                    entry = await asyncio.wait_for(anext(aiter(watch)), 0.3)
                    found[entry.session.id] = entry.session
        except TimeoutError:
            pass
        finally:
            await watch.close()
        return [found[session_id] for session_id in sorted(found)]

    async def only_session(self) -> Session:
        """Return the only session that there ever was."""
        (session,) = await self.sessions()
        return session

    async def ended(self, session_id: str) -> Session:
        """Return a session once it has ended."""

        async def look() -> Entry | None:
            return await self.api.ledger.last("default", session_id)

        entry = await eventually(look, lambda found: found is not None and found.session.ended)
        assert entry is not None
        return entry.session

    async def events(self, session: Session, kind: str) -> list[Event]:
        """Return a session's events of a kind."""
        run = SessionRun.__new__(SessionRun)
        run.sessions, run.session = self._host, session
        return [event for event in await run.events() if event.type == kind]

    # ------------------------------------------------------------------------ scheduler and runner

    async def move(self, session_id: str) -> None:
        """Lose the runner of a session, and put it on another one: its process hears that nobody is there any more."""
        task, run = self._tasks.pop(session_id), self.runs[session_id]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        run.abandon()
        await run.exit_status()

        def decide(session: Session) -> Requeued:
            return Requeued(epoch=session.epoch, reason="runner-lost")

        await self.api.ledger.move("default", session_id, decide)

    async def run(self) -> None:
        """Place and run sessions until canceled."""
        watch = await self.api.ledger.watch()
        waiting: dict[str, Entry] = {}
        try:
            async for entry in watch:
                session = entry.session
                match session.state:
                    case State.REQUESTED:
                        waiting[session.id] = entry
                    case State.ENDING if session.id in self.runs:
                        self._details[session.id] = getattr(entry.transition, "detail", None)
                        with contextlib.suppress(OSError):  # it may have ended by itself
                            self.runs[session.id].stop(reason=session.reason or "client-stop")
                    case State.ENDED:
                        waiting.pop(session.id, None)
                    case _:
                        pass
                self._place(waiting)
        finally:
            await watch.close()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), *self._forks, return_exceptions=True)

    async def open(self, slots: int) -> None:
        """Have more slots; what waits is placed."""
        self.slots = slots
        for session in await self.sessions():
            if session.state is State.REQUESTED and len(self._busy()) < self.slots:
                self._begin(session.id)

    def _busy(self) -> list[str]:
        return [session_id for session_id, task in self._tasks.items() if not task.done()]

    def _place(self, waiting: dict[str, Entry]) -> None:
        while waiting and len(self._busy()) < self.slots:
            self._begin(waiting.pop(next(iter(waiting))).session.id)

    def _begin(self, session_id: str) -> None:
        if session_id not in self._tasks:
            self._tasks[session_id] = asyncio.create_task(self._run_session(session_id))

    async def _run_session(self, session_id: str) -> None:
        entry = await self.api.ledger.last("default", session_id)
        assert entry is not None
        leased = Leased(runner_id=RUNNER, epoch=entry.session.epoch + 1, expires_at=entry.at)
        entry = await self.api.ledger.advance(entry, leased)
        # Never given up halfway: nobody else knows of the new process yet.
        fork = asyncio.ensure_future(self._host.standby())
        self._forks.add(fork)
        run = self.runs[session_id] = await asyncio.shield(fork)
        entry = await self.api.ledger.advance(entry, Started(runner_id=RUNNER, epoch=entry.session.epoch))
        document = {name: getattr(entry.session, name) for name in entry.session.__struct_fields__}
        run.assign(document.pop("bot"), **{**document, "agent": entry.session.agent})
        await run.expect(PipelineReady)
        try:
            await self.api.ledger.advance(entry, Ready(epoch=entry.session.epoch))
        except GreenroomError:
            run.stop()  # it was ended meanwhile
        finished = await self._until_finished(run)
        await run.exit_status()

        def decide(session: Session) -> Ended:
            told = session.outcome or finished.outcome
            return Ended(
                detail=self._details.get(session.id) or finished.detail,
                by="runner",
                epoch=session.epoch,
                outcome=told,
                reason=session.reason or finished.reason,
            )

        await self.api.ledger.move("default", session_id, decide)

    async def _until_finished(self, run: SessionRun) -> Finished:
        """Write down that somebody is on the line, as a runner does, and return the last word."""
        while True:
            message = await run.expect(MediaConnected, Finished, timeout_s=120)
            if isinstance(message, Finished):
                return message
            connected = Connected(epoch=run.session.epoch, call=message.call)
            # It may have been ended meanwhile.
            with contextlib.suppress(GreenroomError):
                await self.api.ledger.move("default", run.session.id, lambda _session, told=connected: told)


@asynccontextmanager
async def carrier_world(
    name: str, host: HostProcess, nats_url: str, database: str, **settings: Any
) -> AsyncGenerator[CarrierWorld]:
    """Run a carrier, an api that is set up with it, and what runs sessions."""
    async with AsyncExitStack() as closing:
        exchange = await closing.enter_async_context(running_exchange(name))
        chosen = {**exchange.dialect.settings(exchange.url), "call_answer_s": 5.0, "call_hold_pause_s": 1, **settings}
        api = await closing.enter_async_context(running_api(nats_url, database, first=False, **chosen))
        for agent in ("line", "phone", "frontdesk"):
            await api.add_agent(agent, transports=TRANSPORTS)
        await api.add_agent("steady", bot="phone", transports=TRANSPORTS, on_loss="always")
        client = await closing.enter_async_context(api.client())
        sessions = await closing.enter_async_context(Sessions(host, nats_url))
        world = CarrierWorld(exchange, api, client, sessions)
        running = asyncio.create_task(world.run())
        try:
            yield world
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
