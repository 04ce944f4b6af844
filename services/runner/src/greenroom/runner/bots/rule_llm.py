"""A language model that is a function: it replies by rules, and calls tools as any model does."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, override

from pipecat.adapters.llm.base_llm_adapter import BaseLLMAdapter
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    Frame,
    FunctionCallFromLLM,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings
from pipecat.utils.tracing import service_decorators

# A message of the context, in the shape of OpenAI's chat API: `role`, `content`, `tool_calls`, ….
type Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """The reply is spoken."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The reply is the call of a tool."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


type Rules = Callable[[Sequence[Message]], Text | ToolCall]


class RuleAdapter(BaseLLMAdapter[Any]):
    """Hands contexts over as they are: there is no provider that wants them in a format of its own."""

    @property
    @override
    def id_for_llm_specific_messages(self) -> str:
        """Return the name under which messages are for this model alone."""
        return "rules"

    @override
    async def get_llm_invocation_params(self, context: LLMContext, **kwargs: Any) -> dict[str, Any]:
        """Return what the rules are given."""
        return {"messages": _messages(context)}

    @override
    def to_provider_tools_format(self, tools_schema: ToolsSchema) -> list[dict[str, Any]]:
        """Return the tools as JSON objects."""
        return [tool.to_default_dict() for tool in tools_schema.standard_tools]

    @override
    def get_messages_for_logging(self, context: LLMContext) -> list[dict[str, Any]]:
        """Return the messages of a context."""
        return [dict(message) for message in _messages(context)]


class RuleLLMService(LLMService[Any]):
    """Replies to a context as its rules say. It needs no key and no network, and always replies the same.

    Args:
        rules: give the reply to the messages so far; called on the event loop, so they have to be quick.
    """

    adapter_class = RuleAdapter

    def __init__(self, rules: Rules, **kwargs: Any) -> None:
        super().__init__(
            settings=LLMSettings(
                model="rules",
                system_instruction=None,
                temperature=None,
                max_tokens=None,
                top_p=None,
                top_k=None,
                frequency_penalty=None,
                presence_penalty=None,
                seed=None,
                filter_incomplete_user_turns=False,
                user_turn_completion_config=None,
            ),
            **kwargs,
        )
        self._rules = rules

    @override
    def can_generate_metrics(self) -> bool:
        """Time to first byte and processing; there are no tokens to count."""
        return True

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Reply to a context; pass on all else."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        await self.push_frame(LLMFullResponseStartFrame())
        await self.start_processing_metrics()
        try:
            await self._process_context(frame.context)
        finally:
            await self.stop_processing_metrics()
            await self.push_frame(LLMFullResponseEndFrame())

    @service_decorators.traced_llm
    async def _process_context(self, context: LLMContext) -> None:
        await self.start_ttfb_metrics()
        reply = self._rules(_messages(context))
        await self.stop_ttfb_metrics()
        match reply:
            case Text():
                await self._push_llm_text(reply.text)
            case ToolCall():
                await self.stop_ttfat_metrics()
                call = FunctionCallFromLLM(
                    function_name=reply.name,
                    tool_call_id=f"call_{uuid.uuid4().hex}",
                    arguments=reply.arguments,
                    context=context,
                )
                await self.run_function_calls([call])


def _messages(context: LLMContext) -> list[Message]:
    return [message for message in context.get_messages() if not isinstance(message, LLMSpecificMessage)]
