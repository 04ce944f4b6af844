"""Listening in: the call's live audio for whoever asks for it, and a supervisor's voice into the call."""
