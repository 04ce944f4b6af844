"""Services of vendors that do nothing with the user's audio but pass it on, by name: nobody has all their libraries.

Each decides on frames itself, beside the base class that it comes from. Others of Pipecat's models and voices leave
that to their bases, or listen, as those do that speech goes into and comes out of. A test looks at the source of all.
"""

from typing import Final

_SERVICES: Final = "pipecat.services."
NAMES: Final[frozenset[str]] = frozenset(
    _SERVICES + name
    for name in (
        "anthropic.llm.AnthropicLLMService",
        "asyncai.tts.AsyncAITTSService",
        "aws.llm.AWSBedrockLLMService",
        "azure.tts.AzureTTSService",
        "elevenlabs.tts.ElevenLabsHttpTTSService",
        "google.llm.GoogleLLMService",
        "hume.tts.HumeTTSService",
        "inworld.tts.InworldHttpTTSService",
        "openai.responses.llm.OpenAIResponsesHttpLLMService",
        "openai.responses.llm.OpenAIResponsesLLMService",
        "speechify.tts.SpeechifyHttpTTSService",
        "tts_service.InterruptibleTTSService",
    )
)


def is_one(kind: type) -> bool:
    """Tell whether a class is one of them."""
    return f"{kind.__module__}.{kind.__qualname__}" in NAMES
