"""Writes docs/errors.md from the catalogue: `python -m greenroom.common.docgen_errors > docs/errors.md`."""

import sys

from greenroom.common.catalogue import Entry, catalogue


def render() -> str:
    """Return docs/errors.md."""
    entries = catalogue().values()
    parts = [
        "# Errors and reasons",
        "",
        "Generated from `libs/common/src/greenroom/common/`; `greenroom error CODE` shows the same.",
        "",
        "## Errors",
        "",
        "Error responses are `application/problem+json` (RFC 9457). Rely on `code` and `retryable`, not on texts.",
        "",
    ]
    parts += [line for entry in entries if entry.status is not None for line in _error(entry)]
    parts += [
        "## Reasons",
        "",
        "Why a session waits, is put back or has ended: its `reason`. Bots may end with reasons of their own.",
        "",
    ]
    parts += [line for entry in entries if entry.status is None for line in _reason(entry)]
    return "\n".join(parts).rstrip() + "\n"


def _error(entry: Entry) -> list[str]:
    again = "may be sent again" if entry.retryable else "sending it again doesn't help"
    return [f"### {entry.code}", "", f"{entry.status} · {entry.title} · {again}", "", entry.help, ""]


def _reason(entry: Entry) -> list[str]:
    outcome = f"outcome `{entry.outcome}`" if entry.outcome else "doesn't end the session"
    return [f"### {entry.code}", "", f"{entry.title} · {outcome}", "", entry.help, ""]


if __name__ == "__main__":
    sys.stdout.write(render())
