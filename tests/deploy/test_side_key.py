"""A site's secret of who is held out: made once, its own, and what a private run of the site goes by."""

from pathlib import Path

import pytest
import torch

from fedha import data
from fedha.config import to_json
from fedha.deploy import apps
from fedha.deploy.side_key import side_key
from fedha.errors import FedhaError
from tests.privacy.rounds import settings


def test_a_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    one = side_key(tmp_path / "one")
    assert side_key(tmp_path / "one") == one != side_key(tmp_path / "other")
    (path,) = (tmp_path / "one" / "account").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_damaged_key_is_never_replaced_in_silence(tmp_path: Path) -> None:
    side_key(tmp_path)
    (tmp_path / "account" / "sides.key").write_bytes(b"short")
    with pytest.raises(FedhaError, match=r"sides\.key of what is held out has 5 bytes, not 32; restore it"):
        side_key(tmp_path)


def test_a_folder_that_takes_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(FedhaError, match=r"cannot keep this site's key .*make its folder writable"):
        side_key(tmp_path / "cache")


def held(config: object, cache: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setenv("FEDHA_CACHE", str(cache))
    apps._clients.cache_clear()
    clients = apps._clients(to_json(config), 0, None)  # type: ignore[arg-type]
    return clients._make_domain(None).held_out.inputs  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["stratified", "random"])
def test_a_sites_sides_are_its_keys_where_examples_are_protected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    monkeypatch.delenv("FEDHA_DATA", raising=False)
    config = settings("iga", data={"split": split})
    one, same, other = (held(config, tmp_path / name, monkeypatch) for name in ("a", "a", "b"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    key = side_key(tmp_path / "a")
    assert torch.equal(one, data.load_own(config.data, config.seed[0], 0, key).held_out.inputs)


def test_without_protection_a_site_has_the_simulations_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDHA_DATA", raising=False)
    config = settings("iga", privacy={"protect": "nothing"})
    inputs = held(config, tmp_path, monkeypatch)
    assert torch.equal(inputs, data.load(config.data, config.seed[0]).sources[0].held_out.inputs)
    assert not (tmp_path / "account" / "sides.key").exists()


def test_a_simulation_with_a_sites_key_has_the_sites_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDHA_DATA", raising=False)
    config = settings("iga")
    inputs = held(config, tmp_path, monkeypatch)
    usual = data.load(config.data, config.seed[0], protected=True).sources
    keys = {usual[0].name: side_key(tmp_path)}
    first, second = data.load(config.data, config.seed[0], protected=True, keys=keys).sources
    assert torch.equal(first.held_out.inputs, inputs)
    assert not torch.equal(first.held_out.inputs, usual[0].held_out.inputs)
    assert torch.equal(second.held_out.inputs, usual[1].held_out.inputs)
