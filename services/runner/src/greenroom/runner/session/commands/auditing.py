"""What an event says of a command: who sent it, what it was, and what came of it.

Texts that are spoken or read by the model are conversation, and told as `user_spoke` and `agent_spoke` tell theirs.
Keys that are pressed may be a card's number or its PIN: only how many.
"""

from typing import Any

from greenroom.common import commands
from greenroom.common.commands import Command, CommandAnswer, CommandDone, CommandRequest, kind_of
from greenroom.runner.session.emitter import jsonable


def audit(request: CommandRequest, answer: CommandAnswer, at_ms: int) -> dict[str, Any]:
    """Return the data of a `command` event; `at_ms` is where it lies on the call's timeline."""
    told: dict[str, Any] = {
        "id": request.id,
        "command": kind_of(request.command),
        "by": request.by,
        "at_ms": at_ms,
        **_what(request.command),
    }
    if isinstance(answer, CommandDone):
        returned = answer.result.get("returned") if isinstance(request.command, commands.Call) else None
        return {**told, "outcome": "done", **({} if returned is None else {"result": jsonable(returned)})}
    return {**told, "outcome": "refused", "code": answer.code, "detail": answer.detail}


def _what(command: Command) -> dict[str, Any]:
    match command:
        case commands.Configure():
            # A setting may be a prompt: of those that are no names, what was changed and not to what.
            told = _fields(command, "version", "voice", "model", "language", "mode")
            changed = {name: sorted(getattr(command, name)) for name in ("llm", "tts", "stt", "values")}
            return told | {name: names for name, names in changed.items() if names}
        case commands.Transfer(target=target, mode=mode):
            # What the operator is told is kept if that was asked for; else it is told as what the bot has spoken is.
            kept = {"summary": command.summary} if command.store_summary and command.summary is not None else {}
            return {"target": target, **({} if mode == "cold" else {"mode": mode}), **kept}
        case commands.Dtmf(digits=digits):
            return {"digits": len(digits)}
        case commands.Call(function=function, arguments=arguments):
            return {"function": function, "arguments": jsonable(arguments)}
        case _:
            return _fields(command, *command.__struct_fields__)


def _fields(command: Command, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(command, name)) is not None}
