"""The log of Pipecat and of the bots (loguru), as part of ours.

Pipecat logs what was said, mostly at debug level and mostly in square brackets: of its own records only warnings and
errors are kept, and what they have in brackets only where content is wanted. A bot's own records follow the log
level of the service; what they say is the bot's choice.
"""

import re
from typing import TYPE_CHECKING, Any, Final

import structlog
from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record

_log = structlog.get_logger("bot")

_BRACKETED: Final = re.compile(r"\[[^\]]*\]")
_MAX_TEXT: Final = 500
# Said at the end of every call: an EndFrame has no form on the wire.
_NOISE: Final = ("pipecat.serializers.protobuf", "is not serializable")
_INFO: Final = 20
_WARNING: Final = 30
_ERROR: Final = 40
_LEVELS: Final = {"debug": 10, "info": _INFO, "warning": _WARNING, "error": _ERROR}


def _is_pipecat(record: "Record") -> bool:
    return (record["name"] or "").partition(".")[0] == "pipecat"


def _keep(record: "Record") -> bool:
    if not _is_pipecat(record):
        return True
    return record["level"].no >= _WARNING and not (record["name"] == _NOISE[0] and _NOISE[1] in record["message"])


def redirect_loguru(level: str, *, content: bool) -> None:
    """Send loguru's records to structlog, in place of wherever they went.

    Args:
        level: least level of bots' own records.
        content: leave what was said in Pipecat's warnings.
    """

    def sink(message: "Message") -> None:
        record = message.record
        foreign = _is_pipecat(record)
        text = record["message"]
        if foreign and not content:
            text = _BRACKETED.sub("[…]", text)
        fields: dict[str, Any] = {"at_line": f"{record['name']}:{record['line']}", "text": text[:_MAX_TEXT]}
        if record["exception"] is not None and record["exception"].value is not None:
            fields["exc_info"] = record["exception"].value
        event = "pipecat_log" if foreign else "bot_log"
        number = record["level"].no
        if number >= _ERROR:
            _log.error(event, **fields)
        elif number >= _WARNING:
            _log.warning(event, **fields)
        elif number >= _INFO:
            _log.info(event, **fields)
        else:
            _log.debug(event, **fields)

    logger.remove()
    # Records below this cost one comparison; formatting them is up to the caller.
    logger.add(sink, level=_LEVELS[level], filter=_keep, format="{message}", backtrace=False, diagnose=False)
