"""Runs queued steps, a few at a time, each until it has succeeded or is given up."""

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Delivery
from greenroom.common.clock import utcnow
from greenroom.common.errors import BrokerUnavailable, DatabaseUnavailable, TopologyMissing
from greenroom.common.ids import derived_id
from greenroom.common.messages import Event, Parked
from greenroom.common.metrics import Metrics
from greenroom.common.post_call_messages import PostCall
from greenroom.recorder.database import UnstorableRow
from greenroom.recorder.post_call.step import Step, StepRefused
from greenroom.recorder.post_call.store import Begun, StepStore

_log = structlog.get_logger()

STREAM: Final = "POSTCALL"
CONSUMER: Final = "recorder-postcall"
MAX_ATTEMPTS: Final = 12
# 10 s, 20 s, … 30 min: some two hours in all.
FIRST_DELAY_S: Final = 10.0
LONGEST_DELAY_S: Final = 1800.0
# What an event may carry, with room for its envelope.
MAX_RESULT_BYTES: Final = 64 * 1024
AWAY_RETRY_S: Final = 2.0
_WAIT_S: Final = 1.0
# For so long one that is to be made again waits for a recorder that has it: its result isn't lost meanwhile.
AGAIN_WITHIN: Final = timedelta(hours=1)


def delay_s(attempts: int) -> float:
    """Return how long to wait after the `attempts`-th attempt."""
    return min(FIRST_DELAY_S * 2 ** min(max(attempts - 1, 0), 16), LONGEST_DELAY_S)


class _Failed(Exception):
    """An attempt didn't succeed; `final`: none will."""

    def __init__(self, error: str, *, final: bool = False) -> None:
        super().__init__(error)
        self.error = error
        self.final = final


