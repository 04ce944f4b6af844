"""Generates docs/configuration.md: every variable that a service reads, from the settings themselves.

`python -m greenroom.devtools.configuration > docs/configuration.md` writes it; a test fails when it differs.
"""

import sys
from typing import Final

from greenroom.api.settings import ApiSettings
from greenroom.common.settings import Row, ServiceSettings, Settings, describe
from greenroom.recorder.settings import RecorderSettings
from greenroom.runner.settings import RunnerSettings
from greenroom.scheduler.settings import SchedulerSettings

SERVICES: Final[dict[str, type[Settings]]] = {
    "api": ApiSettings,
    "scheduler": SchedulerSettings,
    "runner": RunnerSettings,
    "recorder": RecorderSettings,
}
_HEAD: Final = """<!-- Generated from the code by `make docs`; edit the settings there. -->
# Configuration

Every service reads its settings from the environment, once, when it starts. What is wrong is said all at once, with the
variable's name and its unit; the exit code is 78 then. An empty variable counts as unset. `greenroom doctor` names
variables that no service reads. On runners `PIPECAT_ALLOWED_ORIGINS` must stay unset: origins are checked at the edge.
"""


def render() -> str:
    """Return the page."""
    common = {row.env: row for row in describe(ServiceSettings)}
    parts = [_HEAD, "## Every service\n", _table(list(common.values()))]
    for name, settings in SERVICES.items():
        own = [row for row in describe(settings) if common.get(row.env) != row]
        parts += [f"## {name}\n", _table(own)]
    return "\n".join(parts)


def _table(rows: list[Row]) -> str:
    lines = ["| variable | what | unit | default |", "|---|---|---|---|"]
    lines += [f"| `{row.env}` | {row.help.replace('|', '/')} | {row.unit} | {_default(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _default(row: Row) -> str:
    if row.required:
        return "required"
    return f"`{row.default}`" if row.default else "see left" if row.default is None else "empty"


if __name__ == "__main__":
    sys.stdout.write(render())
