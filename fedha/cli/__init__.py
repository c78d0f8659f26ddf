"""The command line: ``fedha run``, ``resume``, ``report``, ``recipes``, ``check``, ``version``."""

from fedha.heap import restart_uncached

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit."""
    restart_uncached()
    from fedha.cli.commands import main as commands  # only now: what is imported is imported once

    commands()
