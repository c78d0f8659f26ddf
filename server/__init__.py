"""The deployable server."""
