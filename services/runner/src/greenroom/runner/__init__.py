"""Slots, session processes and the Pipecat bots in them."""
