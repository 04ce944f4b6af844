"""The built-in bots. They are plain Pipecat bots and know nothing of Greenroom."""
