"""A room at Daily with one guest, without Daily: a fake of its client library, since its servers can't be had.

It stands in for what Pipecat's transport uses of `daily`: the client of a call and the virtual microphone; threads,
event handlers and all of Pipecat's own are the real ones. The guest comes when the bot has joined, hears what the
microphone is given, and leaves when it has heard enough. A room whose name begins with `patient` has one who stays, one
that begins with `empty` has none, one that begins with `closed` doesn't let the bot in, and one that begins with `once`
doesn't a second time. What happened is written to a file, a JSON document a line.

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
_LOUD: Final = 500


class CallClient:
    """See Daily's own. What it calls comes from a thread, as there."""

    told: ClassVar[Path]
    microphone: ClassVar["CallClient | None"] = None

    def __init__(self, event_handler: Any = None) -> None:
        self._handler = event_handler
        self._thread = ThreadPoolExecutor(1)
        self._loud = 0
        self._left = False
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
        self._room, self._loud, self._left = meeting_url.rpartition("/")[2], 0, False
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

    def hear(self, pcm: bytes, rate: int) -> None:
        """Have the guest hear PCM."""
        self._loud += int((np.abs(np.frombuffer(pcm, dtype=np.int16).astype(np.int32)) > _LOUD).sum())
        if self._loud >= ENOUGH_S * rate and not self._left:
            if self._room.startswith(("patient", "empty", "once")):
                return
            self._left = True
            self._tell(left=GUEST["id"], heard_s=self._loud / rate)
            self._thread.submit(self._handler.on_participant_left, GUEST, "leftCall")

    def _joined(self, completion: Callable[[Mapping[str, Any] | None, str | None], None] | None) -> None:
        self._handler.on_call_state_updated("joined")
        if completion is not None:
            local = {"id": BOT_ID, "info": {"isLocal": True}}
            completion({"participants": {"local": local}, "meetingSession": {"id": "m-1"}}, None)
        if not self._room.startswith("empty"):
            self._handler.on_participant_joined(GUEST)

    def _refused(self, completion: Callable[[Mapping[str, Any] | None, str | None], None] | None) -> None:
        self._handler.on_call_state_updated("joining")
        if completion is not None:
            completion(None, "the room is closed")
        self._handler.on_call_state_updated("left")

    def _gone(self, completion: Callable[[str | None], None] | None) -> None:
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


def install(told: Path) -> None:
    """Put the room in the place of Daily's in this process; what happens in it is written to `told`."""
    import daily  # noqa: PLC0415 only in processes that are in a room
    from pipecat.transports.daily import transport  # noqa: PLC0415

    CallClient.told = told
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
