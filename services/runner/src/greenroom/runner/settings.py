"""What the runner can be told from the environment."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import msgspec

from greenroom.common.settings import Env, ServiceSettings
from greenroom.runner import botfiles, watchdog
from greenroom.runner.brake import Thresholds
from greenroom.runner.claim import Claim
from greenroom.runner.host import Host
from greenroom.runner.isolation.confinement import Bounds
from greenroom.runner.isolation.groups import Allowance
from greenroom.runner.rtc import Network
from greenroom.runner.sizing import MOST_SLOTS

# 24 sessions hold per processor (48 on two, `make bench only=density`) with stub providers; real bots do more per frame
# than a stub, so until it is measured what they cost half of that is taken.
_SLOTS_PER_CPU: Final = 12
# More idle processes than this only cost memory: one is forked in 20 ms while the next call is on its way.
_DEFAULT_STANDBY: Final = 4
_MAX_ID: Final = 128
_MB: Final = 1024 * 1024
# So much of the digest of a name that is too long for an id tells it from others with the same beginning.
_DIGEST: Final = 16
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NOT_TOKEN: Final = re.compile(r"[^A-Za-z0-9_-]")
# Values are version numbers, models of processors and the like: dots and a few more, no spaces, no separators.
_LABEL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,62}=[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,127}")
_INSTANCE: Final = re.compile(r"[!-~]{0,256}")
_VERSION: Final = re.compile(r"(?:([A-Za-z0-9_-]{1,128})=)?([1-9][0-9]{0,8})")


def default_slots() -> int:
    """Return how many sessions this host takes until it is measured what they cost: 12 a processor it may use."""
    return max(int(_SLOTS_PER_CPU * Host().processors()), 1)


class RunnerSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of a runner. One with a claim has one slot and no process in waiting, whatever it is told."""

    pool: Annotated[str, Env(help="Pool that the runner belongs to")] = "default"
    slots: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=MOST_SLOTS)] | Literal["auto"],
        Env(help="Sessions at once; auto: as many as fit by what they are measured to cost, 12 a processor until then"),
    ] = "auto"
    standby: Annotated[
        int, msgspec.Meta(ge=0, le=64), Env(help="Warm processes that wait for a session; never more than slots")
    ] = _DEFAULT_STANDBY
    standby_max_age_s: Annotated[
        float, msgspec.Meta(ge=0), Env(help="How long a warm process waits before it is replaced; 0: for ever")
    ] = 1800.0
    bots: Annotated[
        tuple[str, ...],
        Env(
            help="Bots beside the installed ones: path/to/bot.py, name=path/to/bot.py, name=module:function; "
            "several versions of one as name@1=path/one.py, name@2=path/two.py"
        ),
    ] = ()
    bot_version: Annotated[
        tuple[str, ...],
        Env(
            help="Version of the agents that the runner runs, from 1; for single bots as name=version beside it. "
            "What GREENROOM_BOTS says of a bot comes first"
        ),
    ] = ()
    labels: Annotated[
        tuple[str, ...], Env(help="What sessions may require or prefer, as name=value: gpu=l4,region=eu")
    ] = ()
    instance: Annotated[
        str, Env(help="What the launcher knows the runner by: its allocation or process; empty: started by hand")
    ] = ""
    ordinal: Annotated[
        int | None, Env(help="Number of the runner in its group, from 0; a group shrinks from the highest")
    ] = None
    claim: Annotated[
        str, Env(help="The one session to run, as TENANT/SESSION_ID/EPOCH, then exit; set by the launcher (--claim)")
    ] = ""
    claim_timeout_s: Annotated[
        float,
        msgspec.Meta(gt=0, le=3600),
        Env(help="How long a runner with a claim tries to read its lease, which then says how long it holds"),
    ] = 90.0
    input_chunk_ms: Annotated[
        int,
        msgspec.Meta(ge=0, le=200),
        Env(
            help="Audio from users reaches pipelines in pieces of this length; 0: as it comes, which costs more. "
            "A bot's INPUT_CHUNK_MS comes first"
        ),
    ] = 60
    vad_skips_quiet: Annotated[
        bool,
        Env(help="Silero isn't asked about audio too quiet to count as a voice (min_volume of the bot); false: it is"),
    ] = True
    turn_detectors: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=64)] | None,
        Env(
            help="Processes in which Smart Turn judges the turns of all sessions; empty: one for four processors, "
            "0: each session's own process does"
        ),
    ] = None
    turn_detection_ahead: Annotated[
        bool,
        Env(help="Smart Turn judges a turn when its end is probable, 0.1 s before Silero is sure; false: then"),
    ] = True
    warmup_timeout_s: Annotated[
        float, msgspec.Meta(gt=0, le=600), Env(help="How long importing, warming and rehearsing one bot may take")
    ] = 60.0
    brake: Annotated[
        bool, Env(help="Ask for no sessions while the host is overloaded; false: never, and refuse none for it")
    ] = True
    brake_loop_lag_ms: Annotated[
        float,
        msgspec.Meta(ge=0),
        Env(help="Lateness of the runner's event loop, for 3 s, from which it brakes; 0: not looked at"),
    ] = 100.0
    brake_cpu_pressure_percent: Annotated[
        float,
        msgspec.Meta(ge=0, le=100),
        Env(help="Share of time that work waits for a processor (PSI), for 3 s; 0: not looked at", unit="percent"),
    ] = 98.0
    brake_throttled_percent: Annotated[
        float,
        msgspec.Meta(ge=0, le=100),
        Env(
            help="Share of periods in which the control group's quota was used up, for 3 s; 0: not looked at",
            unit="percent",
        ),
    ] = 10.0
    brake_memory_percent: Annotated[
        float,
        msgspec.Meta(ge=0, le=100),
        Env(help="Available memory below which it brakes; 0: not looked at", unit="percent"),
    ] = 5.0
    refuse_memory_percent: Annotated[
        float,
        msgspec.Meta(ge=0, le=100),
        Env(help="Available memory below which starts are refused; 0: never", unit="percent"),
    ] = 2.0
    unresponsive_s: Annotated[
        float,
        msgspec.Meta(ge=0),
        Env(help="How long the event loop of a session may be blocked before it is killed, stacks kept; 0: for ever"),
    ] = 20.0
    memory_warn_mb: Annotated[
        int, msgspec.Meta(ge=0), Env(help="Memory of a session's own from which on an event tells of it; 0: never")
    ] = 512
    memory_kill_mb: Annotated[
        int, msgspec.Meta(ge=0), Env(help="Memory of a session's own from which on it is ended; 0: never")
    ] = 896
    session_env: Annotated[
        tuple[str, ...],
        Env(help="Variables of the runner that sessions may see too, by name; secrets are named by the bots instead"),
    ] = ()
    secrets_dir: Annotated[
        str,
        Env(help="Directory with the secrets of bots: a file each, or lines NAME=value in files *.env"),
    ] = ""
    secrets_plain: Annotated[
        bool, Env(help="Take secrets of bots from variables of their own names too, not only GREENROOM_SECRET_…")
    ] = False
    reports_dir: Annotated[
        str,
        Env(
            help="Directory that outlives the runner, where what is still to be published is kept for the next one; "
            "empty: in memory only"
        ),
    ] = ""
    hidden: Annotated[
        tuple[str, ...],
        Env(
            help="Files and directories that sessions can't read, beside the directory of secrets; nor can they what "
            "is made later right beside one of these, or beside a directory that one of these is in"
        ),
    ] = ()
    nats_issuer_seed: Annotated[
        str,
        Env(
            help="Seed of the account nkey (SA…) that signs a login for each session; empty: sessions use the runner's",
            secret=True,
        ),
    ] = ""
    control_groups: Annotated[
        str,
        Env(help="Control group (v2) to divide among sessions: auto (the runner's own), off, or its path"),
    ] = "auto"
    session_memory_mb: Annotated[
        int,
        msgspec.Meta(ge=0),
        Env(help="Memory of a session's control group, without what all share; 0: no limit"),
    ] = 1024
    session_cpu_weight: Annotated[
        int, msgspec.Meta(ge=1, le=10_000), Env(help="Share of the processors that a session's control group has")
    ] = 100
    session_processes: Annotated[
        int,
        msgspec.Meta(ge=0),
        Env(
            help="Processes and threads from which on a session is killed at the runner's next look, each second; its "
            "control group has no more; 0: no limit"
        ),
    ] = 512
    session_files: Annotated[
        int, msgspec.Meta(ge=0, le=1_048_576), Env(help="File descriptors of a session process; 0: no limit")
    ] = 1024
    session_file_mb: Annotated[
        int, msgspec.Meta(ge=0), Env(help="Size of a file that a session process may write; 0: no limit")
    ] = 1024
    user_processes: Annotated[
        int,
        msgspec.Meta(ge=0),
        Env(
            help="Processes and threads of the runner's user, all sessions together, where there are no control "
            "groups (RLIMIT_NPROC: counts the whole host, exempts root); 0: no limit"
        ),
    ] = 0
    rtc_addresses: Annotated[
        tuple[str, ...],
        Env(help="Addresses of this host that WebRTC calls are taken on; empty: all but loopback and link-local ones"),
    ] = ()
    rtc_ports: Annotated[
        str, Env(help="UDP ports of WebRTC calls, as FIRST-LAST, one per call and address; empty: any")
    ] = ""
    rtc_advertised_address: Annotated[
        str, Env(help="IP address that WebRTC clients are told instead of this host's own, where that is behind NAT")
    ] = ""
    drain_timeout_s: Annotated[
        float,
        msgspec.Meta(ge=0),
        Env(help="How long the calls of a stopping runner may go on; Nomad's kill_timeout must be longer"),
    ] = 3600.0

    def __post_init__(self) -> None:
        """Check what the types don't say.

        Raises:
            ValueError: the pool can't be part of a subject, or a bot, version, label, claim, address or range of
                ports isn't written as it should be.
        """
        if not _TOKEN.fullmatch(self.pool):
            raise ValueError(f"GREENROOM_POOL is {self.pool!r}: letters, digits, _ and - only, {_MAX_ID} at most")
        if self.ordinal is not None and self.ordinal < 0:
            raise ValueError(f"GREENROOM_ORDINAL is {self.ordinal}, which must be >= 0")
        if not _INSTANCE.fullmatch(self.instance):
            raise ValueError(f"GREENROOM_INSTANCE is {self.instance!r}: 256 printable characters without spaces")
        for bot in self.bots:
            try:
                botfiles.parse(bot)
            except ValueError as error:
                raise ValueError(f"GREENROOM_BOTS has {error}") from error
        _check("GREENROOM_BOT_VERSION", self.bot_version, _VERSION, "a whole number from 1, or name=number")
        _check("GREENROOM_LABELS", self.labels, _LABEL, "name=value; letters, digits and _ . - in both")
        _check_once("GREENROOM_BOT_VERSION", self.bot_version)
        _check_once("GREENROOM_LABELS", self.labels)
        Network.parse(self.rtc_addresses, self.rtc_ports, self.rtc_advertised_address)
        if self.claim:
            try:
                Claim.parse(self.claim)
            except ValueError as error:
                raise ValueError(f"GREENROOM_CLAIM is wrong: {error}") from error
            msgspec.structs.force_setattr(self, "slots", 1)
            # The process is forked for the session, which is known by then: one in waiting would only be a detour.
            msgspec.structs.force_setattr(self, "standby", 0)

    @property
    def claimed(self) -> Claim | None:
        """The one session that the runner was launched for; None: it takes what it is given."""
        return Claim.parse(self.claim) if self.claim else None

    @property
    def runner_id(self) -> str:
        """The instance id as part of a subject: the dots of a host name become dashes."""
        if self.claimed is not None:
            return self.claimed.runner_id
        token = _NOT_TOKEN.sub("-", self.instance_id)
        if len(token) <= _MAX_ID:
            return token
        # What tells two long names apart is often at their end.
        digest = hashlib.sha256(self.instance_id.encode()).hexdigest()[:_DIGEST]
        return f"{token[: _MAX_ID - _DIGEST - 1]}-{digest}"

    @property
    def standby_target(self) -> int:
        """How many warm processes are kept waiting, as long as there are slots for them."""
        return min(self.most_slots, self.standby)

    @property
    def most_slots(self) -> int:
        """How many sessions there are never more than."""
        return MOST_SLOTS if self.slots == "auto" else self.slots

    @property
    def network(self) -> Network:
        """Where session processes take calls that come straight to them."""
        return Network.parse(self.rtc_addresses, self.rtc_ports, self.rtc_advertised_address)

    @property
    def label_values(self) -> dict[str, str]:
        """The labels by name."""
        return {name: value for name, _, value in (label.partition("=") for label in self.labels)}

    @property
    def bounds(self) -> Bounds:
        """What every session process is held to."""
        return Bounds(
            files=self.session_files,
            file_mb=self.session_file_mb,
            user_processes=self.user_processes,
            hidden=(*((self.secrets_dir,) if self.secrets_dir else ()), *self.hidden),
        )

    def for_sessions(self, nats_url: str) -> Self:
        """Return the settings with another login at the broker, and without what makes logins."""
        return msgspec.structs.replace(self, nats_url=nats_url, nats_issuer_seed="")

    @property
    def secrets_folder(self) -> Path | None:
        """Where the secrets of bots are."""
        return Path(self.secrets_dir) if self.secrets_dir else None

    @property
    def reports_folder(self) -> Path | None:
        """Where what is still to be published is kept."""
        return Path(self.reports_dir) if self.reports_dir else None

    @property
    def allowance(self) -> Allowance:
        """What the control group of each session allows."""
        return Allowance(
            memory_mb=self.session_memory_mb, cpu_weight=self.session_cpu_weight, processes=self.session_processes
        )

    def version_of(self, bot: str) -> int:
        """Return the version of the agents of `bot` that this runner runs, where the bot says none itself."""
        versions = {name: int(number) for name, _, number in (each.rpartition("=") for each in self.bot_version)}
        return versions.get(bot, versions.get("", 1))

    @property
    def watchdog_bounds(self) -> watchdog.Bounds:
        """What the process of a session may do before it is ended."""
        return watchdog.Bounds(
            unresponsive_s=self.unresponsive_s,
            memory_warn=self.memory_warn_mb * _MB,
            memory_kill=self.memory_kill_mb * _MB,
            processes=self.session_processes,
        )

    @property
    def thresholds(self) -> Thresholds:
        """From where on the runner brakes, and refuses."""
        if not self.brake:
            return Thresholds()
        return Thresholds(
            loop_lag_ms=self.brake_loop_lag_ms,
            cpu_pressure_percent=self.brake_cpu_pressure_percent,
            throttled_percent=self.brake_throttled_percent,
            memory_percent=self.brake_memory_percent,
            refuse_memory_percent=self.refuse_memory_percent,
        )


def _check(variable: str, items: tuple[str, ...], form: re.Pattern[str], expected: str) -> None:
    for item in items:
        if not form.fullmatch(item):
            raise ValueError(f"{variable} has {item!r} (expected: {expected})")


def _check_once(variable: str, items: tuple[str, ...]) -> None:
    names = [item.partition("=")[0] if "=" in item else "" for item in items]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{variable} says twice what {name or 'the version'} is")
