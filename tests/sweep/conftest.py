"""Commands of a small sweep."""

from pathlib import Path

import pytest

from tests.commands import Command
from tests.sweep.made import CONFIG, write_data


@pytest.fixture
def fedha(fedha: Command, tmp_path: Path) -> Command:
    """Runs a command in a folder with three domains and a config."""
    write_data(tmp_path / "d")
    (tmp_path / "c.yaml").write_text(CONFIG)
    return fedha
