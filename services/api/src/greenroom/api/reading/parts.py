"""The parts of reading, put together."""

from typing import Final

from greenroom.api.reading.history import History
from greenroom.api.reading.places import Places
from greenroom.api.reading.shelves import Shelves
from greenroom.api.settings import ApiSettings
from greenroom.api.store import Store
from greenroom.common.broker import Broker
from greenroom.common.ledger import Ledger
from greenroom.common.metrics import Metrics


class Reading:
    """What the routes read by.

    Attributes:
        history: what happened in one session.
        shelves: what is stored of many.
        places: bounds what is made at a time.
    """

    def __init__(
        self, *, broker: Broker, ledger: Ledger, store: Store, settings: ApiSettings, metrics: Metrics
    ) -> None:
        """Put the parts together."""
        self.history: Final = History(broker=broker, ledger=ledger, store=store)
        self.shelves: Final = Shelves(store)
        self.places: Final = Places(settings.api_max_downloads, metrics)
