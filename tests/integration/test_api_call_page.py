"""The page on which somebody speaks with a session: how it is served, and what it is told of the session."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import msgspec
import pytest

from greenroom.api.call_page.shown import SHOWN
from tests.support.api_world import ApiWorld, problem_of, running_api


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """An api with an agent for browsers."""
    async with running_api(nats_url, database, first=False) as world:
        await world.add_agent(transports=["smallwebrtc"])
        yield world


async def caller(world: ApiWorld) -> tuple[str, dict[str, str]]:
    """Return a session for a browser, and what that browser gets in with."""
    async with world.client() as client:
        made = await client.post("/v1/sessions", json={"agent": "echo", "transport": "smallwebrtc"})
        assert made.status_code == 201, made.text
        body = made.json()
        return body["id"], {"authorization": f"Bearer {body['transport']['token']}"}


async def test_the_page_is_served_to_anybody_and_runs_nothing_else(world: ApiWorld) -> None:
    """Its policy lets its own files run and speak with its origin; nothing in it is inline or from elsewhere."""
    async with httpx.AsyncClient(base_url=world.url) as client:
        page = await client.get("/call")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert page.headers["referrer-policy"] == "no-referrer"
        links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
        assert sorted(links) == ["/call.css", "/call.js"]
        assert re.findall(r"<script(?![^>]*src=)|<style|\son\w+=", page.text) == []
        for link in links:
            part = await client.get(link)
            assert (part.status_code, part.headers["x-content-type-options"]) == (200, "nosniff")
            assert "http:" not in part.text
            assert "https:" not in part.text


async def test_who_speaks_sees_what_is_said_and_nothing_of_the_tenants(world: ApiWorld) -> None:
    """Texts of both sides and the end come as they happen; metadata, functions and metrics don't."""
    session_id, token = await caller(world)
    await world.make_ready(session_id)
    await world.publish(session_id, "tool_called", b'{"data":{"arguments":{"pin":"a secret"}}}')
    await world.publish(session_id, "user_spoke", b'{"data":{"text":"Hello.","internal":"a secret"}}')
    seen: list[dict[str, Any]] = []
    async with (
        httpx.AsyncClient(base_url=world.url, timeout=30) as client,
        client.stream("GET", f"/v1/sessions/{session_id}/call/events", headers=token) as answer,
    ):
        assert answer.status_code == 200
        raw = ""
        async with asyncio.timeout(30):
            async for line in answer.aiter_lines():
                raw += line
                if line.startswith("data: ") and line != "data: {}":
                    seen.append(msgspec.json.decode(line.removeprefix("data: ")))
                    if seen[-1]["type"] == "user_spoke":
                        await world.end(session_id)
                    if seen[-1]["type"] == "session.ended":
                        break
    assert {each["type"] for each in seen} <= set(SHOWN)
    assert {"type": "user_spoke", "data": {"text": "Hello."}} in seen
    assert set(seen[-1]["data"]) == {"outcome"}
    assert "secret" not in raw
    assert "metadata" not in raw


async def test_only_who_speaks_may_follow(world: ApiWorld) -> None:
    """Neither nobody, nor whoever speaks with another session, nor a key, which has events of its own."""
    session_id, _ = await caller(world)
    _, other = await caller(world)
    path = f"/v1/sessions/{session_id}/call/events"
    async with httpx.AsyncClient(base_url=world.url) as client:
        assert problem_of(await client.get(path))["code"] == "unauthenticated"
        assert problem_of(await client.get(path, headers=other))["code"] == "ticket-invalid"
        made_up = {"authorization": f"Bearer gro_default.{'a' * 43}"}
        assert problem_of(await client.get(path, headers=made_up))["code"] == "ticket-invalid"
    async with world.client() as client:
        assert problem_of(await client.get(path))["code"] == "unauthenticated"