class StepRunner:
    """Runs steps, beside any number of others.

    Args:
        broker: where the queue is.
        store: calls, and what became of their steps.
        steps: what there is, by name.
        metrics: attempts by result.
        at_once: how many are run at the same time.
        timeout_s: how long one attempt may take.
    """

    def __init__(
        self,
        broker: Broker,
        store: StepStore,
        steps: Mapping[str, Step],
        metrics: Metrics,
        *,
        at_once: int,
        timeout_s: float,
    ) -> None:
        self._broker = broker
        self._store = store
        self._steps = steps
        self._at_once = at_once
        self._timeout_s = timeout_s
        self._attempts = metrics.counter("recorder_post_call_attempts", "Attempts of steps", ["step", "result"])

    async def run(self) -> None:
        """Run steps until canceled."""
        # Steps come seldom: one waits for the next, so that it is asked for once.
        turn = asyncio.Lock()
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._at_once):
                tasks.create_task(self._work(turn), name=f"post-call-{number}")

    async def _work(self, turn: asyncio.Lock) -> None:
        while True:
            try:
                pull = await self._broker.pull(STREAM, CONSUMER)
            except (BrokerUnavailable, TopologyMissing):
                await asyncio.sleep(AWAY_RETRY_S)
                continue
            try:
                while True:
                    async with turn:
                        deliveries = await pull.fetch(1, _WAIT_S)
                    for delivery in deliveries:
                        await self._handle(delivery)
            except BrokerUnavailable:
                await asyncio.sleep(AWAY_RETRY_S)
            finally:
                await pull.close()

    async def _handle(self, delivery: Delivery) -> None:
        """Run one step and settle its message; never raises for what a step does."""
        try:
            wanted = messages.decode(delivery.message.data, PostCall)
        except msgspec.MsgspecError as error:
            await self._park(delivery, f"malformed: {error}")
            return
        try:
            await self._run(delivery, wanted)
        except (DatabaseUnavailable, BrokerUnavailable, TopologyMissing) as error:
            _log.warning("post_call_put_back", step=wanted.step, session_id=wanted.session_id, error=error.code)
            await delivery.nak(AWAY_RETRY_S)
        except UnstorableRow:
            _log.info("post_call_without_session", step=wanted.step, session_id=wanted.session_id)
            await delivery.ack()
        except asyncio.CancelledError:
            # We are stopping: whoever is left takes it at once.
            with contextlib.suppress(BrokerUnavailable):
                await delivery.nak(0)
            raise

    async def _run(self, delivery: Delivery, wanted: PostCall) -> None:
        if wanted.again and not await self._may_run_again(delivery, wanted):
            return
        begun = await self._store.begin(wanted.session_id, wanted.step, wanted.tenant, again=wanted.again)
        if begun.state == "done":  # and the acknowledgement was lost, or the event; or nothing more was said
            await self._tell(wanted, "done", begun.lines, result=begun.result)
            await delivery.ack()
            return
        try:
            result = await self._attempt(wanted)
        except _Failed as failed:
            await self._fail(delivery, wanted, failed, begun)
            return
        session_id, step = wanted.session_id, wanted.step
        if await self._store.note(session_id, step, "done", result=result, lines=begun.lines):
            await self._tell(wanted, "done", begun.lines, result=result)
        await delivery.ack()
        self._attempts.inc(step=step, result="done")
        _log.info("post_call_done", step=step, session_id=session_id, tenant=wanted.tenant, lines=begun.lines)

    async def _may_run_again(self, delivery: Delivery, wanted: PostCall) -> bool:
        """Return whether a step that was queued before can be made again; else settle the message."""
        step = self._steps.get(wanted.step)
        if step is None and utcnow() - wanted.at < AGAIN_WITHIN:  # another recorder may have it
            await delivery.nak(FIRST_DELAY_S)
            return False
        if not getattr(step, "repeatable", False):
            _log.info("post_call_left_as_it_was", step=wanted.step, session_id=wanted.session_id)
            await delivery.ack()
            return False
        return True

    async def _attempt(self, wanted: PostCall) -> dict[str, Any] | None:
        step = self._steps.get(wanted.step)
        if step is None:  # another recorder may have it
            raise _Failed("not-installed")
        call = await self._store.call(wanted.session_id, wanted.tenant)
        if call is None:
            raise _Failed("no-such-call", final=True)
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await step.run(call)
        except StepRefused as error:
            raise _Failed(f"refused: {error.detail}", final=True) from error
        except TimeoutError as error:
            raise _Failed("timeout") from error
        except Exception as error:
            # Its text may have something of the conversation, or of a key.
            _log.warning("post_call_raised", step=wanted.step, session_id=call.session_id, error=type(error).__name__)
            raise _Failed(type(error).__name__) from error
        return _checked(result)

    async def _fail(self, delivery: Delivery, wanted: PostCall, failed: _Failed, begun: Begun) -> None:
        attempts = begun.attempts
        final = failed.final or attempts >= MAX_ATTEMPTS
        state = "failed" if final else "pending"
        counts = await self._store.note(wanted.session_id, wanted.step, state, error=failed.error)
        self._attempts.inc(step=wanted.step, result="failed" if final else "again")
        _log.warning(
            "post_call_failed",
            step=wanted.step,
            session_id=wanted.session_id,
            error=failed.error,
            attempts=attempts,
            final=final,
        )
        if not final:
            await delivery.nak(delay_s(attempts))
            return
        if counts:
            await self._tell(wanted, "failed", begun.lines, error=failed.error)
        await self._park(delivery, f"{wanted.step}: {failed.error}, after {attempts} attempts")

    async def _tell(
        self,
        wanted: PostCall,
        state: str,
        lines: int | None,
        *,
        result: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        made_of = [] if lines is None else [str(lines)]
        event = Event(
            id=derived_id("post-call", wanted.session_id, wanted.step, state, *made_of),
            tenant=wanted.tenant,
            session_id=wanted.session_id,
            type=f"post_call.{wanted.step}",
            at=utcnow(),
            source="recorder",
            data={"step": wanted.step, "state": state, "result": result, "error": error, "lines": lines},
        )
        subject = subjects.SESSION_EVENT.format(tenant=event.tenant, session_id=event.session_id, type=event.type)
        await self._broker.append(subject, messages.encode(event), msg_id=event.id)

    async def _park(self, delivery: Delivery, reason: str) -> None:
        message = delivery.message
        parked = Parked(
            stream=STREAM,
            subject=message.subject,
            stream_seq=message.stream_seq,
            consumer=CONSUMER,
            reason=reason,
            at=utcnow(),
            headers=dict(message.headers),
            payload=message.data,
        )
        await self._broker.append(
            subjects.PARKED.format(stream=STREAM),
            messages.encode(parked),
            msg_id=derived_id("parked", STREAM, str(message.stream_seq), CONSUMER),
        )
        await delivery.ack()


def _checked(result: object) -> dict[str, Any] | None:
    """Return a result that can be kept."""
    if result is None:
        return None
    try:
        encoded = msgspec.json.encode(result)
        decoded = msgspec.json.decode(encoded.replace(b"\\u0000", b"\\ufffd"), type=dict[str, Any])
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise _Failed("the result isn't a JSON object", final=True) from error
    if len(encoded) > MAX_RESULT_BYTES:
        raise _Failed(f"the result has more than {MAX_RESULT_BYTES} bytes", final=True)
    return decoded
