"""What the scheduler says of a tenant beside its sessions; what is said of budgets is in `budgets`."""

from datetime import datetime
from typing import Final, Literal

import msgspec

from greenroom.common.policy import AtLimit, Scope

type LimitNoticeKind = Literal["limit.reached"]

LIMIT_REACHED: Final[LimitNoticeKind] = "limit.reached"


class LimitNotice(msgspec.Struct, frozen=True, kw_only=True):
    """A limit is reached: because of it a session of the tenant waits, or was refused.

    Said once, and again only after it wasn't reached for some minutes; the same `id` is the same notice.

    Attributes:
        id: of the notice.
        kind: always the same.
        at: when it was seen.
        tenant: whose session waits or was refused.
        limit: id of the limit.
        scope: what it counts by.
        key: which tenant, agent, carrier, number or account.
        at_limit: whether what is beyond waits or is refused.
        reason: why the session waits or was refused, as a code.
        active: how many sessions it counts, also those of other tenants where it is for all of them together.
        max_sessions: how many there may be; None: no bound.
        max_starts_per_s: how many may start in a second; None: no bound.
    """

    id: str
    kind: LimitNoticeKind
    at: datetime
    tenant: str
    limit: str
    scope: Scope
    key: str
    at_limit: AtLimit = AtLimit.QUEUE
    reason: str
    active: int
    max_sessions: int | None = None
    max_starts_per_s: float | None = None
