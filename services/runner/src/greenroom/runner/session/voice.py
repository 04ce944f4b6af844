"""Silero looks for a voice on the event loop, and not at all in what is too quiet to count as one.

Pipecat hands each piece of audio to a thread, as it does with larger models. Silero takes 0.07 ms for 32 ms of audio:
the way to the thread and back costs several times as much of the processor, and a thread for each session. And it is
asked about everything, although a voice counts from a volume on only (`VADParams.min_volume`); most of a call is below
that, on each side's turn of the other. See `quiet`.
"""

from typing import Any, Final, cast

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADState

from greenroom.runner.session.quiet import QuietGate

_DONE: Final = "_greenroom_inline"
_GATE: Final = "_greenroom_gate"
_WIDTH: Final = 2


def look_for_voices_inline(*, skip_quiet: bool = True) -> None:
    """Have all of Silero's analyzers in this process work where they are called; a conformance test pins how.

    Args:
        skip_quiet: whether they leave out what is too quiet to count as a voice.
    """
    owner: Any = SileroVADAnalyzer
    if vars(owner).get(_DONE) == skip_quiet:
        return

    async def analyze_audio(self: Any, buffer: bytes) -> VADState:
        due = _due(self, buffer) if skip_quiet else buffer
        return self._run_analyzer(due) if due else self._vad_state

    owner.analyze_audio = analyze_audio
    setattr(owner, _DONE, skip_quiet)


def gate_of(analyzer: object) -> QuietGate | None:
    """Return what leaves out the quiet for an analyzer; None: nothing does, or nothing was heard yet."""
    return cast("QuietGate | None", vars(analyzer).get(_GATE))


def _due(analyzer: Any, buffer: bytes) -> bytes:
    gate = gate_of(analyzer)
    if gate is None or gate.rate != analyzer.sample_rate:
        gate = QuietGate(analyzer.sample_rate)
        setattr(analyzer, _GATE, gate)
    if len(buffer) % _WIDTH:
        return buffer
    idle = analyzer._vad_state is VADState.QUIET  # noqa: SLF001
    return gate.hear(buffer, analyzer.params.min_volume, analyzer._prev_volume, idle=idle)  # noqa: SLF001
