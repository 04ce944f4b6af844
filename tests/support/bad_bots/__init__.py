"""Modules that break whatever imports or warms them."""
