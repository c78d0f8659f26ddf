"""Laws of a manifest: it says what a tree of folders would, and whatever is wrong with it is said with its line."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fedha.config import DataConfig
from fedha.data import DomainSet, load, load_own, load_targets
from fedha.errors import FedhaError
from tests.data.image_folders import image_folder

HEADER = "path,domain,label"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images")


def rows_of(root: Path) -> list[str]:
    """A row for every image of a tree, in its order."""
    found = sorted(one.relative_to(root) for one in root.rglob("*.png"))
    return [f"{one},{one.parts[0]},{one.parts[1]}" for one in found]


def listed(root: Path, rows: Sequence[str], header: str = HEADER, name: str = "list.csv") -> Path:
    path = root / name
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return path


def mine(manifest: Path, **options: object) -> DomainSet:
    return load(DataConfig(**({"name": "folder", "manifest": manifest, "target": "sketch", "size": 8} | options)), 0)


def refused(manifest: Path, **options: object) -> str:
    with pytest.raises(FedhaError) as caught:
        mine(manifest, **options)
    return str(caught.value)


def test_a_list_of_all_images_is_the_tree(root: Path) -> None:
    tree = load(DataConfig(name="folder", root=root, target="sketch", size=8), 0)
    found = mine(listed(root, rows_of(root)))
    assert [one.name for one in found.sources] == [one.name for one in tree.sources]
    for one, other in zip((*found.sources, *found.targets), (*tree.sources, *tree.targets), strict=True):
        for part in ("train", "held_out"):
            assert torch.equal(getattr(one, part).labels, getattr(other, part).labels)
            assert torch.equal(getattr(one, part).kept()[""], getattr(other, part).kept()[""])


def test_paths_that_windows_wrote_are_read(root: Path) -> None:
    (root / "art" / "cat" / "0.png").rename(root / "art" / "cat" / "a\\b.png")  # what is called so here stays that
    rows = [row if "\\" in row else row.replace("/", "\\") for row in rows_of(root)]
    found = mine(listed(root, rows))
    assert sum(len(one.train) + len(one.held_out) for one in found.sources) == 20
    assert all(len(one.train.kept()[""]) == len(one.train) for one in found.sources)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_separators_quotes_and_a_byte_order_mark_are_read(root: Path, mark: str) -> None:
    (root / "art" / "cat" / "0.png").rename(root / "art" / "cat" / "a, b; c.png")
    rows = [row.replace(",", mark) for row in rows_of(root) if "a, b" not in row]
    rows += [f'"art/cat/a, b; c.png"{mark}art{mark}cat', ""]
    (root / "list.csv").write_text(f"{HEADER.upper().replace(',', mark)}\r\n" + "\r\n".join(rows), "utf-8-sig")
    assert sum(len(one.train) + len(one.held_out) for one in mine(root / "list.csv").sources) == 20


def test_paths_are_relative_to_the_root_or_to_the_list(root: Path, tmp_path: Path) -> None:
    elsewhere = listed(tmp_path, rows_of(root))
    assert "there is no file" in refused(elsewhere)
    assert len(mine(elsewhere, root=root).sources) == 2
    listed(root, rows_of(root), name="own.csv")
    assert len(mine(Path("own.csv"), root=root).sources) == 2


def test_the_split_says_who_is_held_out_and_a_target_is_evaluated_whole(root: Path) -> None:
    splits = ["train", "train", "val", "held_out", "Test"]
    rows = [f"{row},{splits[at % 5]}" for at, row in enumerate(rows_of(root))]
    found = mine(listed(root, rows, f"{HEADER},split"))
    for one in found.sources:
        assert (len(one.train), len(one.held_out)) == (4, 6)
    assert len(found.targets[0].held_out) == 10
    assert "data.held_out is 0.5, but the column split" in refused(root / "list.csv", held_out=0.5)


def test_groups_stay_together_and_are_told_where_the_split_parts_them(root: Path) -> None:
    rows = [f"{row},patient {at // 2}" for at, row in enumerate(rows_of(root))]
    manifest = listed(root, rows, f"{HEADER},group")
    for one in mine(manifest, held_out=0.4).sources:
        assert not set(one.train.groups.tolist()) & set(one.held_out.groups.tolist())
        assert len(one.held_out) > 0
    both = listed(root, [f"{row},{('train', 'val')[at % 2]}" for at, row in enumerate(rows)], f"{HEADER},group,split")
    assert "5 groups of art are both trained on and held out" in " ".join(mine(both).notes)


def test_labels_may_be_numbers(root: Path) -> None:
    rows = [row.replace(",cat", ",0").replace(",dog", ",1") for row in rows_of(root)]
    found = mine(listed(root, rows))
    assert found.classes == 2
    assert sorted(set(found.targets[0].held_out.labels.tolist())) == [0, 1]
    assert mine(root / "list.csv", class_names=["cat", "dog", "bird"]).classes == 3
    beyond = listed(root, [row.replace(",1", ",4") for row in rows])
    assert "go up to 4 but none is 1; number the classes 0, 1, 2" in refused(beyond)
    assert "label '4' of domain art is none of the classes cat, dog" in refused(beyond, class_names=["cat", "dog"])


def test_a_byte_order_mark_says_the_encoding_as_everywhere(root: Path) -> None:
    (root / "list.csv").write_text("\n".join([HEADER, *rows_of(root)]), "utf-16")
    assert sum(len(one.train) + len(one.held_out) for one in mine(root / "list.csv").sources) == 20


def test_numbers_are_in_the_order_of_numbers(root: Path) -> None:
    rows = [row.rpartition(",")[0] + f",{at % 12}" for at, row in enumerate(rows_of(root))]
    assert mine(listed(root, rows), sources=["art", "photo"]).classes == 12


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("file,domain,label", "", "has no column 'path', only file, domain, label"),
        ("path,domain,lable", "", "has no column 'label', only path, domain, lable; did you mean 'lable'?"),
        ("path,domain,label,label", "", "has the column 'label' twice"),
        (HEADER, "art/cat/1.png,art", "line 3 of .* has 2 cells but the header has 3"),
        (HEADER, "art/cat/1.png,,cat", "line 3: its domain is empty"),
        (HEADER, "art/cat/9.png,art,cat", r"line 3: there is no file .*art/cat/9\.png"),
        (HEADER, "art/../art/cat/0.png,art,dog", "line 3: line 2 has the same path"),
        (HEADER, "photo/cat/0.png,Art,cat", "names of domain 'art' and domain 'Art' differ by case"),
        (HEADER, "photo/cat/0.png,photo,Cat", "names of label 'cat' and label 'Cat' differ by case"),
        (f"{HEADER},split", "photo/cat/0.png,photo,cat,dev", "line 3: its split is 'dev', not one of train, held_out"),
        (f"{HEADER},group", "photo/cat/0.png,photo,cat,", "line 3: its group is empty"),
        (HEADER, 'photo/cat/0.png,"photo,cat', "cannot read data.manifest .*unexpected end of data"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(root: Path, header: str, row: str, said: str) -> None:
    first = "art/cat/0.png,art,cat" + ",train" * (header.count(",") - 2)
    manifest = listed(root, [first, row], header)
    with pytest.raises(FedhaError, match=said):
        mine(manifest, sources=["art"], target="photo")


def test_faults_without_end_are_counted(root: Path) -> None:
    said = refused(listed(root, [f"none/{number}.png,art,cat" for number in range(100)]))
    assert "line 2: there is no file" in said
    assert "and 97 more lines alike; mend the file" in said
    assert len(said) < 600


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"path,domain,label\n", b"path\x00,domain,label\nx"])
def test_what_is_no_list_is_refused(root: Path, content: bytes) -> None:
    (root / "list.csv").write_bytes(content)
    assert "list.csv" in refused(root / "list.csv")
    assert "No such file" in refused(root / "none.csv")
    assert "Is a directory" in refused(root)


def test_a_missing_image_is_left_out_where_that_was_asked_for(root: Path) -> None:
    manifest = listed(root, [*rows_of(root), "art/none.png,art,cat"])
    found = mine(manifest, on_broken="skip")
    assert "1 of 11 images of art are broken and left out: art/none.png (No such file" in " ".join(found.notes)


def test_a_source_that_is_held_out_whole_is_refused(root: Path) -> None:
    manifest = listed(root, [f"{row},{'val' if 'art' in row else 'train'}" for row in rows_of(root)], f"{HEADER},split")
    assert "the column split leaves domain art no image to train on" in refused(manifest)


def test_a_site_reads_the_list_in_its_own_folder(root: Path) -> None:
    listed(root, rows_of(root))
    known = {"size": 8, "channels": 3, "class_names": ["cat", "dog"], "target": "sketch"}
    config = DataConfig(name="folder", root=root, manifest=Path("list.csv"), sources=["art", "photo"], **known)
    whole = mine(root / "list.csv", **known)
    assert torch.equal(load_own(config, 0, 1).train.kept()[""], whole.sources[1].train.kept()[""])
    assert torch.equal(load_targets(config, 0)[0].held_out.labels, whole.targets[0].held_out.labels)
    for name in ("../list.csv", str(root / "list.csv")):
        with pytest.raises(FedhaError, match="a site's list is in its own folder"):
            load_own(config.model_copy(update={"manifest": Path(name)}), 0, 0)
