"""Functions that a bot exposes to its operators.

The bot's module has a dictionary `EXPOSED`, by name; nothing of Greenroom is imported for it:

    EXPOSED = {}

    async def bot(runner_args):
        ...
        async def set_topic(topic: str, *, urgent: bool = False) -> dict:
            "Change what the conversation is about."
            ...
        EXPOSED["set_topic"] = set_topic

It is looked up when it is called, and each session has a process of its own, so functions that are put there inside
`bot` belong to that call. What a function takes is said by its annotations; what doesn't fit them doesn't reach it.
"""

import asyncio
import contextvars
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, cast, get_type_hints

import msgspec

from greenroom.common.command_errors import FunctionArgumentsInvalid, FunctionFailed, FunctionUnknown
from greenroom.common.commands import MAX_ARGUMENTS_BYTES, MAX_RESULT_BYTES, ExposedFunction
from greenroom.runner.session.ending import where_raised

ATTRIBUTE: Final = "EXPOSED"
# How many of them are listed.
_MAX_LISTED: Final = 64
_MAX_DESCRIPTION: Final = 300
_TAKES_BY_NAME: Final = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}

type Function = Callable[..., Any]


class Exposed:
    """The functions of one bot.

    Args:
        module: the name of the bot's module; None while it isn't known.
        context: what the bot runs in, and so its functions.
    """

    def __init__(self, context: contextvars.Context) -> None:
        self.module: str | None = None
        self._context = context

    def __contains__(self, name: str) -> bool:
        """Whether there is a function of this name."""
        return name in self._functions()

    def listed(self) -> tuple[ExposedFunction, ...]:
        """Return what can be called, with the schema of what it takes."""
        found: list[ExposedFunction] = []
        for name, function in sorted(self._functions().items())[:_MAX_LISTED]:
            try:
                schema = _schema(_arguments(function))
            except (TypeError, NameError):
                schema = {}
            description = (inspect.getdoc(function) or "").partition("\n\n")[0][:_MAX_DESCRIPTION]
            found.append(ExposedFunction(name=name, description=description, arguments=schema))
        return tuple(found)

    async def call(self, name: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """Call a function and return what it returns, as JSON values.

        A plain function is called on the event loop, so it has to be quick; a coroutine is canceled after `timeout_s`.

        Raises:
            FunctionUnknown: there is none of this name.
            FunctionArgumentsInvalid: the arguments don't fit its annotations, or are too large.
            FunctionFailed: it raised, took too long, or returned what isn't JSON or is too large.
        """
        function = self._functions().get(name)
        if function is None:
            raise FunctionUnknown(f"There is no function {name!r}.")
        taken = _checked(function, arguments)
        running = asyncio.get_running_loop().create_task(
            _called(function, taken), name=f"call {name}", context=self._context.copy()
        )
        try:
            async with asyncio.timeout(timeout_s):
                result = await running
        except TimeoutError as error:
            raise FunctionFailed(f"{name} took longer than {timeout_s:g} s.") from error
        except asyncio.CancelledError as error:
            if (current := asyncio.current_task()) is not None and current.cancelling():
                raise
            raise FunctionFailed(f"{name} canceled itself.") from error
        except (Exception, SystemExit) as error:
            # Its text may hold anything.
            raise FunctionFailed(f"{name} raised {where_raised(error)}.") from error
        return _bounded(name, result)

    def _functions(self) -> dict[str, Function]:
        module = sys.modules.get(self.module or "")
        exposed = getattr(module, ATTRIBUTE, None)
        if not isinstance(exposed, Mapping):
            return {}
        functions = cast("Mapping[Any, Any]", exposed)
        return {str(name): function for name, function in functions.items() if callable(function)}


async def _called(function: Function, arguments: dict[str, Any]) -> Any:
    result = function(**arguments)
    return await result if inspect.isawaitable(result) else result


def _checked(function: Function, arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        if len(msgspec.json.encode(arguments)) > MAX_ARGUMENTS_BYTES:
            raise FunctionArgumentsInvalid(f"The arguments have more than {MAX_ARGUMENTS_BYTES} bytes.")
        kind = _arguments(function)
    except (TypeError, NameError) as error:
        raise FunctionFailed("The function's annotations can't be checked.") from error
    try:
        taken = msgspec.convert(arguments, kind)
    except msgspec.ValidationError as error:
        raise FunctionArgumentsInvalid(str(error)) from error
    return {name: value for name in kind.__struct_fields__ if (value := getattr(taken, name)) is not msgspec.UNSET}


def _arguments(function: Function) -> type[msgspec.Struct]:
    """Return a struct of what a function takes; raises TypeError or NameError for one that can't be called so."""
    hints = get_type_hints(function, include_extras=True)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in _TAKES_BY_NAME:
            raise TypeError(f"{name} can't be given by name")
        hint = hints.get(name, Any)
        if parameter.default is inspect.Parameter.empty:
            fields.append((name, hint))
        else:
            # Left out unless it is given: the function knows its default.
            fields.append((name, hint | msgspec.UnsetType, msgspec.UNSET))
    return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    schema = msgspec.json.schema(kind)
    definitions: dict[str, Any] = schema.get("$defs", {})
    own: dict[str, Any] = definitions.pop("Arguments", {})
    own.pop("title", None)
    return {**own, **({"$defs": definitions} if definitions else {})}


def _bounded(name: str, result: Any) -> Any:
    try:
        encoded = msgspec.json.encode(result)
        if len(encoded) <= MAX_RESULT_BYTES:
            return msgspec.json.decode(encoded)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise FunctionFailed(f"{name} returned what isn't JSON.") from error
    raise FunctionFailed(f"{name} returned {len(encoded)} bytes, {MAX_RESULT_BYTES} at most.")
