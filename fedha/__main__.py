"""``python -m fedha`` is ``fedha``."""

from fedha.cli import main

main()
