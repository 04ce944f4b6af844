"""The parts of the api, put together; `__main__` runs them, and so do tests."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from litestar.types import ASGIApp

from greenroom.api import app
from greenroom.api.agents import Agents
from greenroom.api.auth import Keys
from greenroom.api.billing.budgets import SpendingFeed
from greenroom.api.bot_http import BotHttpLink
from greenroom.api.carriers.telephony import Telephony
from greenroom.api.commands import Commands
from greenroom.api.daily_goers import DailyGoers
from greenroom.api.daily_rooms import DailyRoomsStore
from greenroom.api.edge import MediaEdge
from greenroom.api.fleet import Fleet
from greenroom.api.idempotency import Idempotency
from greenroom.api.listen_tickets import ListenTickets
from greenroom.api.listening import ListenEdge
from greenroom.api.moves import Moves
from greenroom.api.offers import Offers
from greenroom.api.openapi import document
from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.policy import PolicyPublisher
from greenroom.api.policy_store import PolicyStore
from greenroom.api.reading.parts import Reading
from greenroom.api.routes import all_routes
from greenroom.api.scheduler_link import SchedulerLink
from greenroom.api.sessions import Sessions
from greenroom.api.settings import ApiSettings
from greenroom.api.sse import EventStreams
from greenroom.api.store import Store
from greenroom.api.tickets import Tickets
from greenroom.api.transports import Transports
from greenroom.api.transports.adapters import adapters, plugged_in
from greenroom.api.transports.daily import DailyAdapter
from greenroom.api.waiters import Waiters
from greenroom.common.broker import Broker
from greenroom.common.health import Readiness
from greenroom.common.ledger import Ledger
from greenroom.common.metrics import Metrics


class Parts:
    """Everything that lives as long as the service.

    Attributes:
        app: the ASGI app.
        broker: what they all talk through.
        keys: who may do what.
        fleet: the runners, as their heartbeats show them.
        policy: brings the policy to the schedulers.
        spending: how budgets stand.
        transports: the ways to sessions.
        telephony: phone calls.
        streams: event streams.
        bot_http: the bots' own routes.
        media: media sockets.
        listening: supervisors' sockets.
    """

    def __init__(
        self, *, broker: Broker, store: Store, settings: ApiSettings, metrics: Metrics, readiness: Readiness
    ) -> None:
        """Put the parts together; nothing runs yet."""
        self.broker = broker
        corrupt = metrics.counter("api_ledger_corrupt", "Messages read from the ledger that are no entries")
        ledger, tickets = Ledger(broker, on_corrupt=corrupt.inc), Tickets(broker)
        self.keys = Keys(store)
        self.fleet = Fleet(broker, store)
        policies, scheduler = PolicyStore(store), SchedulerLink(broker)
        self.policy = PolicyPublisher(broker, policies, metrics)
        self.spending = SpendingFeed(broker, metrics)
        self.streams = EventStreams(broker=broker, ledger=ledger, store=store, metrics=metrics)
        waiters = Waiters(broker, ledger)
        self.media = MediaEdge(
            broker=broker, ledger=ledger, tickets=tickets, waiters=waiters, settings=settings, metrics=metrics
        )
        agents = Agents(store, self.fleet)
        self.telephony = Telephony(settings, store=store, broker=broker, ledger=ledger, tickets=tickets)
        peer_tokens = PeerTokens(tickets, self.keys)
        ours = (*adapters(settings, tickets, peer_tokens), *self.telephony.adapters.values())
        offered = (*plugged_in(settings), *ours)
        self.transports = Transports(offered, broker=broker, ledger=ledger)
        idempotency = Idempotency(broker)
        sessions = Sessions(
            ledger=ledger,
            store=store,
            agents=agents,
            transports=self.transports,
            idempotency=idempotency,
            waiters=waiters,
            scheduler=scheduler,
            policy=self.policy,
            spending=self.spending,
        )
        self._sessions = sessions
        self.bot_http = BotHttpLink(broker, sessions, max_streams=settings.api_max_streams)
        listen_tickets = ListenTickets(broker, sessions)
        self.listening = ListenEdge(
            broker=broker, ledger=ledger, tickets=listen_tickets, settings=settings, metrics=metrics
        )
        daily_rooms = DailyRoomsStore(store)
        daily_goers = DailyGoers(
            rooms=daily_rooms,
            sessions=sessions,
            ledger=ledger,
            daily=next((adapter for adapter in ours if isinstance(adapter, DailyAdapter)), None),
            broker=broker,
            metrics=metrics,
        )
        self._routes = all_routes(
            sessions=sessions,
            daily_rooms=daily_rooms,
            daily_goers=daily_goers,
            commands=Commands(broker, sessions, metrics),
            moves=Moves(
                sessions=sessions,
                transports=self.transports,
                scheduler=scheduler,
                waiters=waiters,
                ledger=ledger,
                idempotency=idempotency,
            ),
            bot_http=self.bot_http,
            listen_tickets=listen_tickets,
            store=store,
            policies=policies,
            scheduler=scheduler,
            policy=self.policy,
            spending=self.spending,
            streams=self.streams,
            reading=Reading(broker=broker, ledger=ledger, store=store, settings=settings, metrics=metrics),
            offers=Offers(broker=broker, ledger=ledger, waiters=waiters, hold_s=settings.media_hold_s),
            peer_tokens=peer_tokens,
            agents=agents,
            fleet=self.fleet,
            transports=self.transports.names,
            numbers=self.telephony.numbers,
            calls=self.telephony.calls(sessions, agents, waiters, metrics),
            broker=broker,
            readiness=readiness,
            settings=settings,
            schema=self.schema,
        )
        http = app.http_app(self._routes, self.keys, settings, metrics)
        self.app: ASGIApp = app.compose(http, self.media, self.listening)
        self._schema: dict[str, Any] | None = None

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self._schema is None:
            self._schema = document(self._routes)
        return self._schema

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Listen to the broker and do what is done in the background, until the block is left."""
        await self.fleet.start()
        await self.policy.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(work, name=name)
                    for name, work in (
                        ("keys", self.keys.run()),
                        ("fleet", self.fleet.run()),
                        ("policy", self.policy.run()),
                        ("spending", self.spending.run()),
                        ("media", self.media.run()),
                        ("transports", self.transports.run()),
                        ("telephony", self.telephony.run()),
                    )
                ]
                yield
                for task in work:
                    task.cancel()
        finally:
            await self._sessions.close()
            await self.telephony.close()
            await self.policy.stop()
            await self.fleet.stop()
            await self.keys.flush()
