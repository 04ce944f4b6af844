"""Calls to providers, in virtual time against a stub that fails as it is told to."""

import asyncio
from collections.abc import Coroutine
from typing import Any, override

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from greenroom.api.transports.provider import (
    BREAKER_OPEN_S,
    BREAKER_THRESHOLD,
    DEADLINE_S,
    TRIES,
    Breaker,
    Provider,
    ProviderUnavailable,
)
from tests.support.leaping_time import run_virtual
from tests.support.provider_stub import Asked, Fault, ProviderStub, Said


class _Stub(ProviderStub):
    @override
    def carry_out(self, asked: Asked) -> Said:
        return Said(body={"path": asked.path})


def _provider(stub: ProviderStub) -> Provider:
    return Provider("Stub", "https://stub.example/v1", transport=stub.transport(), jitter=lambda: 1.0)


def _play[T](scenario: Coroutine[Any, Any, T]) -> T:
    return run_virtual(scenario)


def test_an_answer_is_given_back_whatever_it_says() -> None:
    """What the provider decides (2xx, 4xx) is for the caller to read, and isn't asked again."""
    stub = _Stub()
    stub.fail(404, body={"error": "not-found"})

    async def scenario() -> list[int]:
        provider = _provider(stub)
        return [(await provider.call("GET", "/rooms/x")).status_code for _ in range(2)]

    assert _play(scenario()) == [404, 200]
    assert [asked.path for asked in stub.asked] == ["/v1/rooms/x"] * 2


@pytest.mark.parametrize("fault", [Fault("lost"), Fault("silent"), Fault(said=Said(status=500))])
def test_what_isnt_answered_is_asked_again(fault: Fault) -> None:
    """A connection that breaks, a try without an answer in time and a server error cost a pause, not the request."""
    stub = _Stub()
    stub.faults.append(fault)

    async def scenario() -> float:
        response = await _provider(stub).call("POST", "/rooms", json={"name": "x"})
        assert response.json() == {"path": "/v1/rooms"}
        return asyncio.get_running_loop().time()

    assert 0.1 < _play(scenario()) < DEADLINE_S
    assert [asked.body for asked in stub.asked] == [{"name": "x"}] * 2


def test_a_provider_that_is_down_is_given_up_on_in_time() -> None:
    """All tries together end before the deadline, with a typed error that says when to come again."""
    stub = _Stub()
    stub.fail_from(1, Fault("silent"))

    async def scenario() -> float:
        with pytest.raises(ProviderUnavailable) as unavailable:
            await _provider(stub).call("GET", "/")
        assert unavailable.value.retry_after_s
        return asyncio.get_running_loop().time()

    assert _play(scenario()) <= DEADLINE_S
    assert 1 < len(stub.asked) <= TRIES


