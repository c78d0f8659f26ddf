"""A site keeps features of a frozen network where its own limits allow it, whatever the server's config says."""

import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedha.config import Config, to_json
from fedha.deploy import apps
from fedha.engine.inline import InlineGrid
from fedha.flower.serve import Job, serve
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.test_features import image_config

NAMES = ("a", "b")


class Sites(InlineGrid):
    """Sites with a folder for their data and one for what they keep, each message to a new process."""

    def __init__(self, folder: Path, run_config: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
        super().__init__(apps.deployed_client_app(), len(NAMES), run_config)
        self.folder, self.patch = folder, patch

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names: list[str] = []
        for message in messages:
            apps._clients.cache_clear()
            name = NAMES[list(self._contexts).index(message.metadata.dst_node_id)]
            self.patch.setenv("FEDHA_DATA", str(self.folder / "data" / name))
            self.patch.setenv("FEDHA_CACHE", str(self.folder / "kept" / name))
            names += super().push_messages([message])
        return names


def asked(tmp_path: Path) -> Config:
    """A config that names a cache of the server's, for sites with folders of images."""
    config = image_config(tmp_path, federation={"clients": 2})
    own = {"sources": list(NAMES), "channels": 1, "class_names": ["x", "y"], "root": None}
    return config.model_copy(update={"data": config.data.model_copy(update=own)})


def run(config: Config, tmp_path: Path, name: str, patch: pytest.MonkeyPatch) -> bytes:
    for domain in NAMES:
        shutil.copytree(tmp_path / "images" / domain, tmp_path / "data" / domain / domain, dirs_exist_ok=True)
    folder = tmp_path / name
    grid = Sites(tmp_path, {"settings": to_json(config), "out": name}, patch)
    serve(Job(config, folder), grid, Silent(), domains=None)
    return (folder / runfolder.MODEL).read_bytes()


def test_a_site_keeps_features_where_its_limits_allow_it_and_forgets_them_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, limits = asked(tmp_path), tmp_path / "limits.yaml"
    monkeypatch.delenv("FEDHA_LIMITS", raising=False)
    (tmp_path / "accepted.txt").write_text(f"code {config.model.name}\n")
    monkeypatch.setenv("FEDHA_ACCEPTED", str(tmp_path / "accepted.txt"))
    plain = run(config, tmp_path, "plain", monkeypatch)
    caches = [tmp_path / "kept" / name / "features" for name in NAMES]
    assert not any(one.exists() for one in caches)
    assert not (tmp_path / "features").exists()

    limits.write_text("cache_features: true\n")
    monkeypatch.setenv("FEDHA_LIMITS", str(limits))
    assert run(config, tmp_path, "kept", monkeypatch) == plain
    for cache in caches:
        rows = list(cache.glob("*/*.rows"))
        assert {stat.S_IMODE(one.stat().st_mode) for one in rows} == {0o600}
        assert sum(one.stat().st_size for one in rows) == 12 * 5 * 4

    gone = next((tmp_path / "data" / "a").glob("a/x/*.png"))
    gone.unlink()
    (tmp_path / "images" / "a" / "x" / gone.name).unlink()
    shutil.rmtree(tmp_path / "kept" / "a" / "account")  # the site's own decision: its examples are others
    run(config, tmp_path, "less", monkeypatch)
    assert [sum(one.stat().st_size for one in cache.glob("*/*.rows")) // 20 for cache in caches] == [11, 12]

    limits.write_text("cache_features: false\n")
    assert run(config, tmp_path, "again", monkeypatch)
    assert not any(list(one.glob("*")) for one in caches)
