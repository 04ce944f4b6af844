"""`/v1/sessions/{session_id}/recording`: the sealed audio, and its manifest."""

from pathlib import Path
from typing import Annotated, Any, Final, cast

import structlog
from litestar import MediaType, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Parameter
from litestar.response import Stream

from greenroom.api import examples
from greenroom.api.auth import SESSIONS_READ, caller_of
from greenroom.api.ranges import NotSatisfiable, Range, chunks, parse_range
from greenroom.api.routes.common import AnyRequest, only_query, problems
from greenroom.api.sessions import Sessions
from greenroom.api.store import Recording, Store
from greenroom.common import errors
from greenroom.common.errors import GreenroomError, RecordingNotFound, RecordingNotReady, SessionNotFound
from greenroom.common.ids import is_uuid
