"""Settings of the recorder, from the environment."""

from typing import Annotated, Final

import msgspec

from greenroom.common.outbound import WebhookAllow, WebhookAllowHttp, check_allowed
from greenroom.common.settings import Env, ServiceSettings

WORK: Final = ("keep", "webhooks", "post-call")


class RecorderSettings(ServiceSettings, frozen=True, kw_only=True):
    """What the recorder can be told, beside what every service can."""

    database_url: Annotated[str, Env("DATABASE_URL", help="PostgreSQL, as a URL; credentials may be in it")]
    recordings_dir: Annotated[
        str,
        Env(help="Where recordings are kept, and live audio until it is sealed; on storage that all recorders share"),
    ] = ".greenroom/recordings"
    # One each for transitions and events, audio, the purge and the readiness check; the rest seals.
    database_connections: Annotated[
        int, msgspec.Meta(ge=2), Env(help="Connections to PostgreSQL at most", unit="connections")
    ] = 6
    # PostgreSQL takes 500 rows in 10 ms; larger ones only add to what one poisonous row makes us repeat.
    event_batch: Annotated[
        int, msgspec.Meta(ge=1, le=5000), Env(help="Messages stored in one transaction at most", unit="messages")
    ] = 500
    # 32 kB each.
    audio_batch: Annotated[
        int, msgspec.Meta(ge=1, le=1000), Env(help="Chunks of audio written and synced together at most", unit="chunks")
    ] = 200
    max_open_parts: Annotated[
        int, msgspec.Meta(ge=0), Env(help="Files of live recordings kept open between two batches", unit="files")
    ] = 256
    seal_at_once: Annotated[
        int, msgspec.Meta(ge=1, le=64), Env(help="Recordings written at the same time", unit="recordings")
    ] = 2
    purge_grace_s: Annotated[
        float,
        msgspec.Meta(ge=0),
        Env(help="How long the broker keeps an ended session after everything of it is stored and sealed"),
    ] = 300.0
    recorder_work: Annotated[
        tuple[str, ...],
        Env(
            help="What this process does: `keep` what happens, deliver `webhooks`, run steps after calls (`post-call`)"
        ),
    ] = WORK
    webhook_allow: WebhookAllow = ()
    webhook_allow_http: WebhookAllowHttp = False

    def __post_init__(self) -> None:
        """Check what can't be said by types."""
        check_allowed(self.webhook_allow)
        if unknown := set(self.recorder_work) - set(WORK):
            raise ValueError(f"GREENROOM_RECORDER_WORK: {min(unknown)!r} isn't one of {', '.join(WORK)}")
