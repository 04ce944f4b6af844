"""Settings of the api service, from the environment."""

import re
from datetime import timedelta
from typing import Annotated, Final

import msgspec

from greenroom.api.carriers.settings import CarrierSettings
from greenroom.api.ice import IceServers
from greenroom.api.numbers import answering, secret_bytes
from greenroom.common.outbound import WebhookAllow, WebhookAllowHttp, check_allowed
from greenroom.common.settings import Env
from greenroom.common.tenant_keys import WEBHOOKS, parse_references
from greenroom.common.webhook_secrets import WebhookKeys, WebhookKeysDir

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")


class ApiSettings(CarrierSettings, frozen=True, kw_only=True):
    """What the api can be told, beside what every service can."""

    database_url: Annotated[str, Env("DATABASE_URL", help="PostgreSQL, as a URL; credentials may be in it")]
    api_host: Annotated[str, Env(help="Address the API listens on")] = "127.0.0.1"
    api_port: Annotated[
        int, msgspec.Meta(ge=0, le=65_535), Env(help="Port of the API; 0: any free one, see the log")
    ] = 8080
    public_url: Annotated[
        str | None,
        Env(help="How clients reach the API, e.g. https://voice.example.org; unset: as the request's Host header says"),
    ] = None
    allowed_origins: Annotated[
        tuple[str, ...],
        Env(help="Browser origins that may call the API and open media sockets, e.g. https://app.example.org"),
    ] = ()
    ice_servers: Annotated[
        tuple[str, ...],
        Env(help="STUN servers that browsers ask for their own address, e.g. stun:stun.example.org:3478"),
    ] = ()
    turn_urls: Annotated[
        tuple[str, ...],
        Env(help="TURN servers that browsers may be relayed by, e.g. turn:turn.example.org:3478?transport=udp"),
    ] = ()
    turn_secret: Annotated[
        str, Env(help="What the TURN servers share with the API (coturn: static-auth-secret)", secret=True)
    ] = ""
    turn_lifetime_s: Annotated[
        float, msgspec.Meta(ge=60, le=86_400), Env(help="How long a browser may begin to be relayed after it asked")
    ] = 3600.0
    recordings_dir: Annotated[str, Env(help="Where the recorder keeps recordings")] = ".greenroom/recordings"
    recordings_url: Annotated[
        str | None, Env(help="Bucket where the recorder keeps recordings, as it was told; unset: its folder")
    ] = None
    recording_keys_dir: Annotated[
        str | None, Env(help="Folder of the keys that recordings are encrypted with, as the recorder was told")
    ] = None
    recording_keys: Annotated[
        tuple[str, ...],
        Env(help="Keys that are in the environment, like acme.1=env:ACME_KEY, as the recorder was told"),
    ] = ()
    recording_link_s: Annotated[
        float, msgspec.Meta(ge=1, le=3600), Env(help="How long a link to a recording in a bucket is good for")
    ] = 60.0

    api_max_body_bytes: Annotated[int, msgspec.Meta(ge=1024), Env(help="Largest request body")] = 64 * 1024
    api_max_streams: Annotated[
        int, msgspec.Meta(ge=0), Env(help="How many event streams one process serves at a time")
    ] = 1000
    api_max_downloads: Annotated[
        int, msgspec.Meta(ge=0), Env(help="How many bundles and exports one process makes at a time")
    ] = 8

    media_max_connections: Annotated[
        int, msgspec.Meta(ge=0), Env(help="How many media sockets one process serves at a time")
    ] = 1000
    media_max_frame_bytes: Annotated[
        int, msgspec.Meta(ge=1024, le=512 * 1024), Env(help="Largest message of a media socket's client")
    ] = 64 * 1024
    media_queue_frames: Annotated[
        int, msgspec.Meta(ge=10), Env(help="Frames that wait for a slow client before it is given up", unit="frames")
    ] = 256
    media_hold_s: Annotated[
        float, msgspec.Meta(gt=0), Env(help="How long a media socket waits for its session to become ready")
    ] = 30.0
    media_stall_s: Annotated[
        float, msgspec.Meta(gt=0), Env(help="How long a client may take no frame before it is given up")
    ] = 5.0
    media_outage_s: Annotated[
        float, msgspec.Meta(gt=0), Env(help="How long a media socket outlives an outage of NATS")
    ] = 15.0

    daily_api_key: Annotated[
        str | None, Env(help="Key of the account at Daily; unset: no rooms there", secret=True)
    ] = None
    daily_api_url: Annotated[str, Env(help="Daily's REST API")] = "https://api.daily.co/v1"
    daily_bring_rooms: Annotated[
        tuple[str, ...],
        Env(help="Rooms at Daily that requests may bring, as patterns of their names; {tenant} is whose request it is"),
    ] = ("*",)
    daily_dialout: Annotated[
        bool,
        Env(help="The account at Daily may dial out: callers of its numbers can be handed over to somebody warmly"),
    ] = False
    daily_numbers: Annotated[
        tuple[str, ...],
        Env(help="Which agent answers a number at Daily: +15551234567=TENANT/AGENT; * for all others"),
    ] = ()
    daily_dialin_secrets: Annotated[
        tuple[str, ...],
        Env(help="What Daily signs its dial-in webhooks with (`hmac`, base64); unset: they are refused", secret=True),
    ] = ()

    daily_webhook_secrets: Annotated[
        tuple[str, ...],
        Env(help="What Daily signs its webhooks of events with (`hmac`, base64); unset: they are refused", secret=True),
    ] = ()

    livekit_url: Annotated[
        str | None, Env("LIVEKIT_URL", help="LiveKit server, e.g. wss://livekit.example.org; unset: no rooms there")
    ] = None
    livekit_api_key: Annotated[str | None, Env("LIVEKIT_API_KEY", help="Name of the key at LiveKit")] = None
    livekit_api_secret: Annotated[
        str | None, Env("LIVEKIT_API_SECRET", help="The key, which tokens are signed with", secret=True)
    ] = None

    webhook_allow: WebhookAllow = ()
    webhook_allow_http: WebhookAllowHttp = False
    webhook_keys_dir: WebhookKeysDir = None
    webhook_keys: WebhookKeys = ()

    def __post_init__(self) -> None:
        """Check what can't be said by types."""
        check_allowed(self.webhook_allow)
        parse_references(self.recording_keys)
        parse_references(self.webhook_keys, WEBHOOKS)
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"GREENROOM_ALLOWED_ORIGINS: {origin!r} isn't an origin like https://app.example.org")
        if self.public_url is not None and not self.public_url.startswith(("http://", "https://")):
            raise ValueError("GREENROOM_PUBLIC_URL begins with http:// or https://")
        try:
            answering(self.daily_numbers)
        except ValueError as error:
            raise ValueError(f"GREENROOM_DAILY_NUMBERS: {error}") from error
        for variable, secrets in (
            ("GREENROOM_DAILY_DIALIN_SECRETS", self.daily_dialin_secrets),
            ("GREENROOM_DAILY_WEBHOOK_SECRETS", self.daily_webhook_secrets),
        ):
            try:
                secret_bytes(secrets)
            except ValueError as error:
                raise ValueError(f"{variable}: {error}") from error
        if self.livekit_url is not None:
            if not self.livekit_url.startswith(("ws://", "wss://", "http://", "https://")):
                raise ValueError("LIVEKIT_URL begins with wss:// or ws://")
            if not (self.livekit_api_key and self.livekit_api_secret):
                raise ValueError("LIVEKIT_URL needs LIVEKIT_API_KEY and LIVEKIT_API_SECRET")
        _ = self.ice

    @property
    def ice(self) -> IceServers:
        """What browsers are told of STUN and TURN."""
        return IceServers(self.ice_servers, self.turn_urls, self.turn_secret, timedelta(seconds=self.turn_lifetime_s))
