"""The message about steps after calls: see docs/post-call.md."""

from datetime import datetime

import msgspec


class PostCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session is over and kept: a step is to be run for it. Whoever reads this does it, until it has succeeded."""

    tenant: str
    session_id: str
    step: str
    at: datetime
    # More was said since it was queued before: one that is done is done again, if it may be.
    again: bool = False
