"""Settings of the api service, from the environment."""

import re
from typing import Annotated, Final

import msgspec

from greenroom.api.carriers.settings import CarrierSettings
from greenroom.common.settings import Env

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
    recordings_dir: Annotated[str, Env(help="Where the recorder keeps recordings")] = ".greenroom/recordings"

    api_max_body_bytes: Annotated[int, msgspec.Meta(ge=1024), Env(help="Largest request body")] = 64 * 1024
    api_max_streams: Annotated[
        int, msgspec.Meta(ge=0), Env(help="How many event streams one process serves at a time")
    ] = 1000

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

    def __post_init__(self) -> None:
        """Check what can't be said by types."""
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"GREENROOM_ALLOWED_ORIGINS: {origin!r} isn't an origin like https://app.example.org")
        if self.public_url is not None and not self.public_url.startswith(("http://", "https://")):
            raise ValueError("GREENROOM_PUBLIC_URL begins with http:// or https://")
