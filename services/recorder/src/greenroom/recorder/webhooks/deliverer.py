"""Delivers: takes lanes that are due, sends what is next in each, notes how it went."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from greenroom.common.clock import utcnow
from greenroom.common.errors import DatabaseUnavailable
from greenroom.common.metrics import Metrics
from greenroom.common.webhook_secrets import WebhookKeyMissing, WebhookSecrets, WebhookSecretUnreadable
from greenroom.recorder.database import UnstorableRow
from greenroom.recorder.webhooks import signing
from greenroom.recorder.webhooks.payload import payload
from greenroom.recorder.webhooks.schedule import Outcome, judge
from greenroom.recorder.webhooks.sender import TIMEOUT_S, Sender
from greenroom.recorder.webhooks.store import Job, WebhookStore

_log = structlog.get_logger()

# Looked for this often while nothing is known to be due.
POLL_S: Final = 0.5
AWAY_RETRY_S: Final = 2.0
# Longer than an attempt takes with all around it, and it is what a killed recorder's deliveries wait.
LEASE_S: Final = TIMEOUT_S + 15.0
# Requests to one endpoint, and to one that fails; requests at once, and of those to endpoints that fail.
EACH: Final = 8
EACH_FAILING: Final = 1
AT_ONCE: Final = 256
AT_ONCE_FAILING: Final = AT_ONCE // 2
_ERASED: Final = "event-erased"
_UNSIGNABLE: Final = "not-signable"
_NO_KEY: Final = "key-missing"
# What lies plain is signed with as it is.
PLAIN: Final = WebhookSecrets(None)

TIDY_S: Final = 60.0
TIDY_LIMIT: Final = 5000
# What waited behind others has so long more.
EXPIRE_GRACE_S: Final = 3600.0
KEEP_DELIVERED_S: Final = 7 * 86_400.0
KEEP_DEAD_S: Final = 30 * 86_400.0
# A delivery that died may be replayed on its last day, and then is kept as long again.
KEEP_NOTICES_S: Final = 62 * 86_400.0


class Deliverer:
    """Delivers webhooks, beside any number of others.

    Args:
        store: what is to be delivered.
        sender: sends it.
        metrics: attempts by result, and how long they take.
        secrets: decrypts what signs.
        lease_s: how long a lane is taken for.
        chance: from 0 to 1.
    """

    def __init__(
        self,
        store: WebhookStore,
        sender: Sender,
        metrics: Metrics,
        *,
        secrets: WebhookSecrets = PLAIN,
        lease_s: float = LEASE_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._sender = sender
        self._secrets = secrets
        self._lease_s = lease_s
        self._chance = chance
        self._busy: Counter[str] = Counter()
        self._failing = 0
        self._more = asyncio.Event()
        self._attempts = metrics.counter("recorder_webhook_attempts", "Attempts to deliver a webhook", ["result"])
        self._disabled = metrics.counter("recorder_webhooks_disabled", "Endpoints that said that they are gone")
        self._took_s = metrics.histogram("recorder_webhook_seconds", "How long an attempt took")
        self._lag_s = metrics.histogram("recorder_webhook_lag_seconds", "From the storing of an event to its delivery")
        self._pending = metrics.gauge("recorder_webhooks_pending", "Deliveries that wait")

    async def run(self) -> None:
        """Deliver until canceled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tidy(), name="webhooks-tidy")
            while True:
                self._more.clear()
                try:
                    taken = await self._take(tasks)
                except (DatabaseUnavailable, UnstorableRow) as error:
                    _log.warning("webhooks_not_read", error=str(error), again_in_s=AWAY_RETRY_S)
                    await asyncio.sleep(AWAY_RETRY_S)
                    continue
                if not taken:
                    await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._more.wait()
        except TimeoutError:
            pass

    async def _take(self, tasks: asyncio.TaskGroup) -> int:
        """Begin with what is due; return how much that is."""
        taken = 0
        for failing, each, room in (
            (False, EACH, AT_ONCE - self._busy.total()),
            (True, EACH_FAILING, min(AT_ONCE - self._busy.total(), AT_ONCE_FAILING - self._failing)),
        ):
            if room <= 0:
                continue
            jobs = await self._store.take(self._busy, each=each, limit=room, failing=failing, lease_s=self._lease_s)
            for job in jobs:
                self._busy[job.endpoint_id] += 1
                self._failing += failing
                task = tasks.create_task(self._deliver(job), name=f"webhook-{job.id}")
                task.add_done_callback(lambda _, job=job, failing=failing: self._done(job, failing=failing))
            taken += len(jobs)
        return taken

    def _done(self, job: Job, *, failing: bool) -> None:
        self._busy[job.endpoint_id] -= 1
        self._busy += Counter()  # forgets those without any
        self._failing -= failing

    async def _deliver(self, job: Job) -> None:
        began = time.monotonic()
        try:
            outcome = await self._attempt(job)
            verdict = judge(
                outcome,
                attempts=job.attempts + 1,
                failures=job.failures,
                now=utcnow(),
                give_up_at=job.give_up_at,
                chance=self._chance(),
            )
            if await self._store.settle(job, outcome, verdict):
                self._more.set()
        except (DatabaseUnavailable, UnstorableRow) as error:
            # It is due again when its lane is free.
            _log.warning("webhook_not_noted", delivery_id=job.id, error=str(error))
            return
        except Exception:  # noqa: BLE001 whatever it is about this one, the others must not suffer from it
            _log.exception("webhook_failed", delivery_id=job.id)
            return
        self._took_s.observe(time.monotonic() - began)
        self._attempts.inc(result=verdict.fate)
        if verdict.fate == "delivered":
            self._lag_s.observe(max((utcnow() - job.created_at).total_seconds(), 0.0))
            return
        self._disabled.inc(int(verdict.disable))
        _log.info(
            "webhook_not_delivered",
            delivery_id=job.id,
            endpoint_id=job.endpoint_id,
            tenant=job.tenant,
            session_id=job.session_id,
            status=outcome.status,
            error=outcome.error,
            attempts=job.attempts + 1,
            fate=verdict.fate,
            again_in_s=round(verdict.delay_s, 1),
        )

    async def _attempt(self, job: Job) -> Outcome:
        body = payload(job)
        if body is None:
            return Outcome(error=_ERASED, final=True)
        try:
            secrets = [self._secrets.open(job.tenant, job.endpoint_id, kept) for kept in job.secrets]
            headers = signing.headers(secrets, message_id=job.id, timestamp=int(time.time()), body=body)
        except WebhookKeyMissing:
            return Outcome(error=_NO_KEY)
        except (WebhookSecretUnreadable, ValueError):
            return Outcome(error=_UNSIGNABLE, final=True)
        return await self._sender.post(job.url, body, headers)

    async def _tidy(self) -> None:
        """Give up what is overdue, forget what is old, encrypt what was stored before there were keys."""
        while True:
            try:
                expired = await self._store.expire(grace_s=EXPIRE_GRACE_S, limit=TIDY_LIMIT)
                self._attempts.inc(expired, result="expired")
                await self._store.forget(delivered_s=KEEP_DELIVERED_S, dead_s=KEEP_DEAD_S, limit=TIDY_LIMIT)
                await self._store.forget_notices(stored_s=KEEP_NOTICES_S)
                self._pending.set(await self._store.pending())
                await self._encrypt()
            except (DatabaseUnavailable, UnstorableRow, WebhookKeyMissing) as error:
                _log.warning("webhooks_not_tidied", error=str(error), again_in_s=TIDY_S)
            await asyncio.sleep(TIDY_S)

    async def _encrypt(self) -> None:
        if not self._secrets.encrypts:
            return
        for kept in await self._store.plain():
            one = tuple(self._secrets.seal(kept.tenant, kept.endpoint_id, secret) for secret in kept.secrets)
            if one != kept.secrets and await self._store.encrypted(kept, one):
                _log.info("webhook_secret_encrypted", endpoint_id=kept.endpoint_id, tenant=kept.tenant)
