"""Laws of IDX files: what is parsed, what is refused, and what a download may leave behind."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import re
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha.data import idx
from fedha.data.idx import IdxFile, fetch, find, parse, read
from fedha.errors import FedhaError

VALUES = torch.arange(24, dtype=torch.uint8).reshape(4, 3, 2)
CONTENT = bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 2]) + bytes(range(24))
IMAGES = IdxFile("some-images-idx3-ubyte", (4, 3, 2), hashlib.sha256(CONTENT).hexdigest())
DIGITS = IdxFile("some-labels-idx1-ubyte", (3,), "")
NAME = f"{IMAGES.name}.gz"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler):
    """The URL of a server on this machine that runs until the block ends."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder on this machine and the URL that serves it."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "mirror"
    folder.mkdir()
    with serving(functools.partial(Quiet, directory=folder)) as url:
        yield folder, url


def test_values_are_read_in_order():
    assert torch.equal(parse(CONTENT, IMAGES, "here"), VALUES)
    assert parse(bytes([0, 0, 8, 1, 0, 0, 0, 3, 9, 0, 4]), DIGITS, "here").tolist() == [9, 0, 4]
    assert IMAGES.size == len(CONTENT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with , not 00 00 08 03"),
        (b"<html>404</html>", "begins with 3c 68 74 6d, not 00 00 08 03"),
        (bytes([0, 0, 8, 1]) + CONTENT[4:], "begins with 00 00 08 01"),
        (bytes([0, 0, 13, 3]) + CONTENT[4:], "begins with 00 00 0d 03"),
        (CONTENT[:7] + bytes([5]) + CONTENT[8:], r"shape is \[5, 3, 2\], not \[4, 3, 2\]"),
        (CONTENT[:-1], "39 instead of 40 bytes"),
        (CONTENT + b"x", "more than 40 bytes"),
    ],
)
def test_another_file_is_refused_with_its_name(content, message):
    with pytest.raises(FedhaError, match=f"here.*{message}"):
        parse(content, IMAGES, "here")


def test_a_label_that_is_no_digit_is_refused():
    with pytest.raises(FedhaError, match=r"here holds the label 10"):
        parse(bytes([0, 0, 8, 1, 0, 0, 0, 3, 9, 10, 4]), DIGITS, "here")


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: CONTENT[: 16 + len(tail) % 25] + tail))
def test_any_bytes_are_the_file_or_an_error_of_ours(content):
    refusal = ""
    try:
        values = parse(content, IMAGES, "here")
    except FedhaError as error:
        refusal = str(error)
    assert "here" in refusal if refusal else CONTENT[:16] + bytes(values.flatten().tolist()) == content


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["some-images-idx3-ubyte", "some-images.idx3-ubyte"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_raw_and_packed_files_are_found_under_every_name(tmp_path, packed, name, suffix):
    (tmp_path / (name + suffix)).write_bytes(gzip.compress(CONTENT) if packed else CONTENT)
    assert find(tmp_path, IMAGES) == tmp_path / (name + suffix)
    assert torch.equal(read(IMAGES, tmp_path, False, []), VALUES)


def test_local_files_need_the_structure_only_and_no_digest(tmp_path):
    (tmp_path / NAME).write_bytes(gzip.compress(CONTENT))
    other = dataclasses.replace(IMAGES, sha256="of another copy")
    assert torch.equal(read(other, tmp_path, True, []), VALUES)


def test_a_missing_file_names_itself_and_the_remedy(tmp_path):
    assert find(tmp_path / "nowhere", IMAGES) is None
    with pytest.raises(FedhaError, match=r"some-images-idx3-ubyte.* is not in .*data\.download: true"):
        read(IMAGES, tmp_path, False, [])


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(CONTENT)[:-9],
        gzip.compress(CONTENT)[:30] + b"\0\0\0" + gzip.compress(CONTENT)[33:],
        gzip.compress(CONTENT)[:-8] + bytes(8),
        gzip.compress(CONTENT) + b"garbage",
        gzip.compress(CONTENT * 1000),
        b"\x1f\x8b",
    ],
    ids=["truncated", "damaged", "wrong checksum", "garbage after it", "too long", "header only"],
)
def test_a_damaged_archive_is_refused_with_its_name(tmp_path, packed):
    (tmp_path / NAME).write_bytes(packed)
    with pytest.raises(FedhaError, match=re.escape(str(tmp_path / NAME))):
        read(IMAGES, tmp_path, False, [])


def test_a_missing_file_is_downloaded_once(tmp_path, mirror):
    folder, url = mirror
    root = tmp_path / "deep" / "root"
    (folder / NAME).write_bytes(gzip.compress(CONTENT))
    assert torch.equal(read(IMAGES, root, True, [url]), VALUES)
    assert [path.name for path in root.iterdir()] == [NAME]
    (folder / NAME).unlink()
    assert torch.equal(read(IMAGES, root, True, [url]), VALUES)


def test_the_next_mirror_is_tried(tmp_path, mirror):
    folder, url = mirror
    (folder / "good").mkdir()
    (folder / "good" / NAME).write_bytes(gzip.compress(CONTENT))
    (folder / NAME).write_bytes(gzip.compress(CONTENT[::-1]))
    mirrors = ["http://127.0.0.1:1/", f"{url}nowhere/", url, f"{url}good/"]
    assert fetch(IMAGES, tmp_path / "root", mirrors) == tmp_path / "root" / NAME


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (gzip.compress(CONTENT[:-1] + b"x"), "its contents have SHA-256 [0-9a-f]{64}, not [0-9a-f]{64}"),
        (gzip.compress(CONTENT)[:-9], "ended before"),
        (b"<html>log in to this network</html>", "its contents have SHA-256"),
        (gzip.compress(CONTENT * 1000), "some-images"),
        (None, "404"),
    ],
    ids=["other contents", "truncated", "no archive", "too long", "not there"],
)
def test_a_bad_download_is_refused_and_leaves_nothing(tmp_path, mirror, served, message):
    folder, url = mirror
    if served is not None:
        (folder / NAME).write_bytes(served)
    with pytest.raises(FedhaError, match=f"cannot download some-images-idx3-ubyte.*{message}"):
        read(IMAGES, tmp_path / "root", True, [url])
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/", "http://no-such-host.invalid/", "nonsense", "http://[/"])
def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch, address):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(FedhaError, match=rf"cannot download.*put the file into {re.escape(str(tmp_path))}"):
        fetch(IMAGES, tmp_path, [address])


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    class Silent(Quiet):
        def do_GET(self):
            given_up.wait(5)

    given_up = threading.Event()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(idx, "TIMEOUT_SECONDS", 0.2)
    with serving(Silent) as url:
        with pytest.raises(FedhaError, match=r"timed out"):
            fetch(IMAGES, tmp_path, [url])
        given_up.set()


def test_a_root_that_is_a_file_is_refused(tmp_path, mirror):
    folder, url = mirror
    (folder / NAME).write_bytes(gzip.compress(CONTENT))
    (tmp_path / "file").write_text("")
    with pytest.raises(FedhaError, match=r"cannot make the folder"):
        fetch(IMAGES, tmp_path / "file", [url])
