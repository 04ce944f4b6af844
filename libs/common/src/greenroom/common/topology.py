"""The streams and durable consumers of the system, as data.

`greenroom topology diff|apply` compares and makes them; services check that they are there and never
create any, so that no service needs the permission to.
"""

from typing import Final, Literal

import msgspec

from greenroom.common import subjects


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A JetStream stream. Ages and windows in seconds, sizes in bytes; 0 means no limit."""

    name: str
    subjects: tuple[str, ...]
    description: str
    retention: Literal["limits", "workqueue"] = "limits"
    max_age_s: float = 0
    max_msgs_per_subject: int = -1
    max_msg_size: int = -1
    # For how long a message that is sent again is recognised by its id; the server keeps the ids in memory.
    duplicate_window_s: float = 120
    # What the broker publishes again once it is stored, with its sequence in a header: which subjects, and as what.
    republish: tuple[str, str] | None = None


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """A durable pull consumer."""

    stream: str
    name: str
    filters: tuple[str, ...]
    description: str
    # How long one delivery may be worked on before it is delivered again.
    # What a killed consumer had in hand comes to the next one after this; a batch takes 20 ms.
    ack_wait_s: float = 10
    max_ack_pending: int = 10_000


DAY_S: Final = 86_400.0

STREAMS: Final[tuple[Stream, ...]] = (
    Stream(
        name="SESSIONS",
        subjects=(subjects.SESSION_LIFECYCLE.wildcard(), subjects.SESSION_EVENT.wildcard()),
        description="The ledger, and what happens in each session, in one order.",
        # The recorder purges a session some time after its end; this is for sessions nobody recorded.
        max_age_s=7 * DAY_S,
        max_msg_size=512 * 1024,
        republish=(subjects.SESSION_LIFECYCLE.wildcard(), "gr.v1.stored.{{wildcard(1)}}.{{wildcard(2)}}"),
    ),
    Stream(
        name="AUDIO",
        subjects=(subjects.SESSION_AUDIO.wildcard(),),
        description="Recorded audio on its way to the recorder; gone when it is stored.",
        retention="workqueue",
        max_age_s=2 * DAY_S,
        max_msg_size=512 * 1024,
    ),
    Stream(
        name="LEADERS",
        subjects=(subjects.LEADER.wildcard(),),
        description="Who leads.",
        max_msgs_per_subject=1,
    ),
    Stream(
        name="TICKETS",
        subjects=(subjects.TICKET.wildcard(),),
        description="Media tickets, by digest; empty once used.",
        # A used ticket must be remembered for as long as it could be shown again.
        max_age_s=600,
        max_msgs_per_subject=1,
    ),
    Stream(
        name="IDEMPOTENCY",
        subjects=(subjects.IDEMPOTENCY.wildcard(),),
        description="Answers to requests with an Idempotency-Key.",
        max_age_s=DAY_S,
        max_msgs_per_subject=1,
    ),
    Stream(
        name="SECRETS",
        subjects=(subjects.SECRET.wildcard(),),
        description="What only the process of a session may know; empty once it has it.",
        max_age_s=DAY_S,
        max_msgs_per_subject=1,
        max_msg_size=64 * 1024,
    ),
    Stream(
        name="RELEASES",
        subjects=(subjects.RELEASE.wildcard(),),
        description="What was made at providers for sessions, until it is taken away.",
        retention="workqueue",
        max_age_s=7 * DAY_S,
    ),
    Stream(
        name="CALLS",
        subjects=(subjects.CALL.wildcard(), subjects.WEBHOOK.wildcard(), subjects.ROOMS.wildcard()),
        description="Which session each phone call belongs to, which webhooks were seen, and who went to which room.",
        # A webhook without a timestamp that is repeated later than this is a new call.
        max_age_s=7 * DAY_S,
        max_msgs_per_subject=1,
    ),
    Stream(
        name="DIALS",
        subjects=(subjects.DIAL.wildcard(),),
        description="Who is to be called once a session is ready.",
        retention="workqueue",
        max_age_s=DAY_S,
    ),
    Stream(
        name="POSTCALL",
        subjects=(subjects.POST_CALL.wildcard(),),
        description="Steps to be run for sessions that are over.",
        retention="workqueue",
        max_age_s=7 * DAY_S,
    ),
    Stream(
        name="POLICY",
        subjects=(subjects.POLICY.wildcard(),),
        description="Limits, pools and rollouts, as the schedulers apply them; PostgreSQL has the original.",
        max_msgs_per_subject=1,
    ),
    Stream(
        name="DECISIONS",
        subjects=(subjects.DECISION.wildcard(),),
        description="Why capacity was launched, retired or held back.",
        max_age_s=30 * DAY_S,
    ),
    Stream(
        name="NOTICES",
        subjects=(subjects.NOTICE.wildcard(),),
        description="What is said of tenants beside their sessions: budgets and limits.",
        max_age_s=30 * DAY_S,
    ),
    Stream(
        name="PARKED",
        subjects=(subjects.PARKED.wildcard(), subjects.REPLAYED.wildcard()),
        description="Messages that could not be processed, and which of them were put back.",
        max_age_s=30 * DAY_S,
    ),
)

CONSUMERS: Final[tuple[Consumer, ...]] = (
    Consumer(
        stream="SESSIONS",
        name="recorder-sessions",
        filters=(subjects.SESSION_LIFECYCLE.wildcard(), subjects.SESSION_EVENT.wildcard()),
        description="The recorder stores transitions and events.",
        # Several recorders, each with two full batches in hand.
        max_ack_pending=100_000,
    ),
    Consumer(
        stream="AUDIO",
        name="recorder-audio",
        filters=(subjects.SESSION_AUDIO.wildcard(),),
        description="The recorder stores audio.",
        # It asks for what it can hold; this is how much may wait for PostgreSQL without holding up the rest.
        max_ack_pending=100_000,
    ),
    Consumer(
        stream="POSTCALL",
        name="recorder-postcall",
        filters=(subjects.POST_CALL.wildcard(),),
        description="The recorder runs steps for sessions that are over.",
        # A step that takes longer is given up sooner.
        ack_wait_s=180,
        max_ack_pending=100_000,
    ),
    Consumer(
        stream="NOTICES",
        name="recorder-notices",
        filters=(subjects.NOTICE.wildcard(),),
        description="The recorder tells webhook endpoints.",
    ),
    Consumer(
        stream="RELEASES",
        name="api-releases",
        filters=(subjects.RELEASE.wildcard(),),
        description="The api takes away what was made at providers.",
        # A provider that doesn't answer is given up sooner.
        ack_wait_s=60,
        # One for each room that is open: those whose session isn't over yet are put back for a while.
        max_ack_pending=100_000,
    ),
    Consumer(
        stream="DIALS",
        name="api-dials",
        filters=(subjects.DIAL.wildcard(),),
        description="The api calls people.",
        # A carrier that doesn't answer is given up sooner.
        ack_wait_s=60,
        max_ack_pending=100_000,
    ),
)
