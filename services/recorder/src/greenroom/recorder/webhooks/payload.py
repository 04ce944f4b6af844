"""What is sent: the same bytes at every attempt, for they are made of what doesn't change."""

from datetime import timedelta
from typing import Any, Final

import msgspec

from greenroom.recorder.webhooks.store import Job

TEST: Final = "webhook.test"
ENDED: Final = "session.ended"


def payload(job: Job) -> bytes | None:
    """Return the body of a delivery; None where its event was erased since it was queued."""
    if job.session_id is None:
        return msgspec.json.encode(
            {"type": TEST, "timestamp": job.created_at, "tenant": job.tenant, "data": {"text": "It works."}}
        )
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
