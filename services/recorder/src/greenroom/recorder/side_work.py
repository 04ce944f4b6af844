"""What a recorder does beside keeping things: webhooks, and steps after calls.

Every instance takes part, whether it leads or not, on connections to the database of its own: whatever happens here,
what is to be stored doesn't wait for it.
"""

import asyncio
import contextlib
import os
from typing import Final

from greenroom.common.broker import Broker
from greenroom.common.metrics import Metrics
from greenroom.common.outbound import Exits
from greenroom.common.webhook_secrets import WebhookSecrets
from greenroom.recorder import database
from greenroom.recorder.post_call.feeder import Feeder
from greenroom.recorder.post_call.loading import load_steps
from greenroom.recorder.post_call.step_runner import StepRunner
from greenroom.recorder.post_call.store import StepStore
from greenroom.recorder.settings import RecorderSettings
from greenroom.recorder.webhooks.deliverer import Deliverer
from greenroom.recorder.webhooks.notices import Notices
from greenroom.recorder.webhooks.sender import Resolver, Sender
from greenroom.recorder.webhooks.store import WebhookStore

# A statement takes 1 ms; those of two hundred requests that come back at once wait for each other.
_CONNECTIONS: Final = 4
_CLOSE_TIMEOUT_S: Final = 1.0


async def run(*, broker: Broker, settings: RecorderSettings, metrics: Metrics) -> None:
    """Work until canceled.

    Args:
        broker: where steps are queued, and their results told.
        settings: of the service.
        metrics: of the process.
    """
    async with contextlib.AsyncExitStack() as parts:
        pool = await database.open_pool(settings.database_url, size=_CONNECTIONS)
        parts.push_async_callback(database.close_pool, pool, timeout_s=_CLOSE_TIMEOUT_S)
        async with asyncio.TaskGroup() as tasks:
            if "webhooks" in settings.recorder_work:
                resolver = Resolver()
                parts.callback(resolver.close)
                exits = Exits.of(settings.webhook_allow, http=settings.webhook_allow_http)
                sender = Sender(exits, resolve=resolver)
                parts.push_async_callback(sender.close)
                secrets = WebhookSecrets.of(settings.webhook_keys_dir, settings.webhook_keys, os.environ)
                tasks.create_task(
                    Deliverer(WebhookStore(pool), sender, metrics, secrets=secrets).run(), name="webhooks"
                )
                tasks.create_task(Notices(broker, pool).run(), name="notices")
            if "post-call" in settings.recorder_work:
                steps = StepStore(pool)
                tasks.create_task(Feeder(broker, steps, settings.post_call_steps).run(), name="post-call-feeder")
                runner = StepRunner(
                    broker,
                    steps,
                    await load_steps(settings, parts),
                    metrics,
                    at_once=settings.post_call_at_once,
                    timeout_s=settings.post_call_timeout_s,
                )
                tasks.create_task(runner.run(), name="post-call")
