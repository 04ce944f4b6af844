"""When a bot says something by itself."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.conversation import Conversation, Cue, Timing


def _cues(conversation: Conversation, until: float) -> list[tuple[float, Cue]]:
    """Ask as one who asks when he was told to, until `until`."""
    found: list[tuple[float, Cue]] = []
    while (at := conversation.due()) <= until:
        cue = conversation.look(at)
        assert cue is not None
        found.append((at, cue))
    return found


@pytest.mark.parametrize(("people", "grace_s"), [(1, 1.0), (2, 3.0), (3, 5.0), (9, 5.0)])
def test_the_more_there_are_the_longer_others_are_waited_for(people: int, grace_s: float) -> None:
    """Counted from the first one, and greeted once."""
    conversation = Conversation(Timing(idle_times=0, wrap_up_after_s=0))
    for number in range(people):
        conversation.arrived(f"p{number}", 10.0 + number / 100)
    assert _cues(conversation, 1e6) == [(10.0 + grace_s, Cue.GREET)]


def test_nobody_is_greeted_who_has_left_or_spoken() -> None:
    """Who comes back is; who speaks first is answered instead."""
    conversation = Conversation(Timing(idle_times=0, wrap_up_after_s=0))
    conversation.arrived("p", 0.0)
    conversation.left("p", 0.5)
    assert conversation.due() == math.inf
    conversation.arrived("p", 60.0)
    assert conversation.due() == 61.0
    conversation.user_speaks(60.5, begins=True)
    conversation.user_speaks(62.0, begins=False)
    assert conversation.due() == math.inf


def test_silence_is_broken_twice() -> None:
    """And again once the user has spoken; the bot's own words begin the silence anew, but not the count."""
    conversation = Conversation(Timing(idle_after_s=15, idle_again_s=20, wrap_up_after_s=0))
    conversation.arrived("p", 0.0)
    assert _cues(conversation, 100.0) == [(1.0, Cue.GREET), (16.0, Cue.IDLE), (36.0, Cue.IDLE)]
    conversation.bot_speaks(101.0, begins=True)
    conversation.bot_speaks(103.0, begins=False)
    assert conversation.due() == math.inf
    conversation.user_speaks(200.0, begins=True)
    assert conversation.due() == math.inf, "not while he speaks"
    conversation.user_speaks(203.0, begins=False)
    assert (conversation.due(), conversation.idles) == (218.0, 0)


def test_the_end_is_come_to_after_half_an_hour() -> None:
    """Once, from the beginning of the conversation, and not into the user's words."""
    conversation = Conversation(Timing(idle_times=0))
    conversation.arrived("p", 0.0)
    assert _cues(conversation, 1800.0) == [(1.0, Cue.GREET)]
    conversation.user_speaks(1800.0, begins=True)
    assert _cues(conversation, 1900.0) == []
    conversation.user_speaks(1900.0, begins=False)
    assert _cues(conversation, 1e6) == [(1900.75, Cue.WRAP_UP)]


_STEP = st.tuples(
    st.sampled_from(["arrive", "leave", "user", "user done", "bot", "bot done", "nothing"]),
    st.sampled_from("abcd"),
    st.floats(0, 40),
)
_TIMING = st.builds(
    Timing,
    greet_after_s=st.tuples(st.floats(0, 2), st.floats(2, 4), st.floats(4, 9)),
    speak_after_s=st.floats(0, 3),
    idle_after_s=st.floats(1, 30),
    idle_again_s=st.floats(1, 30),
    idle_times=st.integers(0, 3),
    wrap_up_after_s=st.one_of(st.just(0.0), st.floats(1, 100)),
)


@given(timing=_TIMING, steps=st.lists(_STEP, max_size=60))
def test_whatever_happens_the_bot_is_polite(timing: Timing, steps: list[tuple[str, str, float]]) -> None:
    """It greets and wraps up once, speaks to somebody, into nobody's words, and isn't asked for nothing."""
    conversation, now = Conversation(timing), 0.0
    present, speaking = set[str](), set[str]()
    user_spoke_at, idles, given_cues = -math.inf, 0, list[Cue]()
    for what, who, for_s in steps:
        match what:
            case "arrive":
                conversation.arrived(who, now)
                idles = idles if present else 0
                present.add(who)
            case "leave":
                conversation.left(who, now)
                present.discard(who)
                if not present and "user" in speaking:
                    speaking.discard("user")
                    user_spoke_at, idles = now, 0
            case "user" | "user done":
                conversation.user_speaks(now, begins=what == "user")
                (speaking.add if what == "user" else speaking.discard)("user")
                user_spoke_at, idles = user_spoke_at if what == "user" else now, 0
            case "bot" | "bot done":
                conversation.bot_speaks(now, begins=what == "bot")
                (speaking.add if what == "bot" else speaking.discard)("bot")
            case _:
                pass
        until = now + for_s
        while (at := conversation.due()) <= until:
            now = max(now, at)
            cue = conversation.look(now)
            assert cue is not None
            assert present
            assert not speaking
            assert now >= user_spoke_at + timing.speak_after_s
            given_cues.append(cue)
            idles += cue is Cue.IDLE
            assert idles == conversation.idles <= timing.idle_times
        assert conversation.look(until) is None
        now = until
    assert given_cues.count(Cue.GREET) <= 1
    assert given_cues.count(Cue.WRAP_UP) <= (timing.wrap_up_after_s > 0)
