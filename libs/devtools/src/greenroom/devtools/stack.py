"""A whole Greenroom on this machine: embedded parts where none are named, and the four services.

`greenroom up` runs one for a person, the end-to-end tests run one for themselves.
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from greenroom.common import topology_admin
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools import growing, keys
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.devtools.otlp import OtlpReceiver, TraceStore
from greenroom.devtools.process import OnLine, ServiceProcess, free_port
from greenroom.devtools.state import UpState
from greenroom.recorder.migrate import migrate

# The order in which they start: who is listened to first. They stop in the opposite order.
SERVICES: Final = ("recorder", "scheduler", "runner", "api")
# The runner imports Pipecat and rehearses a turn before it is ready: 3 s on an idle machine, more on a busy one.
_READY_TIMEOUT_S: Final = 90.0
# All services stop within this together; Ctrl-C is to take less than 5 s.
_STOP_TIMEOUT_S: Final = 3.5
_CONNECT_TIMEOUT_S: Final = 10.0

type OnStep = Callable[[str], None]


class Stack:
    """Everything that runs.

    Args:
        folder: the state folder (`.greenroom`); what is in it survives from one run to the next.
        env: settings for the services, over those of the environment; `NATS_URL`, `DATABASE_URL` and
            `OTEL_EXPORTER_OTLP_ENDPOINT` name parts that are already there. With `GREENROOM_LAUNCHER=process` the
            fleet grows to three runners where one isn't enough.
        on_line: called with a service's name and each line it prints.
        on_step: called with a few words when something is begun that may take over a second.
        api_port: preferred port of the API; another free one is taken when it isn't free.
        without: services that aren't to be started.
    """

    def __init__(
        self,
        folder: Path,
        *,
        env: Mapping[str, str],
        on_line: OnLine,
        on_step: OnStep = lambda _: None,
        api_port: int = 0,
        without: Sequence[str] = (),
    ) -> None:
        self.folder: Final = folder
        self.services: dict[str, ServiceProcess] = {}
        self.nats: EmbeddedNats | None = None
        self.postgres: EmbeddedPostgres | None = None
        self.nats_url = env.get("NATS_URL", "")
        self.database_url = env.get("DATABASE_URL", "")
        self.otlp_url = env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
        self.api_url = f"http://127.0.0.1:{free_port(api_port)}"
        self.api_key = ""
        self._env = dict(env)
        self._on_line = on_line
        self._on_step = on_step
        self._started = [name for name in SERVICES if name not in without]
        self._receiver: OtlpReceiver | None = None
        self._grows = env.get(growing.LAUNCHER) == "process"

    @property
    def recordings_dir(self) -> Path:
        """Where recordings are kept."""
        return Path(self._env.get("GREENROOM_RECORDINGS_DIR") or self.folder / "recordings")

    @property
    def reports_dir(self) -> Path:
        """Where runners keep what they have still to publish, unless the environment says otherwise."""
        return self.folder / "reports"

    @property
    def launched_dir(self) -> Path:
        """Where the scheduler keeps what it knows of the runners that it launched, and their logs."""
        return Path(self._env.get(growing.FOLDER) or self.folder / "launched")

    @property
    def traces_dir(self) -> Path:
        """Where traces are kept when no collector is named."""
        return self.folder / "traces"

    def state(self) -> UpState:
        """Return what other commands need to know."""
        return UpState(
            pid=os.getpid(),
            api_url=self.api_url,
            api_key=self.api_key,
            nats_url=self.nats_url,
            database_url=self.database_url,
            otlp_url=self.otlp_url,
            recordings_dir=str(self.recordings_dir),
            traces_dir=str(self.traces_dir),
            health={name: service.health_url for name, service in self.services.items()},
        )

    async def start(self) -> None:
        """Start everything and wait until it is ready.

        Raises:
            GreenroomError: a part can't be had or a service doesn't get ready; what was started is stopped again.
        """
        try:
            await self._start_parts()
            for name in self._started:
                await self.start_service(name)
            self._on_step("waiting for the services (the runner loads Pipecat and its models)")
            async with asyncio.TaskGroup() as tasks:
                for service in self.services.values():
                    tasks.create_task(service.wait_ready(_READY_TIMEOUT_S))
        except BaseException:
            await self.stop()
            raise

    async def start_service(self, name: str) -> ServiceProcess:
        """Start one service (again)."""
        service = ServiceProcess(name, self._service_env(), self._on_line)
        self.services[name] = service
        await service.start()
        return service

    async def stop(self) -> None:
        """Stop everything in order: calls are ended, what they published is kept, then the parts go."""
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        running = [self.services[name] for name in reversed(SERVICES) if name in self.services]
        # The recorder goes last: it keeps what the others say while they stop.
        await asyncio.gather(*(s.stop(_STOP_TIMEOUT_S - 1) for s in running if s.name != "recorder"))
        if self._grows:
            await growing.end_launched(self.launched_dir, timeout_s=max(deadline - time.monotonic(), 1))
        await asyncio.gather(*(s.stop(max(deadline - time.monotonic(), 1)) for s in running if s.name == "recorder"))
        if self._receiver is not None:
            await self._receiver.stop()
        for part in (self.nats, self.postgres):
            if part is not None:
                with contextlib.suppress(OSError):
                    await part.stop()

    async def kill(self) -> None:
        """End everything at once."""
        for service in self.services.values():
            await service.stop(0)
        if self._grows:
            await growing.end_launched(self.launched_dir, timeout_s=0)
        for part in (self.nats, self.postgres):
            if part is not None:
                await part.kill()

    async def _start_parts(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.nats_url:
            self._on_step("starting NATS")
            self.nats = EmbeddedNats(self.folder / "nats")
            await self.nats.start()
            self.nats_url = self.nats.url
        if not self.database_url:
            self._on_step("starting PostgreSQL")
            self.postgres = EmbeddedPostgres(self.folder / "postgres")
            await self.postgres.start()
            self.database_url = self.postgres.dsn
        if not self.otlp_url:
            self._receiver = OtlpReceiver(TraceStore(self.traces_dir))
            await self._receiver.start()
            self.otlp_url = self._receiver.url
        broker = await NatsBroker.connect(self.nats_url, name="greenroom up", timeout_s=_CONNECT_TIMEOUT_S)
        try:
            await topology_admin.apply(broker)
        finally:
            await broker.close()
        await migrate(self.database_url)
        if self._grows:
            await growing.seed_policy(self.database_url, slots=growing.slots_of(self._env))
        self.api_key = self._development_key()
        await keys.ensure(self.database_url, self.api_key, tenant="default", name="development")

    def _development_key(self) -> str:
        path = self.folder / "dev-key"
        if not path.exists():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 - a mode
                file.write("gr_dev_" + secrets.token_urlsafe(24))
        return path.read_text().strip()

    def _service_env(self) -> dict[str, str]:
        port = self.api_url.rsplit(":", 1)[1]
        return {
            "GREENROOM_LOG_FORMAT": "console",
            # Whoever stops a development stack doesn't wait for calls to come to their own end.
            "GREENROOM_DRAIN_TIMEOUT_S": "2",
            # A bot that is tried out beside a compiler is begun all the same.
            "GREENROOM_BRAKE_CPU_PRESSURE_PERCENT": "0",
            # The keys of whoever tries a bot out are in his shell, under their own names.
            "GREENROOM_SECRETS_PLAIN": "true",
            # What a runner that is killed has still to publish is published when the next one starts.
            "GREENROOM_REPORTS_DIR": str(self.reports_dir.absolute()),
            **self._env,
            "NATS_URL": self.nats_url,
            "DATABASE_URL": self.database_url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_url,
            "GREENROOM_API_HOST": "127.0.0.1",
            "GREENROOM_API_PORT": port,
            "GREENROOM_PUBLIC_URL": self.api_url,
            "GREENROOM_RECORDINGS_DIR": str(self.recordings_dir),
            growing.FOLDER: str(self.launched_dir),
        }
