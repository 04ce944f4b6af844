"""Sessions of bots whose secrets no runner has."""

import msgspec

from greenroom.common.messages import BotOffer
from tests.support.api_world import eventually, running_api

NEEDY = BotOffer(name="needy", secrets=("A_KEY",), missing_secrets=("A_KEY",))


async def test_a_request_is_refused_while_no_runner_has_the_secrets(nats_url: str, database: str) -> None:
    """409 `secret-missing` at once, naming the secret; nothing is in the ledger; once a runner has it, 201."""
    async with running_api(nats_url, database) as world, world.client() as client:
        await world.beat(NEEDY)

        async def ask() -> tuple[int, str]:
            answer = await client.post("/v1/sessions", json={"agent": "needy"})
            return answer.status_code, answer.text

        status, text = await ask()
        assert (status, msgspec.json.decode(text)["code"]) == (409, "secret-missing")
        assert "A_KEY" in text
        assert await world.broker.count("SESSIONS", "gr.v1.session.>") == 0
        await world.beat(msgspec.structs.replace(NEEDY, missing_secrets=()))
        found = await eventually(ask, lambda answer: answer[0] != 409)
        assert found[0] == 201
