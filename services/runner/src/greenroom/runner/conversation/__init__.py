"""For bots that want it: when to greet, when to ask whether somebody is still there, when to come to an end.

    timers = ConversationTimers(Timing(idle_after_s=20.0))
    pipeline = Pipeline([transport.input(), stt, aggregators.user(), timers, llm, tts, transport.output(), …])

    @timers.event_handler("on_greet")
    async def on_greet(timers): ...

Nothing of it needs the runner: it works wherever the bot's pipeline does.
"""

from greenroom.runner.conversation.timers import ConversationTimers
from greenroom.runner.conversation.timing import Conversation, Cue, Timing

__all__ = ["Conversation", "ConversationTimers", "Cue", "Timing"]
