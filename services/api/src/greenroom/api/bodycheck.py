"""The one place that knows the JSON Schema library: checks a request's `body` against its agent's schema."""

import re
from collections.abc import Callable
from typing import Any, Final

import jsonschema.exceptions
import jsonschema.validators
import referencing
import referencing.exceptions

from greenroom.api.body import pointer
from greenroom.common.errors import FieldProblem, GreenroomError, InvalidBody

# Whoever sends a body with more problems than this has sent another kind of body.
_MAX_PROBLEMS: Final = 20
_MAX_TEXT: Final = 200

type BodyCheck = Callable[[dict[str, Any]], None]


class AgentSchemaBroken(GreenroomError):
    """The `body_schema` that the agent's bot announces is no usable JSON Schema. Mend it in the bot's definition."""

    code = "agent-schema-broken"
    status = 500
    title = "The agent's schema is broken"


def body_check(schema: dict[str, Any] | None) -> BodyCheck:
    """Return the check for bodies of an agent; None takes any.

    The check raises `InvalidBody` with a problem for each place, and `AgentSchemaBroken` if the schema itself is at
    fault. References lead to nothing outside the schema: nothing is ever fetched.
    """
    if schema is None:
        return _anything
    make: Any = jsonschema.validators.validator_for(schema, default=jsonschema.validators.Draft202012Validator)
    nowhere: Any = referencing.Registry  # its own types are incomplete
    validator = make(schema, registry=nowhere())

    def check(body: dict[str, Any]) -> None:
        try:
            found: list[Any] = []
            for error in validator.iter_errors(body):
                found.append(error)
                if len(found) == _MAX_PROBLEMS:
                    break
        except (
            jsonschema.exceptions.SchemaError,
            jsonschema.exceptions.UnknownType,
            referencing.exceptions.Unresolvable,
            # What comes of keywords with a wrong kind of value, of a broken `pattern`, and of references in a circle.
            TypeError,
            ValueError,
            AttributeError,
            re.error,
            RecursionError,
        ) as error:
            raise AgentSchemaBroken from error
        if found:
            problems = [
                FieldProblem(pointer=pointer("body", *error.absolute_path), detail=error.message[:_MAX_TEXT])
                for error in found
            ]
            first = problems[0]
            raise InvalidBody(f"{first.pointer}: {first.detail}", errors=problems)

    return check


def _anything(_body: dict[str, Any]) -> None:
    return None
