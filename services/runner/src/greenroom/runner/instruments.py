"""What a runner counts and measures; alerts know these names (deploy/prometheus)."""

from typing import Final

from greenroom.common.metrics import Counter, Gauge, Histogram, Metrics

_BYTES: Final = tuple(size * 1024 * 1024 for size in (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096))
# What people take for an answer, and what they take for none.
_ANSWER_S: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_LAG_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Instruments:
    """The metrics of the runner, by name."""

    def __init__(self, metrics: Metrics) -> None:
        self.starts: Final[Counter] = metrics.counter("runner_starts", "Starts that were taken.")
        self.refusals: Final[Counter] = metrics.counter(
            "runner_refusals", "Starts that were refused, by code.", ["code"]
        )
        self.ends: Final[Counter] = metrics.counter(
            "runner_session_ends", "Sessions whose process is gone, by outcome and reason.", ["outcome", "reason"]
        )
        self.start: Final[Histogram] = metrics.histogram(
            "session_start_seconds", "From the start command to `ready` in the ledger."
        )
        self.stage: Final[Histogram] = metrics.histogram(
            "session_start_stage_seconds",
            "Parts of a start: process, bot, worker, pipeline, claim (beside these), ready.",
            ["stage"],
        )
        self.end: Final[Histogram] = metrics.histogram(
            "session_end_seconds", "From the decision that a session ends to the exit of its process."
        )
        self.steps: Final[Counter] = metrics.counter("runner_end_steps", "Steps of the end ladder, by step.", ["step"])
        self.standby: Final[Gauge] = metrics.gauge("runner_standby", "Warm processes that wait for a session.")
        self.sessions: Final[Gauge] = metrics.gauge("runner_sessions", "Sessions that hold a slot.")
        self.slots: Final[Gauge] = metrics.gauge("runner_slots", "Slots, taken or free.")
        self.forks: Final[Counter] = metrics.counter("runner_forks", "Forks, by result.", ["result"])
        self.fork: Final[Histogram] = metrics.histogram(
            "runner_fork_seconds", "From the request to fork to the process's being there."
        )
        self.restarts: Final[Gauge] = metrics.gauge(
            "runner_zygote_restarts", "Zygotes that were started after the first."
        )
        self.fenced: Final[Counter] = metrics.counter(
            "runner_fenced", "Sessions that were taken away from this runner."
        )
        self.silent: Final[Counter] = metrics.counter(
            "runner_silent_sessions", "Sessions whose event loop didn't answer for some seconds."
        )
        self.loop_lag: Final[Histogram] = metrics.histogram(
            "session_loop_lag_seconds", "Worst lateness of a session's event loop in each second.", buckets=_LAG_S
        )
        self.answer: Final[Histogram] = metrics.histogram(
            "session_answer_seconds", "From the end of what a user said to the bot's first sound.", buckets=_ANSWER_S
        )
        self.first_speech: Final[Histogram] = metrics.histogram(
            "session_first_speech_seconds", "From the connection to the bot's first sound.", buckets=_ANSWER_S
        )
        self.memory: Final[Histogram] = metrics.histogram(
            "session_max_rss_bytes",
            "Largest resident size of a session process, shared pages included.",
            buckets=_BYTES,
        )
        self.peak: Final[Histogram] = metrics.histogram(
            "session_peak_memory_bytes", "Most memory of a session's control group, where it has one.", buckets=_BYTES
        )
        self.throttled: Final[Counter] = metrics.counter(
            "session_throttled_seconds", "How long control groups kept sessions that ended from the processor."
        )
        self.forks_refused: Final[Counter] = metrics.counter(
            "session_forks_refused", "Processes and threads that control groups refused to sessions that ended."
        )
        self.cpu: Final[Counter] = metrics.counter(
            "session_cpu_seconds", "Processor time of session processes that ended."
        )
