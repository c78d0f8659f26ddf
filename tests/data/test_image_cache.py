"""Laws of the cache of decoded images: its numbers are the files', and whatever is not of them is made again."""

import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from fedha.data.images import cache as caching
from fedha.data.images.cache import cached
from fedha.data.images.decode import Square
from fedha.data.images.files import ImageFiles
from fedha.data.images.tree import read_domain
from fedha.errors import FedhaError, UnwrittenError
from tests.data.image_folders import image_folder, picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images", ("art", "photo"))


def art(root: Path, size: int = 8, channels: int = 3) -> ImageFiles:
    folder = read_domain(root, "art")
    return ImageFiles(folder.path, folder.files, Square(size, channels))


def arrays(place: Path) -> list[Path]:
    return sorted(place.glob("*.npy"))


def as_decoded(files: ImageFiles, place: Path) -> bool:
    found, _ = cached(place, files, skip=False)
    rows = torch.arange(len(files))
    return torch.equal(found.take(rows), files.take(rows))


def test_the_cache_is_made_once_and_holds_what_is_decoded(root: Path, tmp_path: Path) -> None:
    place = tmp_path / "a" / "cache"
    assert as_decoded(art(root), place)
    (one,) = arrays(place)
    before = one.stat()
    assert as_decoded(art(root), place)
    assert one.stat() == before
    assert sorted(path.name for path in place.iterdir()) == [f"{one.stem}.json", one.name]
    assert numpy.load(one).shape == (10, 3, 8, 8)


@pytest.mark.parametrize("more", [{"size": 9}, {"channels": 1}])
def test_other_settings_have_an_array_of_their_own(root: Path, tmp_path: Path, more: dict[str, int]) -> None:
    assert as_decoded(art(root), tmp_path / "cache")
    assert as_decoded(art(root, **more), tmp_path / "cache")
    assert len(arrays(tmp_path / "cache")) == 2


def test_images_that_changed_are_decoded_again(root: Path, tmp_path: Path) -> None:
    place, files = tmp_path / "cache", art(root)
    before, _ = cached(place, files, skip=False)
    picture(77, 30, 30).save(root / "art" / "cat" / "1.png")
    assert as_decoded(art(root), place)
    (root / "art" / "cat" / "1.png").unlink()
    assert as_decoded(art(root), place)
    assert len(before.take(torch.arange(10))) == 10  # of a run that goes on with what it began with


def test_a_folder_of_the_same_names_elsewhere_is_another(root: Path, tmp_path: Path) -> None:
    assert as_decoded(art(root), tmp_path / "cache")
    assert as_decoded(art(image_folder(tmp_path / "other", ("photo", "art"))), tmp_path / "cache")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: numpy.save(path, numpy.zeros((10, 3, 8, 8), numpy.uint8)),
        lambda path: numpy.save(path, numpy.zeros((10, 3, 8, 8), numpy.float32)),
        lambda path: numpy.save(path, numpy.zeros((9, 3, 8, 8), numpy.uint8)),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text("[]"),
        lambda path: path.with_suffix(".json").write_text('{"array": 3}'),
    ],
)
def test_a_cache_of_other_data_is_made_again(root: Path, tmp_path: Path, spoil: object) -> None:
    place = tmp_path / "cache"
    cached(place, art(root), skip=False)
    spoil(arrays(place)[0])  # type: ignore[operator]
    assert as_decoded(art(root), place)


@pytest.fixture
def full_disk() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_fills_leaves_nothing(root: Path, tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(UnwrittenError, match=r"cannot write .*art-.*npy: File too large; choose a folder with space"):
        cached(tmp_path / "cache", art(root), skip=False)
    assert not [one for one in (tmp_path / "cache").iterdir() if one.suffix in (".npy", ".json", ".fedha")]


def test_a_cache_that_is_a_file_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(FedhaError, match=r"cannot write the cache .*cache: File exists; let data.cache name a folder"):
        cached(tmp_path / "cache", art(root), skip=False)


def test_of_several_at_once_one_makes_it(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], caching._made

    def counted(*given: object, **more: object) -> object:
        made.append(given)
        return real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(caching, "_made", counted)
    found: list[bool] = []
    work = [threading.Thread(target=lambda: found.append(as_decoded(art(root), tmp_path / "cache"))) for _ in range(4)]
    for one in work:
        one.start()
    for one in work:
        one.join()
    assert found == [True] * 4
    assert len(made) == 1


def test_a_broken_image_has_a_row_of_zeros_and_a_reason(root: Path, tmp_path: Path) -> None:
    (root / "art" / "dog" / "2.png").write_bytes(b"no image")
    for _ in range(2):
        found, broken = cached(tmp_path / "cache", art(root), skip=True)
        assert list(broken) == [7]
        assert not found.take(torch.tensor([7])).any()
        with Image.open(root / "art" / "dog" / "3.png") as image:
            assert found.take(torch.tensor([8])).any() == bool(numpy.asarray(image).any())
