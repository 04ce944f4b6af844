"""Steps after calls: what is made of a session when it is over and kept, on a queue of its own.

- A trigger notes the session in the transaction that seals it. The feeder tells `transcript.ready` and queues each
  step that is configured (stream POSTCALL), and only then forgets the note.
- A step runs in any recorder that takes part, in none of its other ways: what is stored or sealed never waits for one.
  It is acknowledged when its result is stored; a recorder that is killed, or stops, leaves it to the next one.
- What fails comes again with growing delays; after a dozen attempts it is `failed`, and its message is parked.
- The result is a row of the session, and an event `post_call.{step}`.

A plug-in is an entry point of the group `greenroom.post_call`: a `Step`, or what makes one when it is called.
"""

from greenroom.recorder.post_call.step import Call, Line, Step, StepRefused

__all__ = ["Call", "Line", "Step", "StepRefused"]
