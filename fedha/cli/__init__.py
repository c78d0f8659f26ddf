"""The command line: ``fedha run``, ``resume``, ``report``, ``recipes``, ``check``, ``version``."""

from fedha.cli.commands import app, main

__all__ = ["app", "main"]
