"""Laws of image folders: what is read, in what form, and what is refused with its name."""

import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from fedha.config import DataConfig, parse
from fedha.config import load as load_config
from fedha.data import DomainSet, load, load_own, load_targets
from fedha.data.examples import Examples, Placement
from fedha.data.fingerprint import fingerprint
from fedha.data.images.decode import MOST_PIXELS, Square, pixels
from fedha.data.images.pool import Ahead
from fedha.errors import FedhaError
from fedha.flower.serve import load_domains
from fedha.run import execute
from fedha.runs.listener import Silent
from tests.data.image_folders import image_folder, picture
from tests.deploy.federations import OTHER, others_folder

SITE = {"size": 8, "channels": 3, "class_names": ["cat", "dog"]}


def mine(root: Path, seed: int = 0, **options: object) -> DomainSet:
    return load(DataConfig(**({"name": "folder", "root": root, "target": "sketch", "size": 8} | options)), seed)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images")


def parts(domains: DomainSet) -> list[Examples]:
    return [one for domain in (*domains.sources, *domains.targets) for one in (domain.train, domain.held_out)]


def bomb(path: Path, width: int, height: int) -> None:
    """A PNG of a few bytes whose header tells of very many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


# --- what is read ---


def test_domains_and_classes_are_the_folders_in_order(root: Path) -> None:
    domains = mine(root)
    assert [one.name for one in domains.sources] == ["art", "photo"]
    assert [(one.name, len(one.held_out), len(one.train)) for one in domains.targets] == [("sketch", 10, 0)]
    assert domains.classes == 2
    assert domains.input_shape == (3, 8, 8)
    for one in domains.sources:
        assert (len(one.train), len(one.held_out)) == (8, 2)
        assert sorted(one.held_out.labels.tolist()) == [0, 1]
    assert "8 × 8 pixels, colour" in domains.description


def test_a_taken_image_is_the_file_resized_in_zero_to_one(root: Path) -> None:
    target = mine(root).targets[0].held_out
    with Image.open(root / "sketch" / "dog" / "0.png") as image:
        wanted = numpy.asarray(image.resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert target.labels[5] == 1
    found = target.to(Placement(torch.device("cpu"), torch.float32)).take(torch.tensor([5]))[0]
    assert torch.equal(found, torch.from_numpy(wanted.copy()).float() / 255)


def test_rows_come_in_the_order_asked_for_with_any_number_of_threads(root: Path) -> None:
    inputs = mine(root).targets[0].held_out.inputs
    rows = torch.tensor([7, 0, 3, 3, 9, 1, 8, 2, 6, 5, 4, 0])
    one_by_one = torch.cat([inputs.take(row[None], None) for row in rows])
    for count in (1, 2, 5):
        assert torch.equal(mine(root, workers=count).targets[0].held_out.inputs.take(rows, None), one_by_one)
    assert torch.equal(pickle.loads(pickle.dumps(inputs)).take(rows), one_by_one)


def test_only_labels_and_the_index_are_in_memory(root: Path) -> None:
    for one in parts(mine(root)):
        assert one.nbytes == one.labels.nbytes
        assert not one.in_memory


def test_the_seed_decides_what_is_held_out(root: Path) -> None:
    one, same, other = (mine(root, seed, held_out=0.4).sources[0].held_out.inputs.rows.tolist() for seed in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.parametrize("ending", ["png", "jpg", "JPG", "webp", "bmp", "gif", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_formats_and_modes_may_be_mixed(root: Path, ending: str, channels: int) -> None:
    picture(5).convert("L").save(root / "art" / "cat" / f"more.{ending}")
    domains = mine(root, channels=channels)
    assert domains.input_shape == (channels, 8, 8)
    assert sum(map(len, parts(domains))) == 31
    assert all(int(one.kept()[""].max()) > 0 for one in parts(domains) if len(one))


def test_every_mode_of_one_picture_is_nearly_that_picture(tmp_path: Path) -> None:
    grey = picture(3, 16, 16).convert("L")
    deep = Image.fromarray(numpy.asarray(grey).astype(numpy.uint16) * 257)
    clear = grey.convert("RGBA")
    made = {"L": grey, "RGB": grey.convert("RGB"), "P": grey.convert("P"), "I;16": deep, "RGBA": clear}
    for mode, image in (made | {"LA": grey.convert("LA")}).items():
        image.save(tmp_path / "one.png")
        for channels in (1, 3):
            found = pixels(tmp_path / "one.png", Square(16, channels))
            assert found.shape == (channels, 16, 16)
            assert found.dtype == numpy.uint8
            assert int(abs(found.astype(int) - numpy.asarray(grey)).max()) <= 1, mode


def test_colours_of_print_and_transparent_palettes_are_read(tmp_path: Path) -> None:
    image = picture(6, 16, 16)
    image.convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    found = pixels(tmp_path / "print.jpg", Square(16, 3)).transpose(1, 2, 0)
    assert abs(found.astype(int) - numpy.asarray(image)).mean() < 8
    drawn = Image.new("P", (8, 8), 0)
    drawn.putpalette([255, 0, 0, 0, 0, 255])
    drawn.paste(1, (0, 0, 4, 8))
    drawn.save(tmp_path / "drawn.png", transparency=0)
    found = pixels(tmp_path / "drawn.png", Square(8, 3))
    assert found[:, 0, 0].tolist() == [0, 0, 255]
    assert found[:, 0, 7].tolist() == [255, 255, 255]


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_picture_is_taken(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("blue", "red", "green")]
    more = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], **more)
    assert pixels(tmp_path / f"a.{ending}", Square(4, 3))[:, 0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_images_are_resized_as_it_was_asked_for(root: Path, tmp_path: Path, interpolation: str) -> None:
    plain, other = mine(root), mine(root, interpolation=interpolation)
    with Image.open(root / "sketch" / "cat" / "0.png") as image:
        wanted = numpy.asarray(image.resize((8, 8), Image.Resampling[interpolation.upper()])).transpose(2, 0, 1)
    assert torch.equal(other.targets[0].held_out.kept(slice(1))[""][0], torch.from_numpy(wanted.copy()))
    assert f"8 × 8 pixels, colour, {interpolation}" in other.description
    for one in (plain, other):
        how = None if one is plain else interpolation
        cached = mine(root, cache=tmp_path, interpolation=how)
        assert torch.equal(cached.targets[0].held_out.kept()[""], one.targets[0].held_out.kept()[""])


def test_large_photographs_may_be_decoded_at_a_fraction(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", ending="jpg")
    large = root / "sketch" / "cat" / "0.jpg"
    picture(9, 160, 120).save(large, quality=95)
    whole, scaled = (mine(root, decode=how).targets[0].held_out.kept()[""] for how in ("whole", "scaled"))
    with Image.open(large) as image:
        image.draft(None, (16, 16))
        assert image.size == (40, 30)
        wanted = numpy.asarray(image.resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert torch.equal(scaled[0], torch.from_numpy(wanted.copy()))
    assert not torch.equal(scaled[0], whole[0])
    assert torch.equal(scaled[1:], whole[1:])
    assert torch.equal(mine(root, decode="scaled", cache=tmp_path / "c").targets[0].held_out.kept()[""], scaled)
    assert torch.equal(mine(root, cache=tmp_path / "c").targets[0].held_out.kept()[""], whole)


def test_size_and_channels_are_the_networks_where_nobody_says_them(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", mode="L")
    content = {"data": {"name": "folder", "root": str(root), "target": "sketch"}, "recipe": ["erm"]}
    grey = load_domains(parse({**content, "model": {"name": "domainbed_mnist_cnn"}}))
    assert grey.input_shape == (1, 28, 28)
    assert "size and interpolation of images as domainbed_mnist_cnn is usually given" in grey.description
    assert load_domains(parse({**content, "model": {"name": "domainbed_resnet18"}})).input_shape == (3, 224, 224)
    own = {**content["data"], "size": 9, "channels": 1}
    assert load_domains(parse({"data": own, "model": {"name": "domainbed_resnet18"}})).input_shape == (1, 9, 9)
    assert load_domains(parse({**content, "model": {"name": "cnn"}})).input_shape == (1, 32, 32)


def test_what_will_be_taken_is_begun_and_a_few_batches_are_held(root: Path) -> None:
    source = mine(root).targets[0].held_out.inputs
    for start in range(5):
        source.expect(torch.arange(start, start + 2), None)
    assert len(source.ahead._begun) == 3
    for one in source.ahead._begun.values():
        one.done()
    for path in (root / "sketch").rglob("*.png"):
        path.rename(path.with_suffix(".gone"))
    found = source.take(torch.arange(4, 6), None)  # decoded before it was asked for
    for path in (root / "sketch").rglob("*.gone"):
        path.rename(path.with_suffix(".png"))
    assert torch.equal(found, source.take(torch.arange(4, 6), None))
    assert len(pickle.loads(pickle.dumps(source)).ahead._begun) == 0


def test_a_round_begins_with_the_next_ones_images(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hits, real = [], Ahead.take
    monkeypatch.setattr(Ahead, "take", lambda self, key: hits.append(real(self, key)) or hits[-1])
    content = f"data: {{name: folder, root: {root}, target: sketch, size: 8}}\nmodel: {{name: cnn, hidden: [4]}}\n"
    for mode in ("training: {rounds: 4, batch_size: 4}", "training: {rounds: 4, mode: local, local: {batch_size: 3}}"):
        (tmp_path / "c.yaml").write_text(f"{content}{mode}\nrecipe: [erm]\nseed: 0\nevaluation: {{every: 100}}\n")
        hits.clear()
        execute(load_config(tmp_path / "c.yaml", ["engine.name=inline"]), tmp_path / mode[-9:-2], Silent())
        assert len(hits) >= 4 * 2 + 5
        assert hits.count(None) == 2 + 5  # the sources' first batches, and evaluations in one piece


def test_whether_images_changed_is_told_by_their_files(root: Path, tmp_path: Path) -> None:
    before = fingerprint(mine(root))
    assert fingerprint(mine(root, cache=tmp_path / "cache", workers=1)) == before
    assert fingerprint(mine(root, size=9)) != before
    image = root / "photo" / "dog" / "1.png"
    content = image.read_bytes()
    image.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    assert fingerprint(mine(root)) != before
    image.write_bytes(content)
    assert fingerprint(mine(root)) == before  # another time is no other content


def test_files_that_stayed_what_they_were_are_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = mine(root)
    before = fingerprint(held)
    with monkeypatch.context() as nobody:
        nobody.setattr(Path, "open", lambda *_: pytest.fail("a file was read again"))
        assert fingerprint(held) == before
    image = root / "photo" / "dog" / "1.png"
    content = image.read_bytes()
    image.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    assert fingerprint(held) != before
    image.unlink()
    with pytest.raises(FedhaError, match="leave a run's files where they are"):
        fingerprint(held)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    image = picture(4, 20, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    image.rotate(-90, expand=True).save(tmp_path / "upright.png")
    found, wanted = (pixels(tmp_path / f"{name}.png", Square(6, 3)) for name in ("turned", "upright"))
    assert numpy.array_equal(found, wanted)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (5, 5), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (pixels(tmp_path / "clear.png", Square(4, 3)) == 255).all()


def test_channels_are_those_of_the_sources_never_of_the_target(tmp_path: Path) -> None:
    grey = image_folder(tmp_path / "grey", ("art", "photo"), mode="L")
    image_folder(grey, ("sketch",))
    domains = mine(grey)
    assert domains.input_shape == (1, 8, 8)
    assert "grey (as are the sources' first images)" in domains.description
    picture(1).save(grey / "photo" / "cat" / "0.png")
    assert mine(grey).input_shape == (3, 8, 8)
    assert mine(grey, size=None).input_shape == (3, 32, 32)
    assert "data.size by default" in mine(grey, size=None).description


def test_classes_are_the_union_of_all_domains_folders(root: Path) -> None:
    (root / "art" / "zebra").mkdir()
    picture(1).save(root / "art" / "zebra" / "deep.png")
    domains = mine(root)
    assert domains.classes == 3
    assert "photo (class 2)" in domains.description
    assert mine(root, sources=["photo"]).classes == 3


def test_images_may_lie_deeper_and_links_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "art" / "cat" / "more").mkdir()
    picture(1).save(root / "art" / "cat" / "more" / "one.png")
    image_folder(tmp_path / "elsewhere", ("far",))
    (root / "far").symlink_to(tmp_path / "elsewhere" / "far")
    assert {one.name: len(one.train) + len(one.held_out) for one in mine(root).sources} == {
        "art": 11,
        "far": 10,
        "photo": 10,
    }


def test_a_run_trains_on_a_folder_and_sees_the_same_from_the_cache(root: Path, tmp_path: Path) -> None:
    def weights(name: str, *more: str) -> bytes:
        content = f"data: {{name: folder, root: {root}, target: sketch, size: 8}}\nmodel: {{name: cnn, hidden: [4]}}\n"
        (tmp_path / "c.yaml").write_text(f"{content}training: {{rounds: 2, batch_size: 4}}\nseed: 0\n")
        config = load_config(tmp_path / "c.yaml", ["engine.name=inline", *more])
        results = execute(config, tmp_path / name, Silent())
        assert results["target"]["sketch"]["examples"] == 10
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert weights("plain") == weights("cached", f"data.cache={tmp_path / 'cache'}")


# --- a deployment ---


def test_a_site_holds_what_the_simulation_would(root: Path, tmp_path: Path) -> None:
    whole = mine(root, **SITE)
    own = DataConfig(name="folder", root=image_folder(tmp_path / "site", ("art",)), target="sketch", **SITE)
    alone = load_own(own, 0, 0)
    assert torch.equal(alone.train.kept()[""], whole.sources[0].train.kept()[""])
    assert torch.equal(alone.held_out.labels, whole.sources[0].held_out.labels)
    named = own.model_copy(update={"root": root, "sources": ["art", "photo"]})
    assert [load_own(named, 0, place).name for place in (0, 1)] == ["art", "photo"]
    (target,) = load_targets(named, 0)
    assert torch.equal(target.held_out.kept()[""], whole.targets[0].held_out.kept()[""])


@pytest.mark.parametrize("key", SITE)
def test_a_deployment_must_say_what_a_site_cannot_see(root: Path, key: str) -> None:
    config = DataConfig(name="folder", root=root, target="sketch", sources=["art", "photo"], **(SITE | {key: None}))
    for ask in (lambda: load_own(config, 0, 0), lambda: load_targets(config, 0)):
        with pytest.raises(FedhaError, match=f"^data.{key} is not set; a site sees its own images alone"):
            ask()


def test_a_server_names_no_folder_outside_a_sites_own_and_no_cache(root: Path) -> None:
    config = DataConfig(name="folder", root=root / "art", target="sketch", sources=["../photo", "x"], **SITE)
    with pytest.raises(FedhaError, match=r"holds no folder \.\./photo"):
        load_own(config, 0, 0)
    with pytest.raises(FedhaError, match="a site's disk is its own"):
        load_own(config.model_copy(update={"cache": root}), 0, 0)


# --- what is refused, or counted ---


def seen(root: Path, **options: object) -> int:
    """How many images there are, each of which is decoded."""
    return sum(len(one.kept()[""]) for one in parts(mine(root, **options)))


def refused(root: Path, **options: object) -> str:
    with pytest.raises(FedhaError) as caught:
        seen(root, **options)
    return str(caught.value)


def test_one_domain_is_no_federation(tmp_path: Path) -> None:
    assert "holds one domain, sketch; a source and an unseen target are two" in refused(
        image_folder(tmp_path, ("sketch",))
    )


def test_the_folder_that_an_archive_was_unpacked_into_is_told_from_a_domain(tmp_path: Path) -> None:
    image_folder(tmp_path / "kfold")
    told = refused(tmp_path)
    assert "holds one domain, kfold;" in told
    assert told.endswith(f"where kfold holds the domains, set data.root to {tmp_path}/kfold")


def test_a_folder_of_another_layout_is_refused_with_the_layout(root: Path) -> None:
    assert "no domain" in refused(root / "art")
    assert "cat is passed over: it holds images but no class folder" in refused(root / "art")
    assert "is no folder; correct data.root" in refused(root / "none")
    assert "data.target is not set" in refused(root, target=None)
    (root / "lists").mkdir()
    assert "lists is passed over: it holds no class folder" in refused(root, target="lists")


@pytest.mark.parametrize("other", ["CAT", "Cat"])
def test_class_folders_that_differ_by_case_alone_are_refused(root: Path, other: str) -> None:
    (root / "photo" / "cat").rename(root / "photo" / "kept")
    (root / "photo" / "kept").rename(root / "photo" / other)
    said = refused(root)
    assert f"folders 'cat' (art) and '{other}' (photo) differ by case" in said


def test_a_class_without_an_image_is_refused_and_one_that_a_domain_lacks_is_told(root: Path) -> None:
    (root / "art" / "empty").mkdir()
    assert "the class folder 'empty' holds no image in any domain" in refused(root)
    (root / "photo" / "empty").mkdir()
    for number in range(2):
        picture(number).save(root / "photo" / "empty" / f"{number}.png")
    assert "a class is missing from the training examples of art (class 2)" in mine(root).description


def test_a_class_that_is_not_named_is_refused(root: Path) -> None:
    assert "art/dog is none of the classes cat, bird" in refused(root, class_names=["cat", "bird"])
    assert mine(root, class_names=["dog", "cat"]).targets[0].held_out.labels.tolist() == [1] * 5 + [0] * 5
    with pytest.raises(FedhaError, match="a class is named twice"):
        mine(root, class_names=["cat", "cat"])


def test_what_systems_leave_is_skipped_and_other_files_are_counted(root: Path) -> None:
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.png"):
        (root / "art" / "cat" / name).write_bytes(b"x")
    (root / "art" / ".ipynb_checkpoints").mkdir()
    assert mine(root).notes == ()
    (root / "art" / "cat" / "notes.txt").write_text("cats")
    (root / "art" / "stray.png").write_bytes(b"x")
    told = mine(root).description
    assert "1 file of art is no image by name and passed over: cat/notes.txt" in told
    assert "1 file of art is outside any class folder and passed over: stray.png" in told


def spoil(path: Path, how: str) -> str:
    """Break an image; what is said of it."""
    whole = path.read_bytes()
    path.unlink()
    if how == "truncated":
        picture(1, 200, 200).save(path, "JPEG")
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        return "truncated"
    if how == "text":
        path.write_text("no image")
        return "it is no JPEG, PNG"
    if how == "empty":
        path.touch()
        return "it is empty"
    if how == "bomb":
        bomb(path, 60_000, 50_000)
        return r"it has more than|more than 89,478,485"
    if how == "large":
        bomb(path, 10_000, MOST_PIXELS // 10_000 + 1)
        return r"it is 10,000 × 8,948 pixels, more than 89,478,485"
    if how == "slender":
        Image.new("L", (40_000, 10)).save(path)
        return "it is 40,000 × 10 pixels, one side more than 200 times the other"
    path.symlink_to(path.with_name("none.png") if how == "dead link" else path)
    return "No such file" if how == "dead link" else "symbolic links"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("how", ["truncated", "text", "empty", "bomb", "large", "slender", "dead link", "looping link"])
@pytest.mark.parametrize("name", ["0.png", "3.png"])
def test_a_broken_image_is_an_error_that_names_it_or_is_counted(
    root: Path, tmp_path: Path, how: str, name: str
) -> None:
    spoilt = root / "art" / "dog" / name
    reason = spoil(spoilt, how)
    with pytest.raises(FedhaError, match=rf"cannot use the image {spoilt}: .*({reason}).*data.on_broken: skip"):
        seen(root)
    cache = tmp_path / "cache"
    with pytest.raises(FedhaError, match=rf"cannot use the image {spoilt}"):
        mine(root, cache=cache)
    assert not [one for one in cache.glob("*art*") if one.suffix != ".lock"]
    for more in ({}, {"cache": cache}, {"cache": cache}):
        domains = mine(root, on_broken="skip", **more)
        assert sum(map(len, parts(domains))) == 29
        assert f"1 of 10 images of art are broken and left out: dog/{name} (" in domains.description
        rows = torch.cat([one.kept()[""].flatten(1) for one in (domains.sources[0].train, domains.sources[0].held_out)])
        assert int(rows.amax(1).min()) > 0
    with pytest.raises(FedhaError, match=rf"cannot use the image {spoilt}"):
        mine(root, cache=cache)


def test_a_domain_of_broken_images_alone_is_refused(root: Path) -> None:
    for path in (root / "art").rglob("*.png"):
        path.write_bytes(b"")
    assert "art holds no image that can be used; 10 of 10 images of art are broken" in refused(root, on_broken="skip")


def test_a_link_that_loops_is_refused(root: Path) -> None:
    (root / "art" / "cat" / "again").symlink_to(root / "art")
    assert "art/cat/again is a link that leads back to a folder above it; remove it" in refused(root)


def test_a_folder_without_the_right_to_read_it_is_refused() -> None:
    with others_folder() as place:
        root = image_folder(place / "images")
        (root / "art" / "cat").chmod(0)
        before = os.geteuid()
        if before == 0:
            os.seteuid(OTHER)  # root reads every folder
        try:
            assert "art/cat: Permission denied; give yourself the right, or remove it" in refused(root)
        finally:
            os.seteuid(before)
            (root / "art" / "cat").chmod(0o755)


def test_a_name_that_is_no_text_is_refused_or_shown(root: Path) -> None:
    os.rename(os.fsencode(root / "art" / "cat" / "0.png"), os.fsencode(root / "art" / "cat") + b"/\xff.png")
    assert sum(map(len, parts(mine(root)))) == 30
    os.rename(os.fsencode(root / "art" / "dog"), os.fsencode(root / "art") + b"/d\xffg")
    assert "is no UTF-8 text; rename it" in refused(root)


def test_a_pipe_is_no_image(root: Path) -> None:
    os.mkfifo(root / "art" / "cat" / "pipe.png")
    assert "passed over: cat/pipe.png" in mine(root).description
