"""The session process: one bot, one call, in a process of its own.

In the order in which things happen: `process` (after the fork: logs, traces, broker, standby) → `live` (the
session from its assignment to its last message) → `attach` (how an unmodified bot's pipeline is observed) →
`observer`, `speech`, `recording` (what is seen and heard there) → `emitter` (how it is published).
"""
