"""`greenroom migrate`, `topology` and `keys`: what is done once, or with each new version."""

import os
from datetime import datetime

from rich.console import Console
from rich.table import Table

from greenroom.common import topology_admin
from greenroom.common.errors import SettingsInvalid
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools import keys
from greenroom.devtools.state import read_state, state_dir
from greenroom.recorder import migrate as migrations


def _dsn() -> str:
    state = read_state(state_dir())
    dsn = os.environ.get("DATABASE_URL") or (state.database_url if state else "")
    if not dsn:
        raise SettingsInvalid("DATABASE_URL isn't set: for example postgresql://user:password@host/database")
    return dsn


async def _broker() -> NatsBroker:
    state = read_state(state_dir())
    url = os.environ.get("NATS_URL") or (state.nats_url if state else "nats://127.0.0.1:4222")
    return await NatsBroker.connect(url, name="greenroom topology", timeout_s=10)


async def migrate(console: Console, *, status_only: bool) -> None:
    """Apply what is missing, or only list."""
    if status_only:
        for file in await migrations.status(_dsn()):
            applied = file.applied_at.isoformat(timespec="seconds") if file.applied_at else "[yellow]not applied[/]"
            console.print(f"{file.name}  {applied}", highlight=False)
        return
    applied = await migrations.migrate(_dsn())
    for name in applied:
        console.print(f"applied {name}", highlight=False)
    if not applied:
        console.print("the schema is up to date")


async def topology_diff(console: Console) -> int:
    """Print the differences and return how many they are."""
    broker = await _broker()
    try:
        differences = await topology_admin.diff(broker)
    finally:
        await broker.close()
    for difference in differences:
        console.print(str(difference), highlight=False)
    if not differences:
        console.print("all streams and consumers are as they should be")
    return len(differences)


async def topology_apply(console: Console, *, replicas: int) -> None:
    """Make and change what is needed."""
    broker = await _broker()
    try:
        differences = await topology_admin.apply(broker, replicas=replicas)
    finally:
        await broker.close()
    for difference in differences:
        console.print(f"mended: {difference}", highlight=False)
    if not differences:
        console.print("nothing to do: all streams and consumers are as they should be")


async def create_key(
    console: Console, *, name: str, tenant: str, scopes: tuple[str, ...], expires_at: datetime | None
) -> None:
    """Make a key and print it."""
    token = await keys.create(_dsn(), tenant=tenant, name=name, scopes=scopes, expires_at=expires_at)
    console.print(token, highlight=False, soft_wrap=True)


async def list_keys(console: Console) -> None:
    """Print all keys."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("key", "tenant", "name", "scopes", "made", "expires", "last used", ""):
        table.add_column(column)
    for key in await keys.listed(_dsn()):
        over = "[red]revoked[/]" if key.revoked else "[red]expired[/]" if key.expired else ""
        used, until = key.last_used_at or "never", key.expires_at or "never"
        table.add_row(f"{key.prefix}…", key.tenant, key.name, ", ".join(key.scopes), key.created_at, until, used, over)
    console.print(table)


async def revoke_key(console: Console, prefix: str) -> int:
    """Revoke keys and return how many they were."""
    count = await keys.revoke(_dsn(), prefix)
    console.print(f"{count} revoked" if count else "no valid key begins like that", highlight=False)
    return count