def test_a_rate_limit_is_waited_for() -> None:
    """429 with `Retry-After` is asked again then, not sooner, and not counted as a failure."""
    stub = _Stub()
    stub.fail(429, headers={"retry-after": "2"}, body={"error": "rate-limit-error"})

    async def scenario() -> float:
        assert (await _provider(stub).call("GET", "/")).status_code == 200
        return asyncio.get_running_loop().time()

    assert _play(scenario()) == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("value", ["60", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_rate_limit_that_is_too_long_is_passed_on(value: str) -> None:
    """Whoever would have to wait longer than a request may take is told for how long, at once."""
    stub = _Stub()
    stub.fail(429, headers={"retry-after": value})

    async def scenario() -> float:
        with pytest.raises(ProviderUnavailable) as unavailable:
            await _provider(stub).call("GET", "/")
        assert (unavailable.value.retry_after_s or 0) >= 60
        return asyncio.get_running_loop().time()

    assert _play(scenario()) < 0.1
    assert len(stub.asked) == 1


@pytest.mark.parametrize("value", ["", "soon", "-3", "٣", "Wed, 21 Oct 1999 07:28:00 GMT", "Wed, 21 Oct 1999"])
def test_a_rate_limit_without_a_time_has_the_usual_pause(value: str) -> None:
    """Nonsense in `Retry-After`, or a time that is over, is none."""
    stub = _Stub()
    headers = {"retry-after": value} if value.isascii() else {}
    stub.fail(429, headers=headers)

    async def scenario() -> float:
        await _provider(stub).call("GET", "/")
        return asyncio.get_running_loop().time()

    assert _play(scenario()) == pytest.approx(0.2, abs=0.01)


def test_the_breaker_spares_callers_and_lets_one_try() -> None:
    """After five failures in a row nobody waits for it any more; after ten seconds one call looks, and decides."""
    stub = _Stub()
    stub.fail_from(1, Fault("lost"))

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        provider = _provider(stub)
        for _ in range(3):
            with pytest.raises(ProviderUnavailable):
                await provider.call("GET", "/")
        assert len(stub.asked) == BREAKER_THRESHOLD
        at = loop.time()
        with pytest.raises(ProviderUnavailable) as refused:
            await provider.call("GET", "/")
        assert loop.time() == at, "refused without a wait"
        assert 0 < (refused.value.retry_after_s or 0) <= BREAKER_OPEN_S
        await asyncio.sleep(BREAKER_OPEN_S)
        stub.fail_from(None)
        stub.faults.append(Fault("silent"))
        trying, spared = asyncio.create_task(provider.call("GET", "/")), asyncio.create_task(provider.call("GET", "/"))
        with pytest.raises(ProviderUnavailable):
            await spared
        with pytest.raises(ProviderUnavailable):
            await trying
        assert len(stub.asked) == BREAKER_THRESHOLD + 1
        await asyncio.sleep(BREAKER_OPEN_S)
        assert (await provider.call("GET", "/")).status_code == 200
        assert (await provider.call("GET", "/")).status_code == 200

    _play(scenario())


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 5.0)), max_size=60))
@example([(False, 0.0)] * 3 + [(False, 1.738211767991766), (False, 4.774710518993825), (False, 0.0)])
def test_a_breaker_never_stays_open(outcomes: list[tuple[bool, float]]) -> None:
    """Whatever happened, somebody may ask within ten seconds, and after an answer everybody may."""
    breaker, now = Breaker(), 0.0
    for works, pause_s in outcomes:
        now += pause_s
        wait_s = breaker.wait_s(now)
        # Sums of floats, as times are.
        assert 0.0 <= wait_s <= BREAKER_OPEN_S + 1e-9
        if wait_s:
            continue
        if works:
            breaker.answered()
            assert breaker.wait_s(now) == 0.0
        else:
            breaker.failed(now)
    assert breaker.wait_s(now + BREAKER_OPEN_S) == 0.0


def test_secrets_are_in_no_log(capfd: pytest.CaptureFixture[str]) -> None:
    """What is sent in headers and bodies isn't written anywhere when a call fails."""
    stub = _Stub()
    stub.fail_from(1, Fault(said=Said(status=503)))

    async def scenario() -> None:
        provider = Provider(
            "Stub", "https://stub.example", headers={"authorization": "Bearer hidden"}, transport=stub.transport()
        )
        with pytest.raises(ProviderUnavailable) as failed:
            await provider.call("POST", "/", json={"secret": "hidden"})
        assert "hidden" not in str(failed.value)
        await provider.close()

    _play(scenario())
    assert stub.asked[0].headers["authorization"] == "Bearer hidden"
    assert "hidden" not in "".join(capfd.readouterr())


async def test_the_stub_is_reached_over_the_network_too() -> None:
    """On a port of loopback it answers, fails and breaks connections as it does without one."""
    stub = _Stub()
    async with stub.listening("/v1") as url:
        provider = Provider("Stub", url, jitter=lambda: 0.0)
        stub.faults.append(Fault("lost"))
        stub.fail(500)
        response = await provider.call("POST", "/rooms", json={"name": "x"})
        assert isinstance(response, httpx.Response)
        assert response.json() == {"path": "/rooms"}
        await provider.close()
    assert len(stub.asked) == 3
