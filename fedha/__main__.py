"""``python -m fedha`` is ``fedha``."""

from fedha.cli.commands import main

main()
