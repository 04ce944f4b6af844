"""The runner as a process: parse the settings, build the parts, run until stopped, or until its claim is served."""

import argparse
import asyncio
import functools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from greenroom.common.clock import SystemClock
from greenroom.common.ledger import Ledger
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.service import Service, run_service
from greenroom.runner.app import Runner
from greenroom.runner.claim import Claim
from greenroom.runner.coldstart import ColdStart, process_age_s
from greenroom.runner.discovery import discover, specs_of
from greenroom.runner.instruments import Instruments
from greenroom.runner.isolation import kernel
from greenroom.runner.isolation.callout import Issuer
from greenroom.runner.isolation.callout import serve as serve_callout
from greenroom.runner.isolation.environment import session_environment
from greenroom.runner.isolation.groups import open_groups
from greenroom.runner.isolation.secrets import Secrets
from greenroom.runner.settings import RunnerSettings
from greenroom.runner.supervisor import Supervisor

_log = structlog.get_logger()

# The drain ends by itself before the service would cancel it.
_MARGIN_S: Final = 0.3
_CONNECT_S: Final = 30.0
# To give a lease back that wasn't claimed.
_WITHDRAW_S: Final = 6.0


async def serve(service: Service[RunnerSettings]) -> None:
    """Build the runner and run it until it is drained."""
    settings, clock = service.settings, SystemClock()
    claim = settings.claimed
    connect_s = settings.claim_timeout_s if claim else _CONNECT_S
    broker = await NatsBroker.connect(settings.nats_url, name=f"runner {settings.runner_id}", timeout_s=connect_s)
    ledger = Ledger(broker, clock=clock)
    # Which bot a claim needs is in the ledger, which is read while the zygote imports what all of them need.
    bots = discover(settings.bots, settings.version_of) if claim is None else None
    shown = session_environment(os.environ, settings.session_env)
    groups = open_groups(settings.control_groups, settings.allowance)
    issuer = Issuer(settings.nats_issuer_seed) if settings.nats_issuer_seed else None
    theirs = settings if issuer is None else settings.for_sessions(issuer.url_for_practice(settings.nats_url))
    if issuer is not None:
        await serve_callout(broker, issuer)
    supervisor = Supervisor(theirs, bots, clock=clock, environment=shown, owns_children=True, groups=groups)
    runner = Runner(
        settings,
        broker=broker,
        ledger=ledger,
        supervisor=supervisor,
        clock=clock,
        instruments=Instruments(service.metrics),
        secrets=Secrets(os.environ, settings.secrets_folder, plain=settings.secrets_plain),
        issuer=issuer,
    )
    service.readiness.add("broker", lambda: None if broker.connected else "broker-unavailable")
    service.readiness.add("zygote", lambda: None if supervisor.available else "zygote-not-warm")
    service.readiness.add("draining", lambda: "draining" if runner.draining else None)
    if claim is not None:
        cold_start = ColdStart(
            claim,
            timeout_s=settings.claim_timeout_s,
            broker=broker,
            ledger=ledger,
            runner=runner,
            supervisor=supervisor,
            discover=lambda session: specs_of(session, discover(settings.bots, settings.version_of)),
            clock=clock,
            age_s=process_age_s(),
        )
        service.on_drain("claim", cold_start.withdraw, timeout_s=_WITHDRAW_S)
        service.spawn("claim", _serve_claim(service, cold_start))
    drain_s = settings.drain_timeout_s
    service.on_drain("sessions", lambda: runner.drain(drain_s - _MARGIN_S), timeout_s=drain_s)
    _take_signals(service, runner)
    running = service.spawn("runner", runner.run())
    service.mark_ready()
    await service.drained.wait()
    running.cancel()
    await asyncio.wait({running})
    await broker.close()


async def _serve_claim(service: Service[RunnerSettings], cold_start: ColdStart) -> None:
    service.stop(await cold_start.run())


def _take_signals(service: Service[RunnerSettings], runner: Runner) -> None:
    """First signal: drain. Second: end the sessions now. Third: leave at once, and let them end within a second."""
    signals = 0

    def take(number: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        match signals:
            case 1:
                service.stop(number.name)
            case 2:
                _log.warning("runner_hurries", cause=number.name)
                runner.end_all()
            case _:
                os._exit(128 + number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, functools.partial(take, number))


def environment(arguments: Sequence[str], env: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment as the arguments have it: `--claim` goes before `GREENROOM_CLAIM`.

    Raises:
        SystemExit: 2, with the usage on stderr.
    """
    parser = argparse.ArgumentParser(
        prog="greenroom-runner", description="Runs sessions. All settings come from the environment."
    )
    parser.add_argument(
        "--claim", type=_claim, metavar="TENANT/SESSION_ID/EPOCH", help="run this one session, leased to us, and exit"
    )
    claim: str | None = parser.parse_args(arguments).claim
    return env if claim is None else {**env, "GREENROOM_CLAIM": claim}


def _claim(text: str) -> str:
    try:
        Claim.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def main() -> None:
    """Run the runner; the exit code is the process's."""
    # What it knows (credentials, secrets of bots) isn't for the sessions, which run as the same user.
    kernel.set_dumpable(False)
    sys.exit(run_service("runner", RunnerSettings, serve, env=environment(sys.argv[1:], os.environ)))


if __name__ == "__main__":
    main()
