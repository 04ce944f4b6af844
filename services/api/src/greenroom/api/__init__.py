"""REST, server-sent events and the media edge."""
