"""`greenroom fleet`: pools and runners as a table that stays on the screen."""

import asyncio
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from greenroom.devtools.client import ApiClient, ApiProblem
from greenroom.devtools.state import connection

_REFRESH_S: Final = 1.0
_FORBIDDEN: Final = "forbidden"
_STATE_COLOURS: Final = {"serving": "green", "draining": "yellow", "lost": "red"}
_PERCENT: Final = 100


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What `/v1/pools` and `/v1/runners` say; `runners` is None for keys that may not see them."""

    pools: dict[str, Any]
    runners: list[dict[str, Any]] | None


async def fleet(console: Console, *, once: bool, as_json: bool) -> None:
    """Print the fleet, again and again until Ctrl-C; once if nobody looks on."""
    async with ApiClient(connection()) as client:
        if as_json:
            while True:
                text = msgspec.json.encode(await look(client)).decode()
                console.print(text, soft_wrap=True, highlight=False, markup=False)
                if once:
                    return
                await asyncio.sleep(_REFRESH_S)
        if once or not console.is_terminal:
            console.print(shown(await look(client)))
            return
        with Live(shown(await look(client)), console=console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(_REFRESH_S)
                live.update(shown(await look(client)), refresh=True)


async def order(console: Console, runner: str, name: str, *, pool: str | None, wish: dict[str, Any]) -> None:
    """Tell a runner something, and print what it has been told."""
    path = f"/v1/runners/{quote(runner, safe='')}/{name}"
    if pool is not None:
        path += f"?{urlencode({'pool': pool})}"
    async with ApiClient(connection()) as client:
        done = await client.post(path, wish)
    console.print(f"{escape(done['pool'])}/{escape(done['runner'])}: {done['order']}")


async def look(client: ApiClient) -> Fleet:
    """Return the fleet as it is now."""
    pools = await client.get("/v1/pools")
    try:
        runners = (await client.get("/v1/runners"))["runners"]
    except ApiProblem as problem:
        if problem.api_code != _FORBIDDEN:
            raise
        runners = None
    return Fleet(pools=pools, runners=runners)


def shown(fleet: Fleet) -> Group:
    """Return the fleet for a terminal."""
    parts: list[Text | Table] = [_headline(fleet.pools), _pools(fleet.pools["pools"])]
    held = [pool for pool in fleet.pools["pools"] if pool["state"] and pool["state"]["held_back"]]
    parts += [Text(f"{pool['name']} is held back: {_held_back(pool['state'])}", style="yellow") for pool in held]
    if fleet.runners is None:
        parts.append(Text("the key may not see runners", style="dim"))
    else:
        parts.append(_runners(fleet.runners))
        parts += _broken(fleet.runners)
    return Group(*parts)


def _headline(pools: dict[str, Any]) -> Text:
    if pools["problem"]:
        return Text("no scheduler leads: nothing is placed", style="bold red")
    line = Text(f"{pools['leader']} leads", style="dim")
    if pools["applied_revision"] != pools["revision"]:
        line.append("; it goes by an older policy than the stored one", style="yellow")
    return line


def _pools(pools: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("pool", no_wrap=True)
    for column in ("runners", "slots", "busy", "warm", "wanted", "waiting", "launching", "cold start", "arrivals"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("launcher", no_wrap=True)
    for pool in pools:
        state = pool["state"]
        if state is None:
            table.add_row(pool["name"], *["–"] * 9, "")
            continue
        table.add_row(
            pool["name"],
            _runner_count(state),
            str(state["slots"]),
            str(state["busy"]),
            str(state["warm"]),
            str(state["target"]) if pool["policy"]["maximum"] else "–",
            f"[yellow]{state['waiting']}[/]" if state["waiting"] else "0",
            str(state["cold_starts_in_flight"]),
            _cold_start(state),
            f"{state['arrivals_per_s']:.2f}/s",
            state["launcher"],
        )
    return table


def _runners(runners: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("runner", "pool", "state", "busy", "standby", "cpu", "lag", "bots", "host"):
        table.add_column(column, no_wrap=column != "bots")
    for runner in runners:
        # A bot that can't be imported is why its sessions wait.
        bots = [f"[red]{escape(_label(bot))}[/]" if bot["error"] else escape(_label(bot)) for bot in runner["bots"]]
        table.add_row(
            escape(runner["id"]),
            escape(runner["pool"]),
            _state(runner),
            f"{len(runner['sessions'])}/{runner['slots']}",
            str(runner["standby"]),
            f"{runner['cpu'] * _PERCENT:.0f} %",
            f"{runner['loop_lag_ms']:.0f} ms",
            " ".join(bots),
            escape(runner["host"]),
        )
    return table


def _label(bot: dict[str, Any]) -> str:
    """Return what a bot is called among those of its runner, as in GREENROOM_BOTS."""
    return bot["name"] if bot["version"] == 1 else f"{bot['name']}@{bot['version']}"


def _broken(runners: list[dict[str, Any]]) -> list[Text]:
    """Return a line for each bot that can't run: why, where that was raised, and on which runners."""
    where: dict[tuple[str, int, str, str], list[str]] = {}
    for runner in runners:
        for bot in runner["bots"]:
            if bot["error"]:
                found = bot["name"], bot["version"], bot["error"], _raised_at(bot.get("traceback", ""))
                where.setdefault(found, []).append(runner["id"])
    return [
        Text(f"{name} (version {version}) can't run on {', '.join(ids)}: {error}{raised_at}", style="red")
        for (name, version, error, raised_at), ids in where.items()
    ]


def _raised_at(traceback: str) -> str:
    """Return the innermost call of a traceback; all of it is in `--json`."""
    calls = [line.strip() for line in traceback.splitlines() if line.startswith("  File ")]
    return f" ({calls[-1]})" if calls else ""


def _state(runner: dict[str, Any]) -> str:
    if runner.get("brake"):
        return f"[yellow]brakes: {escape(runner['brake'])}[/]"
    return f"[{_STATE_COLOURS.get(runner['state'], 'white')}]{runner['state']}[/]"


def _runner_count(state: dict[str, Any]) -> str:
    notes = [f"{state[name]} {name}" for name in ("draining", "braking") if state[name]]
    if state["instances"] is not None and state["instances"] != state["runners"]:
        notes.append(f"of {state['instances']}")
    return f"{state['runners']} ({', '.join(notes)})" if notes else str(state["runners"])


def _cold_start(state: dict[str, Any]) -> str:
    median, slow = state["cold_start_p50_s"], state["cold_start_p95_s"]
    return "–" if median is None or slow is None else f"{median:.1f}/{slow:.1f} s"


def _held_back(state: dict[str, Any]) -> str:
    until = f", until {state['held_back_until'][11:19]}" if state["held_back_until"] else ""
    return f"{state['held_back']}{until}"
