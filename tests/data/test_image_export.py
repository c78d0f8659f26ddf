"""Images travel to their site as they are: the same examples there as in the whole data set, to the bit."""

from pathlib import Path

import pytest
import torch

from fedha import data
from fedha.cli.commands import app
from fedha.cli.exits import exit_code
from fedha.config import DataConfig, parse
from fedha.data.images.export import export_images
from fedha.errors import FedhaError
from tests.data.image_folders import image_folder

SET = {"target": "sketch", "size": 8, "channels": 3, "class_names": ["cat", "dog"]}


def config(root: Path, **section: object) -> DataConfig:
    return parse({"data": {"name": "folder", "root": str(root), **SET, **section}}).data


def test_a_site_has_from_its_folder_what_the_whole_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder(tmp_path / "images")
    (root / "art" / "cat" / "note.txt").write_text("no image")
    given = tmp_path / "c.yaml"
    given.write_text(f"data: {{name: folder, root: {root}, target: sketch, size: 8, channels: 3}}\nseed: 4\n")
    code = exit_code(lambda **settings: app(["export", str(given), str(tmp_path / "sites")], **settings))
    assert (code, "art: 10 images" in capsys.readouterr().out) == (0, True)
    whole = data.load(config(root), 4)
    for client, name in enumerate(("art", "photo")):
        site = tmp_path / "sites" / name
        assert [one.name for one in site.iterdir()] == [name]
        own = data.load_own(config(site), 4, client)
        assert torch.equal(own.train.take(), whole.sources[client].train.take())
        assert torch.equal(own.held_out.take(), whole.sources[client].held_out.take())
    assert not list((tmp_path / "sites").rglob("note.txt"))


def test_a_broken_image_stays_behind(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images")
    (root / "art" / "cat" / "2.png").write_bytes(b"broken")
    found = data.load(config(root, on_broken="skip"), 0)
    made = export_images(found.sources, root, tmp_path / "sites")
    assert sorted(made) == [tmp_path / "sites" / "art", tmp_path / "sites" / "photo"]
    assert not (tmp_path / "sites" / "art" / "art" / "cat" / "2.png").exists()
    assert len(list((tmp_path / "sites" / "art").rglob("*.png"))) == 9


def test_nothing_is_overwritten_and_nothing_is_left_half(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images")
    found = data.load(config(root), 0)
    (tmp_path / "sites" / "photo").mkdir(parents=True)
    with pytest.raises(FedhaError, match=r"photo is there already and nothing is overwritten"):
        export_images(found.sources, root, tmp_path / "sites")
    (root / "photo" / "dog" / "3.png").unlink()
    with pytest.raises(FedhaError, match=r"the image .*3\.png has gone; export again"):
        export_images(found.sources, root, tmp_path / "others" / "deep")
    assert not (tmp_path / "others").exists()
