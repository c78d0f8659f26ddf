"""What a site keeps on its disk: nothing of its data, and nothing that others on its machine can read."""

from pathlib import Path

import numpy
import pytest

from fedha.config import Config
from fedha.deploy.memory import forget_copies
from fedha.errors import FedhaError
from tests.deploy.test_private import deployed
from tests.privacy.rounds import settings

SITES = ("a", "b")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two sites' files in one folder, with a cache that an earlier version left."""
    (tmp_path / "data").mkdir()
    for place, name in enumerate(SITES):
        inputs = numpy.random.default_rng(place).normal(size=(40, 6)).astype("float32")
        numpy.savez(tmp_path / "data" / f"{name}.npz", inputs=inputs, labels=(inputs[:, 0] > 0).astype("int64"))
    (tmp_path / "cache/domains").mkdir(parents=True)
    (tmp_path / "cache/domains/0123.npz").write_bytes(b"a copy of what somebody's patients have")
    monkeypatch.setenv("FEDHA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDHA_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("FEDHA_LIMITS", raising=False)
    return tmp_path


def config(recipe: str) -> Config:
    data = {"name": "arrays", "sources": list(SITES), "classes": 2}
    return settings(recipe, federation={"clients": 2}, privacy={"protect": "nothing"}, data=data)


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_no_copy_of_the_data_is_kept_and_nobody_else_reads_what_is(site: Path) -> None:
    deployed(config("fishr"), site / "run")
    found = kept(site / "cache")
    assert {path.parts[len(site.parts) + 1] for path in found} == {"models", "averages"}
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    assert {path.parent.stat().st_mode & 0o777 for path in found} == {0o700}


def test_a_run_ends_with_the_source_that_it_reads(site: Path) -> None:
    deployed(config("iga"), site / "run")
    for name in SITES:
        (site / "data" / f"{name}.npz").unlink()
    with pytest.raises(FedhaError, match=r"a\.npz"):
        deployed(config("iga"), site / "again")


def test_an_account_is_for_its_owner_alone(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "limits.yaml").write_text("rounds_per_hour: 100\n")
    monkeypatch.setenv("FEDHA_LIMITS", str(site / "limits.yaml"))
    deployed(config("iga"), site / "run")
    accounts = kept(site / "cache/account")
    assert accounts
    assert {path.stat().st_mode & 0o777 for path in accounts} == {0o600}


def test_copies_that_cannot_be_removed_are_a_sentence(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fedha.deploy.memory.shutil.rmtree", refuse)
    with pytest.raises(FedhaError, match="copies of this site's data from an earlier version"):
        forget_copies(site / "cache")
