"""A room at Daily with one guest, without Daily: a fake of its client library, since its servers can't be had.

It stands in for what Pipecat's transport uses of `daily`: the client of a call and the virtual microphone; threads,
event handlers and all of Pipecat's own are the real ones. The guest comes when the bot has joined, hears what the
microphone is given, and leaves when it has heard enough. A room whose name begins with `patient` has one who stays, one
that begins with `empty` has none, one that begins with `closed` doesn't let the bot in, and one that begins with `once`
doesn't a second time. What happened is written to a file, a JSON document a line.

Phones can be called out of the room, each by its number or SIP URI: it `answers`, is `busy`, stays `silent`, or answers
and `hangs up` when it has heard enough. Who is called is in the room from when his phone rings, and hears what he may:
of permissions those to receive are kept, by participant.

    python -m tests.support.daily_room FILE BOT -t daily    (the bot's own program with this room)
"""

import json
import runpy
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

GUEST: Final = {"id": "ada", "info": {"userName": "Ada", "isLocal": False, "isOwner": False}}
BOT_ID: Final = "the-bot"
ENOUGH_S: Final = 0.1
# Rooms whose guest stays.
_PATIENT: Final = ("patient", "empty", "once")
_LOUD: Final = 500


class CallClient:
    """See Daily's own. What it calls comes from a thread, as there."""

    told: ClassVar[Path]
    # Of the room: whether its guest comes, whether everybody stays however much he has heard, and what phones do.
    guest: ClassVar[bool] = True
    patient: ClassVar[bool] = False
    phones: ClassVar[Mapping[str, str]] = {}
    microphone: ClassVar["CallClient | None"] = None

    def __init__(self, event_handler: Any = None) -> None:
        self._handler = event_handler
        self._thread = ThreadPoolExecutor(1)
        self._here: dict[str, Mapping[str, Any]] = {}
        self._heard: dict[str, int] = {}
        # Whom somebody doesn't hear.
        self._deaf: dict[str, set[str]] = {}
        # Who came by phone, and hangs up by himself.
        self._called: dict[str, str] = {}
        self._rate = 1
        self._room = ""
        self._rooms: set[str] = set()
        CallClient.microphone = self

    def release(self) -> None:
        """Stop calling anybody."""
        self._thread.shutdown(wait=False)

    def set_user_name(self, user_name: str) -> None:
        """Say who it is."""
        self._tell(name=user_name)

    def update_subscription_profiles(
        self, profile_settings: Mapping[str, Any], completion: Callable[[str | None], None] | None = None
    ) -> None:
        """Say what to receive: there is nothing."""

    def send_app_message(
        self,
        message: Any,  # noqa: ARG002
        participant_id: str | None = None,  # noqa: ARG002
        completion: Callable[[str | None], None] | None = None,
    ) -> None:
        """Send a message: nobody reads it."""
        if completion is not None:
            self._thread.submit(completion, None)

    def join(
        self,
        meeting_url: str,
        meeting_token: str | None = None,
        client_settings: Mapping[str, Any] | None = None,
        completion: Callable[[Mapping[str, Any] | None, str | None], None] | None = None,
    ) -> None:
        """Join, and have the guest join as well."""
        self._room = meeting_url.rpartition("/")[2]
        self._heard.clear()
        again = meeting_url in self._rooms
        self._rooms.add(meeting_url)
        if self._room.startswith("closed") or (again and self._room.startswith("once")):
            self._tell(refused=meeting_url, token=meeting_token)
            self._thread.submit(self._refused, completion)
            return
        self._tell(joined=meeting_url, token=meeting_token, inputs=dict(client_settings or {}).get("inputs"))
        self._thread.submit(self._joined, completion)

    def leave(self, completion: Callable[[str | None], None] | None = None) -> None:
        """Leave."""
        self._tell(left=BOT_ID)
        self._thread.submit(self._gone, completion)

    def start_dialout(
        self, settings: Mapping[str, Any], completion: Callable[[str, str | None], None] | None = None
    ) -> None:
        """Call a phone."""
        self._tell(dialled=dict(settings))
        self._thread.submit(self._ring, dict(settings), completion)

    def stop_dialout(self, participant_id: str, completion: Callable[[str | None], None] | None = None) -> None:
        """Hang up."""
        self._tell(hung_up=participant_id)
        self._thread.submit(self._leaves, participant_id)
        if completion is not None:
            self._thread.submit(completion, None)

    def update_remote_participants(
        self, remote_participants: Mapping[str, Any], completion: Callable[[str | None], None] | None = None
    ) -> None:
        """Say who hears whom."""
        for who, update in remote_participants.items():
            by = update["permissions"]["canReceive"]["byParticipantId"]
            self._deaf[who] = {other for other, hears in by.items() if not hears}
        self._tell(deaf={who: sorted(others) for who, others in self._deaf.items()})
        if completion is not None:
            self._thread.submit(completion, None)

    def hear(self, pcm: bytes, rate: int) -> None:
        """Have whoever may hear PCM of the bot's."""
        self._rate = rate
        loud = int((np.abs(np.frombuffer(pcm, dtype=np.int16).astype(np.int32)) > _LOUD).sum())
        for who in [who for who in self._here if BOT_ID not in self._deaf.get(who, ())]:
            self._heard[who] = self._heard.get(who, 0) + loud
            leaves = self._called.get(who) == "hangs up" or not (self.patient or self._room.startswith(_PATIENT))
            if self._heard[who] >= ENOUGH_S * rate and leaves:
                self._thread.submit(self._leaves, who)

    def _joined(self, completion: Callable[[Mapping[str, Any] | None, str | None], None] | None) -> None:
        self._handler.on_call_state_updated("joined")
        if completion is not None:
            local = {"id": BOT_ID, "info": {"isLocal": True}}
            completion({"participants": {"local": local}, "meetingSession": {"id": "m-1"}}, None)
        if self.guest and not self._room.startswith("empty"):
            self._comes(GUEST)

    def _comes(self, participant: Mapping[str, Any]) -> None:
        self._here[participant["id"]] = participant
        self._handler.on_participant_joined(participant)

    def _leaves(self, who: str) -> None:
        participant = self._here.pop(who, None)
        if participant is None:
            return
        self._tell(left=who, heard_s=self._heard.get(who, 0) / self._rate)
        if who in self._called:
            self._handler.on_dialout_stopped({"sessionId": who})
        self._handler.on_participant_left(participant, "leftCall")

    def _ring(self, settings: dict[str, Any], completion: Callable[[str, str | None], None] | None) -> None:
        number = settings.get("phoneNumber") or settings["sipUri"]
        who = f"call-{len(self._called) + 1}"
        does = self._called[who] = self.phones[number]
        if completion is not None:
            completion(who, None)
        self._handler.on_dialout_connected({"sessionId": who})
        info = {"userName": number, "userId": settings.get("userId"), "isLocal": False, "isOwner": False}
        self._comes({"id": who, "info": info})
        if does == "busy":
            self._handler.on_dialout_error({"sessionId": who, "errorMsg": "486 Busy Here"})
            self._leaves(who)
        elif does != "silent":
            self._handler.on_dialout_answered({"sessionId": who})

    def _refused(self, completion: Callable[[Mapping[str, Any] | None, str | None], None] | None) -> None:
        self._handler.on_call_state_updated("joining")
        if completion is not None:
            completion(None, "the room is closed")
        self._handler.on_call_state_updated("left")

    def _gone(self, completion: Callable[[str | None], None] | None) -> None:
        self._tell(stay={who: self._heard.get(who, 0) / self._rate for who in self._here})
        self._here.clear()
        # Which of the two comes first isn't known of Daily's.
        if completion is not None:
            completion(None)
        self._handler.on_call_state_updated("left")

    def _tell(self, **what: Any) -> None:
        with self.told.open("a") as file:
            print(json.dumps(what), file=file)


