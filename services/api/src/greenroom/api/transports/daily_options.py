"""What a request may say of its Daily room: `transport_options` of the transport `daily`.

The names are Daily's own where they are passed on. What isn't offered is decided here: rooms are private and expire,
and nobody but the bot owns them.
"""

import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from greenroom.api.transports.base import options_of
from greenroom.common.commands import PHONE_NUMBER, SIP_URI
from greenroom.common.errors import FieldProblem, InvalidBody

# Rooms of ours are called this and the session's id; nobody may bring one of them.
PREFIX: Final = "gr-"
# Who a bot is at Daily, by its token. Whoever has no token of the account can't say who he is, and no user's says this.
BOT_USER_ID: Final = "greenroom-bot"
# The bot, the user, and the user again while Daily still waits for his broken connection.
DEFAULT_PARTICIPANTS: Final = 3
_ROOM_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")

type Media = Literal["audio", "video", "screenVideo", "screenAudio"]
type Codec = Annotated[str, Meta(min_length=1, max_length=16)]
type ShortText = Annotated[str, Meta(min_length=1, max_length=128)]
# Daily takes 36 characters.
type UserId = Annotated[str, Meta(min_length=1, max_length=36)]


class Codecs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which codecs callers may use, best first."""

    audio: tuple[Codec, ...] = ()
    video: tuple[Codec, ...] = ()


class Sip(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the room can be called."""

    display_name: ShortText = "caller"
    sip_mode: Literal["dial-in"] = "dial-in"
    video: bool = False
    num_endpoints: Annotated[int, Meta(ge=1, le=5)] = 1
    codecs: Codecs | None = None
    # Whose SIP it is; unset: Daily's default, SignalWire, which phone numbers need.
    provider: Literal["daily", "signalwire"] | None = None


