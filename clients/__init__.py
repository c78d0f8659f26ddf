"""The deployable client."""
