"""What goes in and out where tenants are administered. Fields are only ever added."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from greenroom.api.schemas import MAX_METADATA, MAX_METADATA_VALUE

type TenantState = Literal["active", "suspended"]
# No control characters in what is shown in lists, and no NUL anywhere: PostgreSQL has none.
type DisplayName = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,200}(?!\n)$")]
type Note = Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00]*$")]
type TenantKey = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
type TenantValue = Annotated[str, Meta(max_length=MAX_METADATA_VALUE, pattern=r"^[^\x00]*$")]
type TenantMetadata = Annotated[dict[TenantKey, TenantValue], Meta(max_length=MAX_METADATA)]


class TenantWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is said of a tenant; what is left out is as if it had never been said, except its state."""

    display_name: Annotated[DisplayName, Meta(description="What people call it")] = ""
    state: Annotated[
        TenantState | None, Meta(description="`suspended`: no new sessions. Left out: as it is, `active` if it is new")
    ] = None
    note: Annotated[Note, Meta(description="For administrators")] = ""
    metadata: Annotated[TenantMetadata, Meta(description="For administrators; e.g. what billing calls it")] = {}


class TenantChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be different; what isn't named stays as it is."""

    display_name: DisplayName | None = None
    state: TenantState | None = None
    note: Note | None = None
    metadata: TenantMetadata | None = None


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant.

    Attributes:
        name: what keys, sessions and subjects call it.
        display_name: what people call it.
        state: `suspended`: its new sessions are refused; those it has go on.
        state_since: since when it is in its state.
        note: for administrators.
        metadata: for administrators.
        created_at: when it was made, or first seen.
        updated_at: when something was last changed here.
    """

    name: str
    display_name: str
    state: TenantState
    state_since: datetime
    note: str
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime


class TenantPage(msgspec.Struct, frozen=True, kw_only=True):
    """Tenants by name; with `next` the listing goes on."""

    tenants: list[TenantView]
    next: str | None


_AT: Final = "2026-03-02T09:30:00Z"
WISH: Final[dict[str, Any]] = {"display_name": "Acme Inc.", "note": "", "metadata": {"contract": "C-4711"}}
CHANGE: Final[dict[str, Any]] = {"state": "suspended", "note": "unpaid since March"}
TENANT: Final[dict[str, Any]] = {
    "name": "acme",
    **WISH,
    "state": "active",
    "state_since": _AT,
    "created_at": _AT,
    "updated_at": _AT,
}
PAGE: Final[dict[str, Any]] = {"tenants": [TENANT], "next": None}
