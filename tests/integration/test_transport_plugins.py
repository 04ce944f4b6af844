"""A transport of a package that is installed beside the services, in both of its halves."""

from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from greenroom.api.transports.adapters import OURS, plugged_in
from greenroom.common.broker import Broker
from greenroom.common.clock import utcnow
from greenroom.common.errors import SettingsInvalid
from greenroom.common.lifecycle import Session
from greenroom.common.messages import BotOffer
from greenroom.runner.session import transports
from greenroom.runner.session.transports import make_transport
from greenroom.runner.session.transports.absent import AbsentTransport
from tests.support.api_world import eventually, problem_of, running_api, settings

_CODE = """
from greenroom.api.schemas import Transport
from greenroom.api.transports.base import Prepared
from greenroom.common.errors import InvalidBody

class Fax:
    name = "fax"
    def check(self, options):
        if options != {"page": 1}:
            raise InvalidBody("/transport_options: a fax has one page")
    def room(self, options): return None
    def plan(self, session, options): return None
    async def prepare(self, asked, session, options):
        return Prepared(public=Transport(type="fax", url="fax:1"), info={"page": "1"})
    async def answer(self, asked, session_id, public, *, again): return public
    async def release(self, tenant, session_id, info): pass
    async def close(self): pass

def make(settings):
    return Fax()

def not_set_up(settings):
    return None

def broken(settings):
    raise ValueError("no line")

class Session:
    def __init__(self, session, broker, on_connected, on_disconnected):
        self.made_for = session.id
"""


def _install(folder: Path, *, taken: str = "", **points: str) -> None:
    (folder / "fax_transport.py").write_text(_CODE)
    about = folder / "fax_transport-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fax-transport\nVersion: 1.0\n")
    api = "".join(f"{name} = fax_transport:{target}\n" for name, target in points.items())
    session = "fax = fax_transport:Session\nlost = fax_transport_that_is_not:Session\n"
    session += f"{taken} = fax_transport:Session\n" if taken else ""
    (about / "entry_points.txt").write_text(f"[greenroom.transports]\n{api}[greenroom.session_transports]\n{session}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages are found."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "fax_transport", raising=False)
    return tmp_path


async def test_a_session_is_asked_for_over_it(folder: Path, nats_url: str, database: str) -> None:
    """Its options are its own, its answer is told, and what it prepared is the session's."""
    _install(folder, fax="make", off="not_set_up")
    async with running_api(nats_url, database) as world, world.client() as client:
        await world.beat(BotOffer(name="echo", transports=("fax",)))

        async def offered() -> str:
            return (await client.get("/v1/agents")).text

        await eventually(offered, lambda text: "fax" in text)
        wish: dict[str, Any] = {"agent": "echo", "transport": "fax", "transport_options": {"page": 1}}
        created = await client.post("/v1/sessions", json=wish)
        assert created.status_code == 201, created.text
        assert created.json()["transport"]["url"] == "fax:1"
        wrong = await client.post("/v1/sessions", json={**wish, "transport_options": {"page": 2}})
        assert problem_of(wrong)["code"] == "invalid-body"
        off = await client.post("/v1/sessions", json={**wish, "transport": "off"})
        assert off.status_code in {409, 422}


def test_its_other_half_is_made_in_the_session_process(folder: Path) -> None:
    """One whose package isn't there says so instead."""
    _install(folder)

    def made(transport: str) -> Any:
        session = Session(
            id="s-1",
            tenant="t",
            agent="a",
            bot="b",
            transport=transport,
            requested_at=utcnow(),
            queue_deadline_at=utcnow(),
        )
        return make_transport(session, cast("Broker", None), lambda _: None, lambda *_: None)

    assert made("fax").made_for == "s-1"
    for absent in ("lost", "pigeon"):
        assert isinstance(made(absent), AbsentTransport)


@pytest.mark.parametrize(("name", "target"), [("fax", "broken"), ("fax", "nothing"), ("telex", "make")])
def test_one_that_cannot_be_made_is_named(folder: Path, name: str, target: str) -> None:
    """It raises, isn't there, or calls itself something else: the api doesn't start."""
    _install(folder, **{name: target})
    with pytest.raises(SettingsInvalid, match=f"the transport {name}"):
        plugged_in(settings("nats://nobody", "postgresql://nobody"))


def test_a_name_of_ours_is_taken_and_that_is_said(folder: Path) -> None:
    """Also where this installation isn't set up for it: the other half would be ours; each half says it once."""
    _install(folder, taken="daily", daily="make", fax="make")
    with capture_logs() as logs:
        assert [adapter.name for adapter in plugged_in(settings("nats://nobody", "postgresql://nobody"))] == ["fax"]
    told = {"event": "transport_name_taken", "transport": "daily", "log_level": "warning"}
    assert logs == [told | {"plugin": "fax_transport:make"}]
    transports._tell_of_taken_names.cache_clear()
    with capture_logs() as logs:
        for _ in range(3):
            assert transports.preload(("websocket", "fax")) == ("websocket", "fax")
    assert logs == [told | {"plugin": "fax_transport:Session"}]


def test_both_halves_know_the_same_names_as_ours() -> None:
    """A plug-in would have one of its halves otherwise."""
    assert {*transports._KNOWN, "smallwebrtc"} == OURS
