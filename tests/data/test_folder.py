"""Laws of a folder of archives: what is no domain is passed over, and said where it could have been meant."""

from pathlib import Path

import numpy
import pytest

from fedha import data
from fedha.config import DataConfig
from fedha.data.folder import domains_in
from fedha.errors import FedhaError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "t"):
        numpy.savez(tmp_path / f"{name}.npz", inputs=numpy.arange(20.0).reshape(10, 2), labels=[0, 1] * 5)
    (tmp_path / "north.NPZ").write_bytes((tmp_path / "a.npz").read_bytes())
    (tmp_path / "x.npz").mkdir()
    (tmp_path / "gone.npz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "array.npy").write_bytes(b"")
    (tmp_path / "._a.npz").write_bytes(b"what another system leaves")
    (tmp_path / "notes.txt").write_text("nobody means this")
    return tmp_path


def test_what_is_no_domain_is_passed_over_with_a_note(folder: Path) -> None:
    names, notes = domains_in(folder)
    assert names == ["a", "t"]
    assert notes == [
        "array.npy is passed over: it is a single array; a domain is an archive with inputs and labels",
        "gone.npz is passed over: it is no file, or a link to none",
        "north.NPZ is passed over: call it north.npz",
        "x.npz is passed over: it is a folder",
    ]
    found = data.load(DataConfig(name="arrays", root=folder, target="t"), 0)
    assert [one.name for one in found.sources] == ["a"]
    assert set(notes) <= set(found.notes)
    assert notes[2] in found.description


def test_a_name_that_was_passed_over_is_told_where_it_is_asked_for(folder: Path) -> None:
    with pytest.raises(FedhaError, match=r"data.target names 'north'.*north\.NPZ is passed over: call it north\.npz"):
        data.load(DataConfig(name="arrays", root=folder, target="north"), 0)


def test_a_folder_with_nothing_but_what_is_passed_over_says_so(tmp_path: Path) -> None:
    (tmp_path / "NORTH.NPZ").write_bytes(b"")
    with pytest.raises(FedhaError, match=r"no \.npz file in .*\(NORTH\.NPZ is passed over: call it NORTH\.npz\)"):
        data.load(DataConfig(name="arrays", root=tmp_path, target="t"), 0)


def test_a_servers_config_leads_a_site_to_no_other_folder(folder: Path) -> None:
    (folder / "a.npz").rename(folder.parent / "secret.npz")
    config = DataConfig(name="arrays", root=folder, target="t", classes=2, sources=["../secret"])
    with pytest.raises(FedhaError, match=r"holds no \.\./secret\.npz, only t; put it there"):
        data.load_own(config, 0, 0)


def test_a_site_is_not_led_astray_by_a_folder(folder: Path) -> None:
    (folder / "t.npz").unlink()
    config = DataConfig(name="arrays", root=folder, target="t", classes=2)
    assert data.load_own(config, 0, 0).name == "a"
