"""Calls to the providers of transports: bounded in time, tried again, given up on while a provider is down.

    answered (2xx, 4xx)           the response, for the caller to read
    no answer, 5xx                tried again with growing pauses; five such in a row open the breaker
    429                           tried again after what `Retry-After` says, if there is time for it
    breaker open (10 s)           refused at once, so that callers don't wait for what is down; then one call tries

Every call here may be carried out twice by its provider: whoever makes one sees to it that this does no harm.
"""

import asyncio
import email.utils
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import msgspec
import structlog

from greenroom.common.errors import GreenroomError

_log = structlog.get_logger()

# Of a call with all its tries. A request for a session has 15 s for its writes, and makes two calls at most.
DEADLINE_S: Final = 6.0
# Of one try: p99 of making a room is below a second, so what takes longer is likely lost.
TRY_TIMEOUT_S: Final = 2.5
TRIES: Final = 4
FIRST_PAUSE_S: Final = 0.2
# Failures in a row.
BREAKER_THRESHOLD: Final = 5
BREAKER_OPEN_S: Final = 10.0
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_LONGEST_TEXT: Final = 200


class ProviderUnavailable(GreenroomError):
    """The provider of the transport gave no answer, or asks for patience (its rate limit).

    Send the request again after the time that is named. Without an `Idempotency-Key` nothing is left of it: what may
    have been made at the provider is taken away by itself, and a session that was there already ends as
    `transport-failed`. With a key such a session stays, and is the answer to the same request with the same key. If it
    lasts, look at the provider's status page and at your plan's limits.
    """

    code = "provider-unavailable"
    status = 503
    title = "The transport's provider doesn't answer"
    retryable = True
    default_retry_after_s = 5.0


class ProviderRefused(GreenroomError):
    """The provider of the transport said no: `detail` has its words.

    A key that was revoked, a plan that doesn't include what was asked for (dial-in, recording), or an option that it
    doesn't take. Compare the api's settings, and the request's `transport_options`, with the provider's account. What
    becomes of a session that was there already is as with `provider-unavailable`.
    """

    code = "provider-refused"
    status = 502
    title = "The transport's provider refuses"


class Breaker:
    """Whether it makes sense to ask a provider.

    Closed: everybody may. After `BREAKER_THRESHOLD` failures in a row open: nobody may for `BREAKER_OPEN_S`; then one
    call may, and decides.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._open_until: float | None = None

    def wait_s(self, now: float) -> float:
        """Return for how long nobody may ask; 0: the caller may, and must say how it went."""
        if self._open_until is None:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        # This caller tries; the others wait for what becomes of it.
        self._open_until = now + BREAKER_OPEN_S
        return 0.0

    def failed(self, now: float) -> None:
        """Note that the provider gave no answer."""
        self._failures += 1
        if self._failures >= BREAKER_THRESHOLD:
            self._open_until = now + BREAKER_OPEN_S

    def answered(self) -> None:
        """Note that it did."""
        self._failures, self._open_until = 0, None


class Provider:
    """One provider's HTTP API.

    Args:
        name: for people, e.g. `Daily`.
        base_url: what all paths begin with.
        headers: of every call; values may be secret.
        transport: how requests travel; for tests.
        jitter: returns between 0 and 1: how much of each pause is waited.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/"), headers=headers, timeout=TRY_TIMEOUT_S, transport=transport
        )
        self._jitter = jitter
        self._breaker = Breaker()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def call(
        self, method: str, path: str, *, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Return the provider's answer: any 2xx or 4xx but 429.

        Args:
            method: of HTTP.
            path: below the base URL.
            json: the body.
            headers: of this call.

        Raises:
            ProviderUnavailable: there was none in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE_S
        content = msgspec.json.encode(json) if json is not None else None
        sent = {"content-type": "application/json", **(headers or {})}
        number = 0
        while True:
            if (wait_s := self._breaker.wait_s(loop.time())) > 0:
                raise ProviderUnavailable(f"{self.name} has failed again and again.", retry_after_s=wait_s)
            request = self._http.build_request(method, path, content=content, headers=sent)
            response, problem = await self._try(request, deadline - loop.time())
            if response is not None and response.status_code < _SERVER_ERROR and response.status_code != _TOO_MANY:
                return response
            asked_s = _asked_pause_s(response)
            pause_s = max(FIRST_PAUSE_S * 2**number * (0.5 + self._jitter() / 2), asked_s)
            number += 1
            _log.warning("provider_failed", provider=self.name, method=method, problem=problem, tries=number)
            if number == TRIES or loop.time() + pause_s >= deadline:
                raise ProviderUnavailable(f"{self.name}: {problem}.", retry_after_s=asked_s or None)
            await asyncio.sleep(pause_s)

    async def _try(self, request: httpx.Request, left_s: float) -> tuple[httpx.Response | None, str]:
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(min(TRY_TIMEOUT_S, max(left_s, 0.0))):
                response = await self._http.send(request)
        except (httpx.HTTPError, TimeoutError) as error:
            self._breaker.failed(now())
            return None, "no answer in time" if _is_timeout(error) else "can't be reached"
        if response.status_code >= _SERVER_ERROR:
            self._breaker.failed(now())
            return response, f"HTTP {response.status_code}"
        self._breaker.answered()
        return response, "its rate limit is reached" if response.status_code == _TOO_MANY else ""


def told(text: str) -> str:
    """Return a provider's words as they may be shown: one line, not too long."""
    return " ".join(text.split())[:_LONGEST_TEXT]


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, TimeoutError | httpx.TimeoutException)


def _asked_pause_s(response: httpx.Response | None) -> float:
    """Return what `Retry-After` asks for: seconds, or a date (RFC 9110)."""
    value = response.headers.get("retry-after", "") if response is not None else ""
    if value.isascii() and value.isdigit():
        return float(value[:6])
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max((at - datetime.now(tz=UTC)).total_seconds(), 0.0) if at.tzinfo else 0.0
