"""What is sent: the same bytes at every attempt, for they are made of what doesn't change."""

from datetime import timedelta
from typing import Any, Final

import msgspec

from greenroom.common.webhook_samples import SAMPLES
from greenroom.recorder.webhooks.store import Job

ENDED: Final = "session.ended"


def payload(job: Job) -> bytes | None:
    """Return the body of a delivery; None where its event was erased since it was queued."""
    if job.session_id is None:
        return _beside_sessions(job)
    event = job.event
    if event is None:
        return None
    facts = event.session
    session: dict[str, Any] = {
        "id": job.session_id,
        "agent": facts.agent,
        "agent_version": facts.agent_version,
        "transport": facts.transport,
        "metadata": facts.metadata,
        "requested_at": facts.requested_at,
    }
    if job.type == ENDED:
        # They change no more.
        session |= {"ready_at": facts.ready_at, "ended_at": facts.ended_at}
        if facts.ready_at is not None and facts.ended_at is not None:
            session["duration_s"] = round((facts.ended_at - facts.ready_at) / timedelta(seconds=1), 3)
    return msgspec.json.encode(
        {
            "type": job.type,
            "timestamp": event.at,
            "tenant": job.tenant,
            "event_id": event.id,
            "seq": job.position,
            "source": event.source,
            "session": session,
            "data": event.data,
        }
    )


def _beside_sessions(job: Job) -> bytes | None:
    """Return the body of what concerns no session: a notice, or a test, which is nothing that has happened."""
    if job.is_test:
        said = {"timestamp": job.created_at, "tenant": job.tenant, "test": True, "data": SAMPLES.get(job.type, {})}
        return msgspec.json.encode({"type": job.type, **said})
    notice = job.notice
    if notice is None:
        return None
    return msgspec.json.encode(
        {
            "type": job.type,
            "timestamp": notice.at,
            "tenant": job.tenant,
            "event_id": notice.id,
            "seq": job.position,
            "source": notice.source,
            "data": notice.data,
        }
    )
