"""What goes in and out. Money and quantities are decimal numbers as texts, exact; fields are only ever added."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final, Literal, Self

import msgspec
from msgspec import Meta

from greenroom.api.body import pointer
from greenroom.common.budgets import is_zone
from greenroom.common.errors import FieldProblem, InvalidBody
from greenroom.common.policy import EACH, AtLimit
from greenroom.common.usage import Unit

MAX_PRICES_AT_ONCE: Final = 1000
# Years beyond can't be told in every zone, or are infinity to PostgreSQL.
_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 2999

type Money = Annotated[
    str, Meta(pattern=r"^[0-9]{1,12}(\.[0-9]{1,12})?(?!\n)$", description="A decimal number as text, e.g. `0.15`")
]
type Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}(?!\n)$", description="ISO 4217, e.g. `EUR`")]
type Name = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,128}(?!\n)$")]
type TenantName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}(?!\n)$")]
type Moment = Annotated[datetime, Meta(tz=True)]
type GroupBy = Literal["session", "agent", "tenant", "day", "provider", "model", "unit"]


# ---------------------------------------------------------------------------- prices


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `per` units cost from `valid_from` on, until the next price of the same key.

    Tenant `*` is for every tenant that has none of its own, model `*` for every model that has none of its own.
    """

    tenant: Annotated[str, Meta(pattern=r"^(\*|[A-Za-z0-9_-]{1,128})(?!\n)$")] = EACH
    provider: Name
    # Of usage without a model the empty text.
    model: Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,128}(?!\n)$")] = EACH
    unit: Unit
    price: Money
    per: Annotated[Literal[1, 1000, 1000000], Meta(description="Tokens are priced by the million")] = 1
    currency: Currency
    valid_from: Moment

    def check(self, place: int) -> Self:
        """Return the price with its time in UTC; it is the one at `place`.

        Raises:
            InvalidBody: its time can't be meant.
        """
        valid_from = utc(self.valid_from)
        if valid_from is None:
            raise _invalid("prices", place, "valid_from", detail=f"Between {_FIRST_YEAR} and {_LAST_YEAR}.")
        return msgspec.structs.replace(self, valid_from=valid_from)


class PriceWishes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices to be made, or to be replaced where there is one of the same key and time: all of them, or none."""

    prices: Annotated[list[Price], Meta(min_length=1, max_length=MAX_PRICES_AT_ONCE)]


class PricePage(msgspec.Struct, frozen=True, kw_only=True):
    """Prices by tenant, provider, model, unit and time; `next` is the `cursor` of the following page."""

    prices: list[Price]
    next: str | None = None


# ---------------------------------------------------------------------------- budgets


class BudgetWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a tenant, or one agent of it, may spend in each day or month."""

    tenant: TenantName
    agent: Annotated[Name, Meta(description="`*`: all of the tenant's agents together")] = EACH
    amount: Money
    currency: Currency
    period: Literal["day", "month"]
    zone: Annotated[str, Meta(min_length=1, max_length=64, description="IANA name, e.g. `Europe/Berlin`")] = "UTC"
    warn_share: Annotated[float, Meta(gt=0, le=1, description="Part of it at which somebody is told")] = 0.8
    at_limit: Annotated[AtLimit, Meta(description="What becomes of new sessions while it is spent")] = AtLimit.REFUSE

    def check(self) -> None:
        """Make sure that it can be meant.

        Raises:
            InvalidBody: it can't.
        """
        if not Decimal(self.amount):
            raise _invalid("amount", detail="More than 0: a limit of no sessions stops a tenant.")
        if not is_zone(self.zone):
            raise _invalid("zone", detail="There is no such time zone.")


class BudgetView(msgspec.Struct, frozen=True, kw_only=True):
    """A budget, and how it stands in its present period; None where no recorder has told that yet."""

    id: str
    tenant: str
    agent: str
    amount: str
    currency: str
    period: str
    zone: str
    warn_share: float
    at_limit: AtLimit
    spent: str | None = None
    reached: bool | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None


class BudgetList(msgspec.Struct, frozen=True, kw_only=True):
    """Budgets by id; `told_at` is when the recorder last told how they stand."""

    budgets: list[BudgetView]
    told_at: datetime | None = None


# ---------------------------------------------------------------------------- usage


class PricedLine(msgspec.Struct, frozen=True, kw_only=True):
    """So much of something, and what it costs."""

    provider: str
    model: str
    unit: str
    quantity: str
    cost: str
    currency: str


class UnpricedLine(msgspec.Struct, frozen=True, kw_only=True):
    """So much of something that had no price when its session began."""

    provider: str
    model: str
    unit: str
    quantity: str


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """An amount of money."""

    amount: str
    currency: str


class UsageGroup(msgspec.Struct, frozen=True, kw_only=True):
    """What the sessions of one group used. `cost` is of `lines` alone: what has no price isn't taken for free."""

    tenant: str
    key: str
    sessions: int
    cost: list[Cost]
    lines: list[PricedLine]
    unpriced: list[UnpricedLine]


class UsagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Groups by tenant and key, of sessions that started at `since` or later and before `until`."""

    since: datetime
    until: datetime
    group_by: str
    groups: list[UsageGroup]
    next: str | None = None


def utc(moment: datetime) -> datetime | None:
    """Return a moment that was given in any zone, in UTC; None: it has no zone, or nobody can mean it."""
    sensible = moment.tzinfo is not None and _FIRST_YEAR <= moment.year <= _LAST_YEAR
    return moment.astimezone(UTC) if sensible else None


def _invalid(*path: str | int, detail: str) -> InvalidBody:
    place = pointer(*path)
    return InvalidBody(f"{place}: {detail}", errors=[FieldProblem(pointer=place, detail=detail)])
