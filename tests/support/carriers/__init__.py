"""Carriers for tests, written from their documentation: webhooks, media sockets and APIs in their wire format."""
