"""Decides which runner takes which session."""
