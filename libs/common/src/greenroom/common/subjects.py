"""Every NATS subject of the system, each from one template that publishes, subscribes and parses.

A placeholder `{name}` is one token; `{name*}` stands for the rest of the subject, dots included,
and may only come last. Tokens are made of letters, digits, `_` and `-`, so that no tenant or id
can ever contain a wildcard or a dot.
"""

import re
from typing import Final

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_REST = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,7}")
_PLACEHOLDER = re.compile(r"\{(\w+)(\*?)\}")


class InvalidToken(ValueError):
    """A value can't be a part of a subject: it is empty, too long or has characters of its own meaning."""


class Subject:
    """One subject template.

    Args:
        template: for example `gr.v1.leader.{pool}`.
    """

    def __init__(self, template: str) -> None:
        self.template: Final = template
        self.fields: Final = tuple(name for name, _ in _PLACEHOLDER.findall(template))
        self._rest = next((name for name, star in _PLACEHOLDER.findall(template) if star), None)
        pattern, end = "", 0
        for match in _PLACEHOLDER.finditer(template):
            token = _REST if match[2] else _TOKEN
            pattern += re.escape(template[end : match.start()]) + f"(?P<{match[1]}>{token.pattern})"
            end = match.end()
        self._pattern = re.compile(pattern + re.escape(template[end:]))

    def format(self, **tokens: str) -> str:
        """Return the subject for publishing.

        Raises:
            InvalidToken: a token is missing, unknown or not allowed in a subject.
        """
        if tokens.keys() != set(self.fields):
            msg = f"{self.template} takes {', '.join(self.fields)}; got {', '.join(tokens) or 'nothing'}"
            raise InvalidToken(msg)
        return self._fill(tokens)

    def wildcard(self, **tokens: str) -> str:
        """Return the subject for subscribing: placeholders without a token become `*` (the rest: `>`).

        Raises:
            InvalidToken: a token is unknown (nobody gets more than was asked for) or not allowed in a subject.
        """
        if unknown := tokens.keys() - set(self.fields):
            msg = f"{self.template} takes {', '.join(self.fields)}; got {', '.join(sorted(unknown))}"
            raise InvalidToken(msg)
        free = {name: ">" if name == self._rest else "*" for name in self.fields if name not in tokens}
        return self._fill(tokens, free)

    def parse(self, subject: str) -> dict[str, str] | None:
        """Return the tokens of `subject`, or None when it isn't of this shape."""
        match = self._pattern.fullmatch(subject)
        return match.groupdict() if match else None

    def _fill(self, tokens: dict[str, str], free: dict[str, str] | None = None) -> str:
        def value(match: re.Match[str]) -> str:
            name, rest = match[1], bool(match[2])
            if free and name in free:
                return free[name]
            token = tokens[name]
            if not (_REST if rest else _TOKEN).fullmatch(token):
                msg = f"{name} {token!r} can't be part of the subject {self.template}"
                raise InvalidToken(msg)
            return token

        return _PLACEHOLDER.sub(value, self.template)

    def __repr__(self) -> str:
        return f"Subject({self.template!r})"


# A session: its lifecycle (the ledger), what happens in it, its audio, and the way to the living process.
SESSION_LIFECYCLE: Final = Subject("gr.v1.session.{tenant}.{session_id}.lifecycle")
# What the ledger holds by now: the broker says it again once it is stored. Nobody else may speak there.
SESSION_STORED: Final = Subject("gr.v1.stored.{tenant}.{session_id}")
SESSION_EVENT: Final = Subject("gr.v1.session.{tenant}.{session_id}.event.{type*}")
SESSION_AUDIO: Final = Subject("gr.v1.session.{tenant}.{session_id}.audio.{track}")
SESSION_CMD: Final = Subject("gr.v1.session.{tenant}.{session_id}.cmd.{name}")
# What the living process asks of others, and may ask for its own session only.
SESSION_ASK: Final = Subject("gr.v1.session.{tenant}.{session_id}.ask.{name}")
SESSION_MEDIA: Final = Subject("gr.v1.session.{tenant}.{session_id}.media.{direction}")
SESSION_TAP: Final = Subject("gr.v1.session.{tenant}.{session_id}.tap.{direction}")
SESSION_ALL: Final = Subject("gr.v1.session.{tenant}.{session_id}.{rest*}")

# A runner: its heartbeat each second, and what it is told.
RUNNER_HEARTBEAT: Final = Subject("gr.v1.runner.{pool}.{runner_id}.heartbeat")
RUNNER_CMD: Final = Subject("gr.v1.runner.{pool}.{runner_id}.cmd.{name}")

# One holder a name, by compare-and-set.
LEADER: Final = Subject("gr.v1.leader.{name}")

# Request/reply services.
REQUEST: Final = Subject("gr.v1.req.{service}.{name}")

# Written once, taken once (`key` is a digest: what is kept can't be used to get in).
TICKET: Final = Subject("gr.v1.ticket.{key}")
IDEMPOTENCY: Final = Subject("gr.v1.idempotency.{tenant}.{key}")
# What only the session process may know of a session, e.g. a room token.
SECRET: Final = Subject("gr.v1.secret.{tenant}.{session_id}")
# What was made at a provider for a session, and has to go when the session is over.
RELEASE: Final = Subject("gr.v1.release.{transport}")
# Which session a phone call belongs to; nonces of webhooks. (`key` is a digest.)
CALL: Final = Subject("gr.v1.call.{key}")
WEBHOOK: Final = Subject("gr.v1.webhook.{key}")
# In which rooms an agent has begun sessions by itself. (`key` is a digest of tenant and agent.)
ROOMS: Final = Subject("gr.v1.rooms.{key}")
# Somebody is to be called.
DIAL: Final = Subject("gr.v1.dial.{carrier}")

# What is to be done when a session is over and kept.
POST_CALL: Final = Subject("gr.v1.postcall.{tenant}.{session_id}.{step}")

# What operators decided (`policy`), and what the scheduler found about it (`verdicts`).
POLICY: Final = Subject("gr.v1.policy.{name}")
# Why the scheduler launched, retired or held back capacity of a pool. (Why it did what with a session is an event of
# that session.)
DECISION: Final = Subject("gr.v1.decision.{pool}")

# What is said of a tenant beside its sessions; `kind` is e.g. `budget.warning`.
NOTICE: Final = Subject("gr.v1.notice.{tenant}.{kind*}")

# Messages that can't be processed, with the reason.
PARKED: Final = Subject("gr.v1.parked.{stream}")
# Which of them were put back; `seq` is the place of the parked message in PARKED.
REPLAYED: Final = Subject("gr.v1.replayed.{stream}.{seq}")
