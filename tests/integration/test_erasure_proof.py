"""Erasure, proved: what a session left anywhere is looked for in every table, every stream and every file."""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from greenroom.api.carriers.callbook import CallBook
from greenroom.common import mailbox, messages, subjects, topology
from greenroom.common.bodies import Bodies
from greenroom.common.clock import utcnow
from greenroom.common.commands import CommandRequest, Say
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.common.mailboxes import Mailboxes
from greenroom.common.messages import Decision
from greenroom.common.secrets import SecretBox
from tests.support.api_world import PATIENCE_S, ApiWorld, eventually, running_api
from tests.support.evidence import found_in_files, found_in_streams, found_in_tables
from tests.support.recorder_world import RATE, World, quick_topology, samples
from tests.support.recorder_world import world as recorder_world

# One sample, 16 bit little-endian; no other audio of these tests has it.
SAMPLE = 0x6B7D
AS_SENT = samples(SAMPLE, 16)
# Left and right channel by turns, with silence on the right one.
AS_RECORDED = samples(SAMPLE, 1) + samples(0, 1)


@pytest.fixture(autouse=True)
def _quick_redelivery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """Servers with topology and schema, and a folder."""
    async with recorder_world(nats_url, database, tmp_path) as made:
        yield made


@pytest.fixture
async def api(here: World, nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """An api on the same servers, with the agent `echo`."""
    del here  # it has applied the topology
    async with running_api(nats_url, database) as running:
        yield running


class Evidence:
    """What there is of one session: its id, and a word and a sound that nothing else has."""

    def __init__(self, here: World) -> None:
        self.here = here
        self.marker = f"marker-{uuid7()}"
        self.session_id = ""

    async def found(self) -> dict[str, int]:
        """Return where anything of it is, and how often; tombstones and audit aside, which may name its id."""
        words = [self.marker.encode(), AS_SENT, AS_RECORDED * 8, self.session_id.encode()]
        tables = await found_in_tables(self.here.dsn, words)
        streams = await found_in_streams(self.here.broker, words)
        files = found_in_files(self.here.folder, words)
        return {place: n for place, n in {**tables, **streams, **files}.items() if place not in {"tombstones", "audit"}}

    async def leave(self, api: ApiWorld) -> Session:
        """Have a session that leaves something in every place that there is, and end it."""
        here = self.here
        async with api.client() as client:
            wish = {"agent": "echo", "body": {"about": self.marker}, "metadata": {"crm": self.marker}}
            answer = await client.post("/v1/sessions", json=wish, headers={"idempotency-key": uuid7()})
            assert answer.status_code == 201, answer.text
        self.session_id = answer.json()["id"]
        entry = await api.make_ready(self.session_id)
        session = entry.session
        await here.publish(session, "user_transcript", id=uuid7(), data={"text": self.marker, "final": True})
        for number in (1, 2):
            await here.speak(session, "user", number, samples(SAMPLE, RATE))
        # Parked: audio that is no chunk.
        broken = subjects.SESSION_AUDIO.format(tenant=session.tenant, session_id=session.id, track="user")
        await here.broker.append(broken, AS_SENT)
        await SecretBox(here.broker).put(session.tenant, session.id, {"room_token": self.marker})
        await Bodies(here.broker).put(msgspec.structs.replace(session, body={"about": self.marker}))
        said = CommandRequest(id=uuid7(), by="key", at=utcnow(), command=Say(text=self.marker))
        await Mailboxes(here.broker).change(session.tenant, session.id, lambda box: mailbox.post(box, said, 1))
        await CallBook(here.broker).claim("twilio", f"CA-{self.marker}", session.tenant, session.id)
        told = Decision(decision="cold_start", at=utcnow(), reason="queue", text="", inputs={"session_id": session.id})
        await here.broker.append(subjects.DECISION.format(pool="default"), messages.encode(told))
        return (await here.end(entry)).session


PLACES = {"sessions", "session_events", "recordings"}
STREAMS = {"SESSIONS", "IDEMPOTENCY", "TICKETS", "SECRETS", "BODIES", "COMMANDS", "CALLS", "DECISIONS", "PARKED"}


async def gone(api: ApiWorld, session_id: str) -> None:
    """Return once the api knows of no such session."""
    async with api.client() as client:

        async def look() -> int:
            return (await client.get(f"/v1/sessions/{session_id}")).status_code

        await eventually(look, lambda status: status == 404)


async def erase(api: ApiWorld, session_id: str, **params: Any) -> Any:
    """Ask for a session to be erased, and return the answer."""
    async with api.client("sessions:erase") as client:
        return await client.delete(f"/v1/sessions/{session_id}", params=params)


async def test_nothing_is_left(here: World, api: ApiWorld) -> None:
    """After an erasure no table, stream or file has a word, a sound or the id of the session; others have theirs."""
    erased, other = Evidence(here), Evidence(here)
    async with here.recorder():
        for evidence in (erased, other):
            session = await evidence.leave(api)
            # The last thing that is stored of it.
            await eventually(partial(here.event_types, session), lambda types: "recording_saved" in types)
            await here.sealed(session)
            await eventually(lambda: here.rows("SELECT * FROM usage_due"), lambda due: not due)
        before = {**await erased.found()}
        recordings = {place for place in before if place.endswith((".wav", ".json"))}
        assert len(recordings) >= 2
        assert before.keys() >= PLACES | STREAMS
        words = [other.marker.encode(), other.session_id.encode()]
        others = await found_in_tables(here.dsn, words), await found_in_streams(here.broker, words)

        answer = await erase(api, erased.session_id)
        assert (answer.status_code, answer.json()["session_id"]) == (202, erased.session_id)
        await gone(api, erased.session_id)
        # Sound is the same in both, so what is looked for is what tells them apart.
        own = [erased.marker.encode(), erased.session_id.encode()]

        async def left() -> dict[str, int]:
            tables = await found_in_tables(here.dsn, own)
            streams = await found_in_streams(here.broker, own)
            return {**tables, **streams, **found_in_files(here.folder, own)}

        remains = await eventually(left, lambda found: "erasures" not in found)
        assert remains.keys() == {"tombstones", "audit"}
        assert (await found_in_tables(here.dsn, words), await found_in_streams(here.broker, words)) == others
        used = await here.rows("SELECT count(DISTINCT session_id) AS sessions FROM usage")
        assert used == [{"sessions": 2}]
        sounding = found_in_files(here.folder, [AS_SENT, AS_RECORDED * 8])
        assert sounding
        assert all(other.session_id in place for place in sounding)


async def test_a_late_event_is_not_stored_again(here: World, api: ApiWorld) -> None:
    """What is published about an erased session is neither stored nor parked, and the broker forgets it too."""
    evidence = Evidence(here)
    async with here.recorder():
        session = await evidence.leave(api)
        await here.sealed(session)
        assert (await erase(api, session.id)).status_code == 202
        await gone(api, session.id)
        await eventually(evidence.found, lambda found: not found)

        await here.publish(session, "user_transcript", id=uuid7(), data={"text": evidence.marker})
        await here.speak(session, "user", 3, samples(SAMPLE, RATE))
        assert await here.broker.count("SESSIONS", subjects.SESSION_ALL.wildcard(session_id=session.id)) <= 1
        await eventually(evidence.found, lambda found: not found)
        assert not await found_in_streams(here.broker, [evidence.marker.encode(), AS_SENT])


async def test_a_live_session_is_refused_or_ended_first(here: World, api: ApiWorld) -> None:
    """A live session can't be erased, unless it is to be stopped: then it is erased once it is over and sealed."""
    evidence = Evidence(here)
    async with here.recorder():
        entry = await here.begin(tenant="default", body={"about": evidence.marker})
        evidence.session_id = entry.session.id
        refused = await erase(api, entry.session.id)
        assert (refused.status_code, refused.json()["code"]) == (409, "session-live")
        assert await here.rows("SELECT * FROM erasures") == []

        answer = await erase(api, entry.session.id, stop="true")
        assert answer.status_code == 202
        # Asked again it is the same wish.
        assert (await erase(api, entry.session.id, stop="true")).json() == answer.json()
        waiting = await here.rows("SELECT begun_at FROM erasures")
        assert [row["begun_at"] for row in waiting] == [None]
        ending = await here.ledger.last("default", entry.session.id)
        assert ending is not None
        assert ending.session.state == "ending"
        await here.end(ending)
        await gone(api, entry.session.id)
        await eventually(evidence.found, lambda found: not found)
    audited = await here.rows(
        "SELECT action, actor LIKE 'key:%' AS by_key FROM audit WHERE subject = $1 ORDER BY id", entry.session.id
    )
    assert [tuple(row.values()) for row in audited] == [
        ("session.erasure_requested", True),
        ("session.erased", True),
    ]


async def test_a_held_session_is_not_erased(here: World, api: ApiWorld) -> None:
    """A held session can't be erased (a code of its own), and one held after it was asked for waits for the hold."""
    entry = await here.end(await here.begin(tenant="default"))
    session_id = entry.session.id
    async with api.client() as admin:
        assert (await admin.put(f"/v1/sessions/{session_id}/hold", json={"reason": "case 1"})).status_code == 200
        refused = await erase(api, session_id)
        assert (refused.status_code, refused.json()["code"]) == (409, "session-held")
        assert (await admin.delete(f"/v1/sessions/{session_id}/hold")).status_code == 204
        # Nobody carries it out yet: no recorder runs.
        assert (await erase(api, session_id)).status_code == 202
        assert (await admin.put("/v1/retention/default/*/hold", json={})).status_code == 200
        async with here.recorder():

            async def waits_for() -> list[str]:
                return [row["waits_for"] for row in await here.rows("SELECT waits_for FROM erasures")]

            await eventually(waits_for, lambda found: found == ["session-held"])
            assert (await admin.get(f"/v1/sessions/{session_id}")).status_code == 200
            assert (await admin.delete("/v1/retention/default/*/hold")).status_code == 204
            await api.execute("UPDATE erasures SET next_try_at = now()")
            await gone(api, session_id)
            await asyncio.wait_for(
                eventually(lambda: here.rows("SELECT * FROM erasures"), lambda row: not row), PATIENCE_S
            )
