"""Requests to the APIs of carriers: bounded in time, with typed errors, and a pause where a carrier asks for one."""

from collections.abc import Mapping
from typing import Final, cast

import httpx
import msgspec
import structlog

from greenroom.api.carriers.base import RestAnswer, RestRequest
from greenroom.common.errors import GreenroomError

_log = structlog.get_logger()

# A call is made within a second; who waits longer waits for a carrier that is in trouble.
_TIMEOUT: Final = httpx.Timeout(10.0, connect=5.0)
# A carrier that says when to come back is believed up to this.
_MAX_RETRY_AFTER_S: Final = 300.0
_OK: Final = range(200, 300)
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_UNAUTHENTICATED: Final = frozenset({401, 403})
_MAX_TEXT: Final = 200


class CarrierUnavailable(GreenroomError):
    """A carrier's API can't be reached, is in trouble, or takes no more requests for now. It is asked again."""

    code = "carrier-unavailable"
    status = 503
    title = "The carrier's API can't be reached"
    retryable = True
    default_retry_after_s = 5.0


class CarrierThrottled(CarrierUnavailable):
    """A carrier's API takes no more requests for now, or wasn't reached at all: nothing was done. It is asked again."""

    code = "carrier-throttled"
    title = "The carrier's API takes no more requests now"


class CarrierRefused(GreenroomError):
    """A carrier's API refuses a request; the detail has its own words.

    The number may not be one of the account, the account may lack a permission or money, or its key is wrong: look at
    the carrier's console.
    """

    code = "carrier-refused"
    status = 502
    title = "The carrier refuses the request"


class Rest:
    """Speaks with all carriers.

    Args:
        client: for tests; who gives one closes it.
    """

    def __init__(self, client: httpx.AsyncClient | None = None) -> None:
        self._client = client

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()

    async def ask(self, carrier: str, request: RestRequest) -> RestAnswer:
        """Send a request; return the answer whatever its status, other than of trouble at the carrier.

        Raises:
            CarrierThrottled: nothing was done: it couldn't be reached, or says: later.
            CarrierUnavailable: no answer, or of trouble. Whether it was carried out isn't known.
        """
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=_TIMEOUT)
        try:
            response = await self._client.request(
                request.method,
                request.url,
                data=dict(request.form) if request.form is not None else None,
                json=request.json,
                headers=dict(request.headers),
                auth=request.basic,
            )
        except httpx.HTTPError as error:
            _log.warning("carrier_unreachable", carrier=carrier, error=type(error).__name__)
            kind = (
                CarrierThrottled
                if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
                else CarrierUnavailable
            )
            raise kind(f"{carrier}: {type(error).__name__}.") from error
        if response.status_code == _TOO_MANY or response.status_code >= _SERVER_ERROR:
            _log.warning("carrier_in_trouble", carrier=carrier, status=response.status_code)
            kind = CarrierThrottled if response.status_code == _TOO_MANY else CarrierUnavailable
            raise kind(f"{carrier}: HTTP {response.status_code}.", retry_after_s=_retry_after_s(response))
        return RestAnswer(status=response.status_code, body=_json(response.content))

    async def must(self, carrier: str, request: RestRequest) -> RestAnswer:
        """Send a request that has to succeed.

        Raises:
            CarrierUnavailable: as `ask`.
            CarrierRefused: the carrier doesn't do it, and won't.
        """
        answer = await self.ask(carrier, request)
        if answer.status not in _OK:
            raise CarrierRefused(f"{carrier}: {told(answer)}")
        return answer


def succeeded(answer: RestAnswer) -> bool:
    """Tell whether a request was carried out."""
    return answer.status in _OK


def told(answer: RestAnswer) -> str:
    """Return a refusal in the carrier's own words."""
    if answer.status in _UNAUTHENTICATED:
        return f"HTTP {answer.status}: the account's credentials aren't accepted."
    for name in ("message", "error", "detail", "RestException", "errors"):
        if said := answer.body.get(name):
            text = said if isinstance(said, str) else msgspec.json.encode(said).decode()
            return f"HTTP {answer.status}: {text[:_MAX_TEXT]}"
    return f"HTTP {answer.status}."


def _json(body: bytes) -> Mapping[str, object]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return cast("Mapping[str, object]", found) if isinstance(found, dict) else {}


def _retry_after_s(response: httpx.Response) -> float | None:
    given = response.headers.get("retry-after", "")
    return min(float(given), _MAX_RETRY_AFTER_S) if given.isdecimal() else None
