"""Commands of a small sweep."""

from pathlib import Path

import pytest

from fedha.cli.commands import app
from fedha.cli.exits import exit_code
from tests.sweep.made import CONFIG, Command, write_data


@pytest.fixture
def fedha(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in a folder with three domains and a config: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "d")
    (tmp_path / "c.yaml").write_text(CONFIG)

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = exit_code(lambda **settings: app(list(arguments), **settings))
        return code, *capsys.readouterr()

    return command