class CustomAudioSource:
    """The virtual microphone: takes as long as what it is given."""

    def __init__(self, sample_rate: int, channels: int, auto_silence: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 Daily's own
        self._rate, self._channels = sample_rate, channels
        self._thread = ThreadPoolExecutor(1)

    def write_frames(self, frames: bytes, completion: Callable[[int], None] | None = None) -> int:
        """Play PCM of 16 bit to the room."""
        self._thread.submit(self._play, frames, completion)
        return 0

    def _play(self, frames: bytes, completion: Callable[[int], None] | None) -> None:
        count = len(frames) // 2 // self._channels
        time.sleep(count / self._rate)
        if CallClient.microphone is not None:
            CallClient.microphone.hear(frames, self._rate)
        if completion is not None:
            completion(count)


class CustomAudioTrack:
    """What the client is told of a microphone."""

    def __init__(self, audio_source: CustomAudioSource) -> None:
        self.id = f"track-{id(audio_source)}"


FAKES: Final = (CallClient, CustomAudioSource, CustomAudioTrack)


def install(told: Path, *, guest: bool = True, patient: bool = False, phones: Mapping[str, str] | None = None) -> None:
    """Put the room in the place of Daily's in this process.

    Args:
        told: what happens in it is written to this file.
        guest: whether one comes by himself.
        patient: whether he, and who is called, stay however much they have heard.
        phones: what those do that can be called.
    """
    import daily  # noqa: PLC0415 only in processes that are in a room
    from pipecat.transports.daily import transport  # noqa: PLC0415

    CallClient.told = told
    CallClient.guest, CallClient.patient, CallClient.phones = guest, patient, phones or {}
    for module in (daily, transport):
        for fake in FAKES:
            setattr(module, fake.__name__, fake)


def read(told: Path) -> list[dict[str, Any]]:
    """Return what has happened so far."""
    return [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []


def main() -> None:
    """Run a bot's program with this room."""
    _, told, bot, *rest = sys.argv
    install(Path(told))
    sys.argv = [bot, *rest]
    runpy.run_path(bot, run_name="__main__")


if __name__ == "__main__":
    main()
