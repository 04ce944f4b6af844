"""`/v1/sessions/{session_id}/post-call`: what steps made of a session when it was over."""

from typing import Any, Final

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from greenroom.api.auth import SESSIONS_READ, caller_of
from greenroom.api.post_call import PostCallSteps, Steps
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.sessions import Sessions
from greenroom.common.errors import SessionNotFound
from greenroom.common.ids import is_uuid

_OK: Final = 200
_EXAMPLE: Final[dict[str, Any]] = {
    "steps": [
        {
            "step": "summary",
            "state": "done",
            "attempts": 1,
            "result": {
                "summary": "The caller booked a table for four.",
                "model": "m",
                "tokens_in": 93,
                "tokens_out": 9,
            },
            "error": None,
            "updated_at": "2026-11-21T15:00:00Z",
        }
    ]
}


def post_call_routes(sessions: Sessions, steps: Steps) -> list[HTTPRouteHandler]:
    """Return the route.

    Args:
        sessions: knows which there are.
        steps: knows what was made of them.
    """

    @get(
        "/v1/sessions/{session_id:str}/post-call",
        operation_id="get_post_call",
        tags=["sessions"],
        opt={"scope": SESSIONS_READ},
        summary="Look at what was made of a session",
        responses={_OK: answer(PostCallSteps, "The steps, and what they gave", _EXAMPLE), **problems(SessionNotFound)},
    )
    async def get_post_call(request: AnyRequest, session_id: FromPath[str]) -> PostCallSteps:
        """Return the steps that run when a session is over, such as its summary: which are done, and their results.

        None are there before its recording is sealed, and none where none are configured.
        """
        only_query(request)
        tenant = caller_of(request).tenant
        found = await steps.of(tenant, session_id) if is_uuid(session_id) else []
        if not found:
            await sessions.find(tenant, session_id)
        return PostCallSteps(steps=found)

    return [get_post_call]
