"""Downloads, from a server on the loopback: whole and right, or not there; what was begun goes on."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedha.data.downloads import DIRECT, GUIDES, Remote, heart_files, mnist_files
from fedha.data.fetch import fetch
from fedha.data.heart import HOSPITALS
from fedha.errors import FedhaError

CONTENT = bytes(range(256)) * 400


class Server:
    """Files by path, and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.breaks_after: int | None = None
        self.ranges = True

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    port = 0


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, wanted = self.path[1:], self.headers.get("Range")
            state.asked.append((name, wanted))
            if name not in state.files:
                self.send_error(404)
                return
            content, start = state.files[name], 0
            if wanted and state.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = len(content) if state.breaks_after is None else start + state.breaks_after
            self.wfile.write(content[start:end])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def remote(server: Server, *names: str, content: bytes = CONTENT) -> Remote:
    digest = hashlib.sha256(content).hexdigest()
    return Remote("file.bin", tuple(map(server.url, names)), digest, len(content))


def test_a_file_is_fetched_once_and_never_again(server: Server, tmp_path: Path) -> None:
    server.files["a"] = CONTENT
    heard: list[tuple[str, int, int]] = []
    wanted = remote(server, "a")
    assert fetch([wanted], tmp_path / "new", lambda *told: heard.append(told)) == ([tmp_path / "new/file.bin"], [])
    assert (tmp_path / "new/file.bin").read_bytes() == CONTENT
    assert heard[-1] == ("file.bin", len(CONTENT), len(CONTENT))
    assert fetch([wanted], tmp_path / "new") == ([], [tmp_path / "new/file.bin"])
    assert len(server.asked) == 1
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["file.bin"]


def test_what_was_broken_off_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["a"], server.breaks_after = CONTENT, 1000
    with pytest.raises(FedhaError, match=r"cannot get file\.bin \(1,000 bytes are kept: the same command goes on\)"):
        fetch([remote(server, "a")], tmp_path)
    assert not (tmp_path / "file.bin").exists()
    server.breaks_after = None
    fetch([remote(server, "a")], tmp_path)
    assert server.asked[-1] == ("a", "bytes=1000-")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(server: Server, tmp_path: Path) -> None:
    server.files["a"], server.ranges = CONTENT, False
    (tmp_path / ".file.bin.part").write_bytes(b"begun")
    fetch([remote(server, "a")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("begun", [b"another copy's beginning", CONTENT, CONTENT + b"more"])
def test_a_beginning_is_of_use_or_the_file_is_fetched_anew(server: Server, tmp_path: Path, begun: bytes) -> None:
    server.files["a"] = CONTENT
    (tmp_path / ".file.bin.part").write_bytes(begun)
    fetch([remote(server, "a")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert not (tmp_path / ".file.bin.part").exists()


def test_another_mirror_is_tried_and_what_is_wrong_is_said_of_each(server: Server, tmp_path: Path) -> None:
    server.files |= {"wrong": CONTENT[::-1], "large": CONTENT + bytes(2**17), "right": CONTENT}
    with pytest.raises(FedhaError) as told:
        fetch([remote(server, "none", "wrong", "large")], tmp_path)
    assert "/none: " in str(told.value)
    assert "/wrong: its contents are not those with SHA-256 " in str(told.value)
    assert "/large: it sends more than the 102,400 bytes of file.bin" in str(told.value)
    assert not any(tmp_path.iterdir())
    fetch([remote(server, "none", "wrong", "large", "right")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_gzip_is_known_by_its_contents(server: Server, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT, 1)
    server.files["a"] = packed
    wanted = Remote("f.gz", (server.url("a"),), hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), packed=True)
    fetch([wanted], tmp_path)
    assert (tmp_path / "f.gz").read_bytes() == packed
    (tmp_path / "f.gz").write_bytes(packed[:-9])
    with pytest.raises(FedhaError, match=r"f\.gz is there and is not the published f\.gz; move it away"):
        fetch([wanted], tmp_path)


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedhaError, match=r"cannot make the folder .*; choose another --root"):
        fetch([remote(server, "a")], tmp_path / "file" / "below")


def test_the_published_files_are_those_that_data_sets_read(shared_data: Path) -> None:
    from fedha.data.fetch import digest

    assert [one.name.removesuffix(".gz") for one in mnist_files()] == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ]
    labels = mnist_files()[3]
    assert digest(shared_data / "mnist" / labels.name, labels) == labels.sha256
    cleveland = heart_files()[0]
    assert digest(shared_data / "heart" / cleveland.name, cleveland) == cleveland.sha256
    assert [one.name for one in heart_files()] == [f"processed.{name}.data" for name in HOSPITALS]
    assert not DIRECT.keys() & GUIDES.keys()
