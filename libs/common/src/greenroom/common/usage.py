"""What usage is counted in: the units of `usage` and `prices`, which docs/usage.md explains."""

from typing import Final, Literal, get_args

type Unit = Literal[
    "session_s", "stt_s", "llm_in", "llm_cached", "llm_cache_write", "llm_out", "tts_chars", "carrier_min"
]
UNITS: Final[tuple[str, ...]] = get_args(Unit.__value__)
