"""Phone calls, put together: the parts that share accounts, calls and connections."""

import asyncio
from typing import Final

from greenroom.api.agents import Agents
from greenroom.api.carriers import make_carriers
from greenroom.api.carriers.adapter import CarrierAdapter
from greenroom.api.carriers.callbook import CallBook
from greenroom.api.carriers.calls import Calls
from greenroom.api.carriers.dials import Dials
from greenroom.api.carriers.in_time import InTime
from greenroom.api.carriers.links import Links
from greenroom.api.carriers.rest import Rest
from greenroom.api.carriers.settings import CarrierSettings
from greenroom.api.carriers.transfers import Transfers
from greenroom.api.phone_numbers import Numbers
from greenroom.api.sessions import Sessions
from greenroom.api.store import Store
from greenroom.api.tickets import Tickets
from greenroom.api.waiters import Waiters
from greenroom.common.broker import Broker
from greenroom.common.ledger import Ledger
from greenroom.common.metrics import Metrics


class Telephony:
    """Everything of carriers that lives as long as the service.

    Attributes:
        numbers: who answers.
        adapters: of the carriers that there are settings for, by name.
    """

    def __init__(
        self, settings: CarrierSettings, *, store: Store, broker: Broker, ledger: Ledger, tickets: Tickets
    ) -> None:
        """Put the parts together; nothing runs yet."""
        self._settings = settings
        self._broker = broker
        self._ledger = ledger
        self._rest: Final = Rest()
        self._book = CallBook(broker)
        self._in_time = InTime(self._book, ledger)
        self._links = Links(tickets)
        carriers = make_carriers(settings)
        self._dials = Dials(
            broker=broker,
            ledger=ledger,
            waiters=Waiters(broker, ledger),
            book=self._book,
            links=self._links,
            rest=self._rest,
            carriers=carriers,
        )
        self._transfers = Transfers(broker=broker, book=self._book, rest=self._rest, carriers=carriers)
        self.numbers = Numbers(store)
        self.adapters = {
            name: CarrierAdapter(carrier, numbers=self.numbers, book=self._book, dials=self._dials, rest=self._rest)
            for name, carrier in carriers.items()
        }

    def calls(self, sessions: Sessions, agents: Agents, waiters: Waiters, metrics: Metrics) -> Calls:
        """Return what answers carriers."""
        return Calls(
            adapters=self.adapters,
            numbers=self.numbers,
            book=self._book,
            in_time=self._in_time,
            links=self._links,
            sessions=sessions,
            agents=agents,
            ledger=self._ledger,
            waiters=waiters,
            broker=self._broker,
            answer_s=self._settings.call_answer_s,
            hold_pause_s=self._settings.call_hold_pause_s,
            metrics=metrics,
        )

    async def run(self) -> None:
        """Call whoever is to be called, and hand over whoever is to be handed over, until canceled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._dials.run(), name="dials")
            tasks.create_task(self._transfers.run(), name="transfers")

    async def close(self) -> None:
        """Close connections to carriers, and wait for nobody."""
        await self._in_time.close()
        await self._rest.close()
