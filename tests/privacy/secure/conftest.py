"""What tests of secure sums share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def site_log() -> Iterator[list[str]]:
    """What clients write into their own logs."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(f"{record.getMessage()} {record.exc_info}")  # type: ignore[method-assign]
    logging.getLogger("flwr").addHandler(handler)
    yield lines
    logging.getLogger("flwr").removeHandler(handler)
