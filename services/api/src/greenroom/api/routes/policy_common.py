"""What the routes of the policy share: who may see it, revisions as ETags, and what the scheduler says."""

import re
from typing import Final

from greenroom.api.auth import POLICY_READ, POLICY_WRITE, SESSIONS_READ
from greenroom.api.policy_store import PolicyChanged
from greenroom.api.scheduler_link import SchedulerLink
from greenroom.common.errors import FieldProblem, InvalidBody, SchedulerUnavailable
from greenroom.common.messages import PoolsAnswer
from greenroom.common.policy import EACH

# Everybody with a key sees what concerns them; operators see all.
READ: Final = (SESSIONS_READ, POLICY_READ, POLICY_WRITE)
OPERATE: Final = (POLICY_READ, POLICY_WRITE)
IF_MATCH: Final = "Do it only if this `ETag` still holds"

_ETAG: Final = re.compile(r'"([0-9]{1,18})"')
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_AGENT: Final = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


def etag(revision: int) -> dict[str, str]:
    """Return the header that says which revision an answer shows or has made."""
    return {"etag": f'"{revision}"', "cache-control": "no-store"}


def expected(if_match: str | None) -> int | None:
    """Return the revision that must hold; None: any.

    Raises:
        PolicyChanged: it is none that was given out.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    match = _ETAG.fullmatch(if_match.strip())
    if match is None:
        raise PolicyChanged("`If-Match` isn't the ETag of a policy.")
    return int(match[1])


def token(name: str, value: str) -> str:
    """Return a name that is given in the path, if it can be one; `name` says which part of the path it is.

    Raises:
        InvalidBody: it can't.
    """
    return _checked(name, value, _TOKEN, "1 to 64 letters, digits, `_` or `-`.")


def tenant_name(value: str, *, each: bool = True) -> str:
    """Return a tenant that is given in the address; with `each` also `*`. Raises `InvalidBody`."""
    if each and value == EACH:
        return value
    return _checked("tenant", value, _TENANT, "1 to 128 letters, digits, `_` or `-`.")


def agent_name(value: str) -> str:
    """Return an agent's name that is given in the path. Raises `InvalidBody`."""
    return _checked("agent", value, _AGENT, "1 to 128 characters, none of them a control character.")


async def standing(link: SchedulerLink) -> PoolsAnswer | None:
    """Return how pools and limits stand; None where no scheduler leads."""
    try:
        return await link.pools()
    except SchedulerUnavailable:
        return None


def _checked(name: str, value: str, shape: re.Pattern[str], detail: str) -> str:
    if shape.fullmatch(value) is None:
        raise InvalidBody(f"/{name}: {detail}", errors=[FieldProblem(pointer=f"/{name}", detail=detail)])
    return value
