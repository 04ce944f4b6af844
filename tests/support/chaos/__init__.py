"""Chaos for the recorder: what is drawn (`plan`, `calls`), who plays it (`field`), who judges (`verdict`)."""
