"""Keeps events and audio, and seals recordings."""
