"""The steps `summary` and `meeting_notes`: what a model behind an API like OpenAI's makes of what was said."""

from typing import Any, Final

import httpx
import msgspec

from greenroom.recorder.post_call.step import Call, StepRefused

# Some 50 000 tokens; a call of five hours. Of longer ones the middle is left out.
MAX_CHARS: Final = 200_000
_LEFT_OUT: Final = "\n[…]\n"
# The request itself is wrong, or the key: the same again won't help.
_OURS: Final = frozenset({400, 401, 403, 404, 413, 422})
_OK: Final = 200


class ChatFailed(Exception):
    """The API didn't answer as it should; later it may."""


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True, kw_only=True):
    message: _Message


class _Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    choices: tuple[_Choice, ...]
    model: str = ""
    usage: _Usage | None = None


class ChatStep:
    """Has a model write about calls.

    Args:
        client: reaches the API.
        url: of the API, without `/chat/completions`.
        model: which one.
        key: empty: none is sent.
        prompt: what the model is to do.
        result: what that is called in the result.
    """

    repeatable: Final = True

    def __init__(self, client: httpx.AsyncClient, *, url: str, model: str, key: str, prompt: str, result: str) -> None:
        self._client = client
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._prompt = prompt
        self._result = result

    async def run(self, call: Call) -> dict[str, Any] | None:
        """Return what was written; None where nothing was said.

        Raises:
            StepRefused: the API refuses the request itself.
            ChatFailed: it can't be had now.
        """
        if not call.lines:
            return None
        answer = await self._ask(
            [{"role": "system", "content": self._prompt}, {"role": "user", "content": transcript(call)}]
        )
        text = (answer.choices[0].message.content or "").strip() if answer.choices else ""
        if not text:
            raise ChatFailed("the model said nothing")
        usage = answer.usage or _Usage()
        return {
            self._result: text,
            "model": answer.model or self._model,
            "tokens_in": usage.prompt_tokens,
            "tokens_out": usage.completion_tokens,
        }

    async def _ask(self, asked: list[dict[str, str]]) -> _Answer:
        try:
            response = await self._client.post(
                self._url, json={"model": self._model, "messages": asked}, headers=self._headers
            )
        except httpx.HTTPError as error:
            raise ChatFailed(type(error).__name__) from error
        if response.status_code in _OURS:
            raise StepRefused(f"the API answered {response.status_code}")
        if response.status_code != _OK:
            raise ChatFailed(f"the API answered {response.status_code}")
        try:
            return msgspec.json.decode(response.content, type=_Answer)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ChatFailed("the answer isn't one of a chat") from error


def transcript(call: Call) -> str:
    """Return what was said, a line each; of more than `MAX_CHARS` the middle is left out."""
    text = "\n".join(f"{'Caller' if line.who == 'caller' else 'Agent'}: {line.text}" for line in call.lines)
    if len(text) <= MAX_CHARS:
        return text
    half = (MAX_CHARS - len(_LEFT_OUT)) // 2
    return text[:half] + _LEFT_OUT + text[-half:]
