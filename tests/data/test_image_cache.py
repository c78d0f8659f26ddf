"""Laws of the cache of decoded images: its numbers are the files', and whatever is not of them is made again."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from fedha import progress
from fedha.data.images import cache as caching
from fedha.data.images import files as files_module
from fedha.data.images import growing
from fedha.data.images.cache import cached
from fedha.data.images.decode import Square
from fedha.data.images.files import ImageFiles
from fedha.data.images.tree import read_domain
from fedha.errors import FedhaError, UnwrittenError
from tests.data.image_folders import image_folder, picture
from tests.disks import full_disk


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
    assert sorted(path.name for path in place.glob("[!.]*")) == [f"{one.stem}.json", one.name]
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


@pytest.mark.parametrize(("most", "file", "size"), [(1000, "npy", {}), (400, "json", {"size": 1})])
def test_a_disk_that_fills_leaves_nothing(root: Path, tmp_path: Path, most: int, file: str, size: dict) -> None:
    """Before the array is whole, or before its index."""
    said = rf"cannot write .*art-.*{file}: File too large; choose a folder with space"
    with full_disk(most), pytest.raises(UnwrittenError, match=said):
        cached(tmp_path / "cache", art(root, **size), skip=False)
    assert not [one for one in (tmp_path / "cache").iterdir() if one.suffix != ".lock"]


def test_a_disk_without_room_is_refused_before_anything_is_decoded(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 100))
    with pytest.raises(UnwrittenError, match=r"of art take \d[\d.]* k?B as bytes but the disk of data.cache .* has"):
        cached(tmp_path / "cache", art(root), skip=False)
    assert not [one for one in (tmp_path / "cache").iterdir() if one.suffix != ".lock"]


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ends the decoding as a killed process would, after so many blocks; every block is saved."""
    real = growing.blocks

    def end_after(count: int) -> None:
        def some(*given: object) -> Iterator[object]:
            yield from islice(real(*given), count)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        monkeypatch.setattr(growing, "blocks", some)

    monkeypatch.setattr(growing, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(files_module, "BLOCK", 1)
    return end_after


@pytest.mark.parametrize("skip", [False, True])
def test_what_a_killed_process_has_done_is_kept(
    root: Path, tmp_path: Path, killed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, skip: bool
) -> None:
    place, files, said = tmp_path / "cache", replace(art(root), workers=2), list[str]()
    if skip:
        (root / "art" / "cat" / "1.png").write_bytes(b"")
    killed(3)
    with pytest.raises(KeyboardInterrupt):
        cached(place, files, skip=skip)
    assert not arrays(place)
    monkeypatch.undo()
    started, real = list[int](), growing.blocks
    monkeypatch.setattr(growing, "blocks", lambda *given: started.append(given[2]) or real(*given))
    with progress.reporting_to(said.append):
        found, broken = cached(place, files, skip=skip)
    assert started == [6]
    assert said == [f"decoding art into {place}: goes on at 6 of 10 images"]
    assert list(broken) == [1] * skip
    rows = torch.tensor([row for row in range(10) if row not in broken])
    assert torch.equal(found.take(rows), files.take(rows))
    assert not [one for one in place.glob(".*") if one.suffix != ".lock"]


def test_what_was_left_of_other_images_is_made_anew(
    root: Path, tmp_path: Path, killed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(3)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "cache", replace(art(root), workers=2), skip=False)
    monkeypatch.undo()
    picture(78, 30, 30).save(root / "art" / "cat" / "0.png")
    assert as_decoded(art(root), tmp_path / "cache")


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0.0], list[str]()
    work = progress.Progress("decoding art", 1000, "images", _began=0.0)
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    with progress.reporting_to(said.append):
        for now[0] in (1.0, 4.0, 6.0, 15.0):
            work.add(200)
        now[0] = 20.0
        work.add(200)
        work.end()
    assert said == [
        "decoding art: 400 of 1,000 images, 100 a second, 6.0 s left",
        "decoding art: 800 of 1,000 images, 53 a second, 3.8 s left",
        "decoding art: 1,000 images in 20.0 s",
    ]


def test_another_process_is_waited_for(root: Path, tmp_path: Path) -> None:
    place, said = tmp_path / "cache", list[str]()
    cached(place, art(root), skip=False)
    (lock,) = place.glob(".*.lock")
    arrays(place)[0].unlink()
    other = subprocess.Popen(
        [sys.executable, "-c", f"import filelock; a = filelock.FileLock({str(lock)!r}); a.acquire(); print(); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    other.stdout.readline()

    def tell(text: str) -> None:
        said.append(text)
        other.communicate(b"\n")

    with progress.reporting_to(tell):
        assert as_decoded(art(root), place)
    assert said == [f"waiting for another process, which makes the cache in {place}"]


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
