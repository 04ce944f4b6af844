"""`/v1/webhooks/{carrier}`: where telephone carriers ask what to do with a call, and tell how it stands.

They have no key; their signatures are checked instead. Each is taken by POST and GET, as carriers can be set to either.
"""

from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from greenroom.api.body import check_query
from greenroom.api.carriers.base import Document, Webhook, WebhookMalformed, WebhookReplayed, WebhookUnsigned
from greenroom.api.carriers.calls import Calls
from greenroom.api.carriers.in_time import AnswerTimedOut
from greenroom.api.carriers.links import WEBHOOKS
from greenroom.api.routes.common import AnyRequest, origin_of, problems
from greenroom.api.transports.base import TransportUnavailable
from greenroom.common import errors

_OK: Final = 200
_JSON: Final = "application/json"
_PROBLEMS: Final = (
    WebhookMalformed,
    WebhookUnsigned,
    WebhookReplayed,
    TransportUnavailable,
    errors.NotFound,
    errors.BodyTooLarge,
)
_DOCUMENT: Final = ResponseSpec(
    str, generate_examples=False, description="A document for the carrier", media_type="application/xml"
)
_PUBLIC: Final = {"public": True}


_DESCRIBED: Final[dict[str, Any]] = {
    "tags": ["calls"],
    "opt": _PUBLIC,
    "status_code": _OK,
    "security": [],
    "responses": {_OK: _DOCUMENT, **problems(*_PROBLEMS)},
}
_ANSWERING: Final[dict[str, Any]] = {
    **_DESCRIBED,
    "responses": {_OK: _DOCUMENT, **problems(*_PROBLEMS, AnswerTimedOut)},
}


