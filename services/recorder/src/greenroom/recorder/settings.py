"""Settings of the recorder, from the environment."""

from typing import Annotated, Final

import msgspec

from greenroom.common.consumer import MAX_BATCH_BYTES
from greenroom.common.outbound import WebhookAllow, WebhookAllowHttp, check_allowed
from greenroom.common.recordings import Format, Layout
from greenroom.common.settings import Env, ServiceSettings
from greenroom.common.tenant_keys import WEBHOOKS, parse_references
from greenroom.common.webhook_secrets import WebhookKeys, WebhookKeysDir
from greenroom.recorder.retention.times import parse_at, parse_zone

WORK: Final = ("keep", "webhooks", "post-call")
# Steps after calls that a model does.
SUMMARY: Final = "summary"
MEETING_NOTES: Final = "meeting_notes"


class RecorderSettings(ServiceSettings, frozen=True, kw_only=True):
    """What the recorder can be told, beside what every service can."""

    database_url: Annotated[str, Env("DATABASE_URL", help="PostgreSQL, as a URL; credentials may be in it")]
    recordings_dir: Annotated[
        str,
        Env(help="Where recordings are kept, and live audio until it is sealed; on storage that all recorders share"),
    ] = ".greenroom/recordings"
    recordings_url: Annotated[
        str | None,
        Env(
            help="Bucket where recordings are kept once they are sealed: s3://bucket/prefix, gs://… or az://…; "
            "unset: the folder. Credentials come from the environment, under the provider's own names"
        ),
    ] = None
    recording_format: Annotated[Format, Env(help="Format of recordings whose agent has no other")] = "wav"
    recording_layout: Annotated[
        Layout,
        Env(help="Caller left and bot right, both on one channel, or a file each; where the agent has no other"),
    ] = "stereo"
    recording_keys_dir: Annotated[
        str | None,
        Env(help="Folder of the keys that recordings are encrypted with, {tenant}.{number}.key; unset: they aren't"),
    ] = None
    recording_keys: Annotated[
        tuple[str, ...],
        Env(help="Keys that are in the environment, beside or instead of the folder, like acme.1=env:ACME_KEY"),
    ] = ()
    recording_keys_required: Annotated[
        bool, Env(help="Recordings of a tenant without a key wait for one; else they aren't encrypted")
    ] = False
    recording_missing_s: Annotated[
        float,
        msgspec.Meta(gt=0),
        Env(help="How long after a client has connected its session's first audio is awaited before an alarm"),
    ] = 10.0
    # One each for transitions and events, audio, the purge and the readiness check; the rest seals.
    database_connections: Annotated[
        int,
        msgspec.Meta(ge=2),
        Env(help="Connections to PostgreSQL at most, beside 4 for webhooks and steps", unit="connections"),
    ] = 6
    # Where there is a backlog: each transaction is a sync of the disk and a dozen round trips, which 5,000 rows share.
    # PostgreSQL takes them in 80 ms.
    event_batch: Annotated[
        int, msgspec.Meta(ge=1, le=10_000), Env(help="Messages stored in one transaction at most", unit="messages")
    ] = 5000
    # Usual messages have 400 bytes; the largest, half a megabyte each, aren't held by the hundred.
    event_batch_bytes: Annotated[
        int,
        msgspec.Meta(ge=1024 * 1024),
        Env(help="Size of the messages stored in one transaction at most", unit="bytes"),
    ] = MAX_BATCH_BYTES
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
    budget_interval_s: Annotated[
        float, msgspec.Meta(gt=0, le=3600), Env(help="How often it is told how much of budgets is spent")
    ] = 60.0
    purge_grace_s: Annotated[
        float,
        msgspec.Meta(ge=0),
        Env(help="How long the broker keeps an ended session after everything of it is stored and sealed"),
    ] = 300.0
    retention_at: Annotated[str, Env(help="When the daily run of retention is due, e.g. 03:30")] = "03:30"
    retention_zone: Annotated[str, Env(help="On whose clocks: a name of the time-zone database")] = "Europe/Berlin"
    recorder_work: Annotated[
        tuple[str, ...],
        Env(
            help="What this process does: `keep` what happens, deliver `webhooks`, run steps after calls (`post-call`)"
        ),
    ] = WORK
    post_call_steps: Annotated[
        tuple[str, ...],
        Env(
            help="Steps for each session that is over: `summary`, `meeting_notes`, or names of entry points"
            " `greenroom.post_call`"
        ),
    ] = ()
    post_call_offered: Annotated[
        tuple[str, ...], Env(help="Further steps, for those of which a tenant or agent has chosen them")
    ] = ()
    post_call_timeout_s: Annotated[
        float, msgspec.Meta(gt=0, le=150), Env(help="How long one attempt of a step may take")
    ] = 120.0
    post_call_at_once: Annotated[
        int, msgspec.Meta(ge=1, le=64), Env(help="Steps run at the same time", unit="steps")
    ] = 4
    summary_url: Annotated[
        str, Env(help="API like OpenAI's that writes summaries and notes, without /chat/completions")
    ] = "https://api.openai.com/v1"
    summary_model: Annotated[
        str, Env(help="Model that writes those; has to be set for the steps `summary` and `meeting_notes`")
    ] = ""
    summary_key: Annotated[str, Env(help="Key of that API; empty: none is sent", secret=True)] = ""
    summary_prompt: Annotated[
        str, msgspec.Meta(min_length=1), Env(help="What the model is told to do with a transcript for `summary`")
    ] = "Summarise this phone call in a few sentences: what the caller wanted, what was agreed, what is left to do."
    meeting_notes_prompt: Annotated[
        str, msgspec.Meta(min_length=1), Env(help="What it is told to do for `meeting_notes`")
    ] = (
        "Write the notes of this conversation in Markdown: what it was about, what was decided, who does what until"
        " when, and which questions are open. Leave out what wasn't said."
    )
    webhook_allow: WebhookAllow = ()
    webhook_allow_http: WebhookAllowHttp = False
    webhook_keys_dir: WebhookKeysDir = None
    webhook_keys: WebhookKeys = ()

    def __post_init__(self) -> None:
        """Check what can't be said by types."""
        for name, parse, value in (
            ("GREENROOM_RETENTION_AT", parse_at, self.retention_at),
            ("GREENROOM_RETENTION_ZONE", parse_zone, self.retention_zone),
        ):
            try:
                parse(value)
            except ValueError as error:
                msg = f"{name}: {error}"
                raise ValueError(msg) from error
        check_allowed(self.webhook_allow)
        parse_references(self.recording_keys)
        parse_references(self.webhook_keys, WEBHOOKS)
        written = {SUMMARY, MEETING_NOTES}.intersection((*self.post_call_steps, *self.post_call_offered))
        if written and not self.summary_model:
            raise ValueError(f"GREENROOM_SUMMARY_MODEL has to be set for the step `{min(written)}`")
        if not self.summary_url.startswith(("http://", "https://")):
            raise ValueError("GREENROOM_SUMMARY_URL begins with http:// or https://")
        if unknown := set(self.recorder_work) - set(WORK):
            raise ValueError(f"GREENROOM_RECORDER_WORK: {min(unknown)!r} isn't one of {', '.join(WORK)}")