class Bucket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bucket at S3 that Daily writes to, by a role which lets it; whether Daily's own API then gives that out."""

    bucket_name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?!\n)$")]
    bucket_region: Annotated[str, Meta(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9](?!\n)$", max_length=32)]
    assume_role_arn: Annotated[str, Meta(pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}(?!\n)$")]
    allow_api_access: bool = False


class RoomWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The room that is made."""

    geo: Annotated[str, Meta(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$", max_length=32)] | None = None
    max_participants: Annotated[int, Meta(ge=2, le=200)] = DEFAULT_PARTICIPANTS
    enable_recording: Literal["cloud", "cloud-audio-only", "local", "raw-tracks"] | None = None
    enable_chat: bool = False
    enable_dialout: bool = False
    start_video_off: bool = True
    sip: Sip | None = None
    recordings_bucket: Bucket | None = None
    transcription_bucket: Bucket | None = None
    enable_transcription_storage: bool = False


class CanReceiveMedia(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Which media of somebody else's get through; of those that are left out, none."""

    audio: bool = False
    video: bool = False
    screen_audio: bool = False
    screen_video: bool = False


class CanReceive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose media get to the user: everybody's, or not, and of those with a `user_id` else than that.

    The bot's is `greenroom-bot`.
    """

    base: bool | CanReceiveMedia = True
    by_user_id: Annotated[dict[UserId, bool | CanReceiveMedia], Meta(max_length=32)] = {}


class UserWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the user's token says."""

    user_name: ShortText | None = None
    user_id: UserId | None = None
    can_send: tuple[Media, ...] = ("audio", "video")
    can_receive: CanReceive | None = None
    # Before this (Unix seconds) he doesn't get in.
    nbf: Annotated[int, Meta(ge=0, le=2**40)] | None = None


class Dialin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A call that Daily holds until the bot has joined; from its dial-in webhook."""

    call_id: ShortText
    call_domain: ShortText
    to: ShortText | None = None
    from_: ShortText | None = None
    sip_headers: dict[str, str] = {}


class Dialout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Somebody to call, by Daily's names: a number, perhaps from a number of ours (its id at Daily), or a SIP URI."""

    phoneNumber: Annotated[str, Meta(pattern=PHONE_NUMBER)] | None = None  # noqa: N815 Daily's own name
    callerId: ShortText | None = None  # noqa: N815
    sipUri: Annotated[str, Meta(pattern=SIP_URI)] | None = None  # noqa: N815
    displayName: ShortText | None = None  # noqa: N815


class DailyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. `room_url` brings a room that exists, which is neither changed nor deleted.

    `dialout_settings` are called one after the other, each for `ring_timeout_s`, until somebody answers.
    `voicemail_detection` is for the bot: it finds it in its body.
    """

    room_url: Annotated[str, Meta(max_length=512)] | None = None
    room: RoomWish | None = None
    user: UserWish = UserWish()
    dialin: Dialin | None = None
    dialout_settings: Annotated[tuple[Dialout, ...], Meta(max_length=5)] = ()
    ring_timeout_s: Annotated[int, Meta(ge=5, le=120)] = 45
    voicemail_detection: bool | dict[str, Any] = False
    # How much longer the room lasts than it would, for those who go on in it after a warm transfer.
    after_transfer_s: Annotated[int, Meta(ge=0, le=24 * 3600)] = 0


def read(options: dict[str, Any]) -> DailyOptions:
    """Return the options of a request.

    Raises:
        InvalidBody: they can't be; each problem has its pointer.
    """
    wanted = options_of(options, DailyOptions)
    if wanted.user.user_id == BOT_USER_ID:
        raise _invalid("/user/user_id", "Bots are called this.")
    if wanted.room_url is not None:
        if wanted.room is not None:
            raise _invalid("/room", "A room that is brought isn't changed: leave out `room`, or `room_url`.")
        if wanted.dialin is not None:
            raise _invalid("/dialin", "A call needs a room that is made for it: leave out `room_url`.")
        if wanted.dialout_settings:
            raise _invalid("/dialout_settings", "A call needs a room that is made for it: leave out `room_url`.")
        brought_name(wanted.room_url)
    if wanted.dialin is not None and wanted.dialout_settings:
        raise _invalid("/dialout_settings", "Who has called isn't called: leave out `dialin`, or `dialout_settings`.")
    for number, dialout in enumerate(wanted.dialout_settings):
        if (dialout.phoneNumber is None) == (dialout.sipUri is None):
            raise _invalid(f"/dialout_settings/{number}", "Either `phoneNumber` or `sipUri`.")
        if dialout.callerId is not None and dialout.phoneNumber is None:
            raise _invalid(f"/dialout_settings/{number}/callerId", "It belongs to a `phoneNumber`.")
    return wanted


def check_dialout(wanted: DailyOptions, body: dict[str, Any], join_timeout_s: float) -> None:
    """Look whether a session may call as it is asked to.

    Args:
        wanted: the request's options.
        body: what its bot will be given.
        join_timeout_s: how long the session waits for somebody to be there.

    Raises:
        InvalidBody: the bot would call as well, or the session be over before all have been rung.
    """
    if not wanted.dialout_settings:
        return
    if body.get("dialout_settings"):
        text = "`body.dialout_settings` has the bot call, these have it called for: say one of the two."
        raise _invalid("/dialout_settings", text)
    rings_s = len(wanted.dialout_settings) * wanted.ring_timeout_s
    if rings_s >= join_timeout_s:
        text = f"They may ring for {rings_s} s in all, and `limits.join_timeout_s` is {join_timeout_s:g}."
        raise _invalid("/ring_timeout_s", text)


def check_nbf(wanted: DailyOptions, exp: int) -> None:
    """Look whether the user can get in before the room is gone, at `exp` (Unix seconds).

    Raises:
        InvalidBody: he can't.
    """
    if wanted.user.nbf is not None and wanted.user.nbf >= exp:
        raise _invalid("/user/nbf", "The room will be gone by then.")


def brought_name(room_url: str) -> str:
    """Return the name of a room that is brought.

    Raises:
        InvalidBody: it isn't the address of a room, or that of another session's.
    """
    try:
        parts = urlsplit(room_url)
    except ValueError as error:
        raise _invalid("/room_url", "It isn't a URL.") from error
    name = parts.path.strip("/")
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise _invalid("/room_url", "The address of a room is https://DOMAIN.daily.co/NAME.")
    if not _ROOM_NAME.fullmatch(name):
        raise _invalid("/room_url", "Its path isn't the name of a room: letters, digits, - and _.")
    if name.startswith(PREFIX):
        raise _invalid("/room_url", f"Rooms whose names begin with {PREFIX} belong to other sessions.")
    return name


def room_properties(wanted: DailyOptions, *, exp: int) -> dict[str, Any]:
    """Return the properties of the room to make, for Daily: it puts everybody out at `exp` (Unix seconds)."""
    room = wanted.room or RoomWish()
    sip = room.sip
    if sip is None and wanted.dialin is not None:
        sip = Sip(display_name=wanted.dialin.from_ or Sip().display_name)
    properties: dict[str, Any] = {
        "exp": exp,
        "eject_at_room_exp": True,
        "enable_prejoin_ui": False,
        "enable_knocking": False,
        "enable_screenshare": False,
        "enable_chat": room.enable_chat,
        "start_video_off": room.start_video_off,
        "max_participants": room.max_participants,
    }
    if room.geo is not None:
        properties["geo"] = room.geo
    if room.enable_recording is not None:
        properties["enable_recording"] = room.enable_recording
    if room.enable_dialout or wanted.dialout_settings:
        properties["enable_dialout"] = True
    if room.enable_transcription_storage:
        properties["enable_transcription_storage"] = True
    for name, bucket in (
        ("recordings_bucket", room.recordings_bucket),
        ("transcription_bucket", room.transcription_bucket),
    ):
        if bucket is not None:
            properties[name] = msgspec.to_builtins(bucket)
    if sip is not None:
        properties["sip"] = {name: value for name, value in msgspec.to_builtins(sip).items() if value is not None}
    return properties


def owner_token(room: str, *, exp: int) -> dict[str, Any]:
    """Return what the bot's token says: it owns this one room until `exp`."""
    return {
        "room_name": room,
        "exp": exp,
        "eject_at_token_exp": True,
        "is_owner": True,
        "user_id": BOT_USER_ID,
        "enable_prejoin_ui": False,
    }


def user_token(room: str, *, exp: int, user: UserWish) -> dict[str, Any]:
    """Return what a user's token says: he may be in this one room and send what was asked for, until `exp`."""
    properties: dict[str, Any] = {
        "room_name": room,
        "exp": exp,
        "eject_at_token_exp": True,
        "is_owner": False,
        "enable_prejoin_ui": False,
        "enable_recording_ui": False,
        "enable_screenshare": bool({"screenVideo", "screenAudio"}.intersection(user.can_send)),
        "permissions": {"hasPresence": True, "canSend": list(user.can_send), "canAdmin": False},
    }
    if user.user_name is not None:
        properties["user_name"] = user.user_name
    if user.user_id is not None:
        properties["user_id"] = user.user_id
    if user.nbf is not None:
        properties["nbf"] = user.nbf
    if user.can_receive is not None:
        properties["permissions"]["canReceive"] = msgspec.to_builtins(
            {"base": user.can_receive.base, "byUserId": user.can_receive.by_user_id}
        )
    return properties


def _invalid(path: str, text: str) -> InvalidBody:
    pointer = f"/transport_options{path}"
    return InvalidBody(f"{pointer}: {text}", errors=[FieldProblem(pointer=pointer, detail=text)])
