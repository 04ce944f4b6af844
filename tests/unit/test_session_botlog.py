"""The log of Pipecat and of bots, as part of ours."""

from collections.abc import Generator
from typing import Any

import pytest
import structlog
from loguru import logger
from structlog.testing import capture_logs

from greenroom.runner.session.botlog import redirect_loguru

PIPECAT = logger.patch(lambda record: record.update(name="pipecat.services.tts_service"))


@pytest.fixture
def logs() -> Generator[list[Any]]:
    """What structlog got."""
    structlog.reset_defaults()
    with capture_logs() as captured:
        redirect_loguru("info", content=False)
        yield captured
    logger.remove()


def test_what_was_said_doesnt_get_into_the_log(logs: list[Any]) -> None:
    """Of Pipecat's own records only warnings and errors are kept, without what they have in brackets."""
    PIPECAT.debug("Generating TTS [a table for two]")
    PIPECAT.info("Bot said [hello]")
    PIPECAT.warning("not speaking [a secret]")
    assert [(log["event"], log["log_level"], log["text"]) for log in logs] == [
        ("pipecat_log", "warning", "not speaking […]")
    ]


def test_a_bots_own_records_are_kept(logs: list[Any]) -> None:
    """A bot logs what it wants, at its level."""
    logger.debug("too fine")
    logger.info("ordered [2] pizzas")
    logger.error("no oven")
    assert [(log["event"], log["log_level"], log["text"]) for log in logs] == [
        ("bot_log", "info", "ordered [2] pizzas"),
        ("bot_log", "error", "no oven"),
    ]


def test_an_exception_comes_along(logs: list[Any]) -> None:
    """What a bot logs with its exception keeps it."""
    try:
        raise ValueError("x")
    except ValueError:
        logger.exception("failed")
    assert isinstance(logs[0]["exc_info"], ValueError)


def test_known_noise_is_left_out(logs: list[Any]) -> None:
    """Pipecat warns at the end of every call that an EndFrame can't be sent; nobody needs to know."""
    serializer = logger.patch(lambda record: record.update(name="pipecat.serializers.protobuf"))
    serializer.warning("Frame type <class 'EndFrame'> is not serializable")
    assert logs == []


def test_content_is_kept_where_it_is_wanted() -> None:
    """With content switched on, brackets stay."""
    structlog.reset_defaults()
    with capture_logs() as logs:
        redirect_loguru("info", content=True)
        PIPECAT.warning("not speaking [a secret]")
    logger.remove()
    assert logs[0]["text"] == "not speaking [a secret]"
