"""The message about steps after calls: see docs/post-call.md."""

from datetime import datetime

import msgspec


class PostCall(msgspec.Struct, frozen=True, kw_only=True):
    """A session is over and kept: a step is to be run for it. Whoever reads this does it, until it has succeeded."""

    tenant: str
    session_id: str
    step: str
    at: datetime