def webhook_routes(calls: Calls, public_url: str | None) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        calls: answers.
        public_url: how carriers reach us, which is what they sign; None: as the request says.
    """
    door = _Door(calls, public_url)
    return [*_of_numbers(door), *_of_calls(door)]


class _Door:
    """Lets carriers in."""

    def __init__(self, calls: Calls, public_url: str | None) -> None:
        self._calls = calls
        self._public_url = public_url

    async def answer(self, request: AnyRequest, carrier: str, reference: str | None = None) -> Response[bytes]:
        webhook, origin = await _webhook(request, self._public_url)
        return _response(await self._calls.answer(carrier, webhook, reference, origin))

    async def status(self, request: AnyRequest, carrier: str, reference: str | None = None) -> Response[bytes]:
        webhook, _ = await _webhook(request, self._public_url)
        adapter = await self._calls.verified(carrier, webhook)
        return _response(await self._calls.status(adapter, webhook, reference))

    async def machine(self, request: AnyRequest, carrier: str, reference: str) -> Response[bytes]:
        webhook, _ = await _webhook(request, self._public_url)
        adapter = await self._calls.verified(carrier, webhook)
        return _response(await self._calls.machine(adapter, webhook, reference))

    async def transfer(self, request: AnyRequest, carrier: str, reference: str) -> Response[bytes]:
        webhook, _ = await _webhook(request, self._public_url)
        adapter = await self._calls.verified(carrier, webhook)
        return _response(await self._calls.put_through(adapter, reference))


def _of_numbers(door: _Door) -> list[HTTPRouteHandler]:
    """Return the routes that carriers are given for a number."""

    @post(f"{WEBHOOKS}/{{carrier:str}}/answer", operation_id="answer_call", summary="A call has come in", **_ANSWERING)
    async def answer_call(request: AnyRequest, carrier: FromPath[str]) -> Response[bytes]:
        """Answer with what the carrier is to do: connect the call with its agent, hold it, or refuse it."""
        return await door.answer(request, carrier)

    @get(f"{WEBHOOKS}/{{carrier:str}}/answer", include_in_schema=False, opt=_PUBLIC)
    async def answer_call_by_get(request: AnyRequest, carrier: FromPath[str]) -> Response[bytes]:
        return await door.answer(request, carrier)

    @post(f"{WEBHOOKS}/{{carrier:str}}/status", operation_id="tell_call", summary="How a call stands", **_DESCRIBED)
    async def tell_call(request: AnyRequest, carrier: FromPath[str]) -> Response[bytes]:
        """Note how a call stands that came in; when it is over, so is its session."""
        return await door.status(request, carrier)

    @get(f"{WEBHOOKS}/{{carrier:str}}/status", include_in_schema=False, opt=_PUBLIC)
    async def tell_call_by_get(request: AnyRequest, carrier: FromPath[str]) -> Response[bytes]:
        return await door.status(request, carrier)

    return [answer_call, answer_call_by_get, tell_call, tell_call_by_get]


def _of_calls(door: _Door) -> list[HTTPRouteHandler]:
    """Return the routes that carriers are given for a call that they are asked to make."""
    path = f"{WEBHOOKS}/{{carrier:str}}/calls/{{reference:str}}"

    @post(f"{path}/answer", operation_id="answer_dialled_call", summary="Somebody has picked up", **_ANSWERING)
    async def answer_dialled_call(
        request: AnyRequest, carrier: FromPath[str], reference: FromPath[str]
    ) -> Response[bytes]:
        """Connect somebody who was called with the session that had them called."""
        return await door.answer(request, carrier, reference)

    @post(f"{path}/status", operation_id="tell_dialled_call", summary="How a call that was made stands", **_DESCRIBED)
    async def tell_dialled_call(
        request: AnyRequest, carrier: FromPath[str], reference: FromPath[str]
    ) -> Response[bytes]:
        """Note how a call stands that was made; when it is over, so is its session."""
        return await door.status(request, carrier, reference)

    @get(f"{path}/status", include_in_schema=False, opt=_PUBLIC)
    async def tell_dialled_call_by_get(
        request: AnyRequest, carrier: FromPath[str], reference: FromPath[str]
    ) -> Response[bytes]:
        return await door.status(request, carrier, reference)

    @post(f"{path}/machine", operation_id="tell_machine", summary="Who has picked up", **_DESCRIBED)
    async def tell_machine(request: AnyRequest, carrier: FromPath[str], reference: FromPath[str]) -> Response[bytes]:
        """Note whether somebody or a machine picked up, as an event of the session."""
        return await door.machine(request, carrier, reference)

    @post(f"{path}/transfer", operation_id="put_call_through", summary="To whom a call is handed over", **_DESCRIBED)
    async def put_call_through(
        request: AnyRequest, carrier: FromPath[str], reference: FromPath[str]
    ) -> Response[bytes]:
        """Answer with whom to connect a call with that is being handed over; Plivo and Vobiz ask."""
        return await door.transfer(request, carrier, reference)

    return [answer_dialled_call, tell_dialled_call, tell_dialled_call_by_get, tell_machine, put_call_through]


async def _webhook(request: AnyRequest, public_url: str | None) -> tuple[Webhook, str]:
    """Return a carrier's request, and how it reached us. Raises `BodyTooLarge`."""
    check_query(request.scope["query_string"])
    body = await request.body()
    origin = origin_of(request, public_url)
    query = request.scope["query_string"].decode("latin-1")
    raw_path = request.scope.get("raw_path") or request.scope["path"].encode()
    path = raw_path.partition(b"?")[0].decode("latin-1")
    webhook = Webhook(
        method=request.method,
        url=f"{origin}{path}" + (f"?{query}" if query else ""),
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]},
        query=dict(parse_qsl(query, keep_blank_values=True)),
        form=await _form(request, body),
        body=body,
    )
    return webhook, origin


async def _form(request: AnyRequest, body: bytes) -> Mapping[str, str]:
    """Return the fields of a body: of a form, in either encoding, or of flat JSON."""
    if not body:
        return {}
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("multipart/"):
        return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    if content_type.startswith(_JSON):
        try:
            found = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise WebhookMalformed("The body isn't JSON.") from error
        fields = cast("dict[str, object]", found) if isinstance(found, dict) else {}
        return {name: value if isinstance(value, str) else str(value) for name, value in fields.items()}
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=256))
    except ValueError as error:
        raise WebhookMalformed("The body isn't a form.") from error


def _response(document: Document) -> Response[bytes]:
    return Response(
        document.body,
        status_code=document.status,
        media_type=document.media_type,
        headers={"cache-control": "no-store"},
    )
