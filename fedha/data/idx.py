"""IDX files, the format of MNIST: found in a folder or fetched from a mirror, unpacked and parsed strictly."""

import gzip
import hashlib
import http.client
import io
import math
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedha.atomic import write_bytes
from fedha.errors import FedhaError, brief

TIMEOUT_SECONDS = 30.0
_GZIP_MAGIC = b"\x1f\x8b"
_UNREADABLE = (OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class IdxFile:
    """One published file of bytes.

    Attributes:
        name: As published, without ``.gz``.
        shape: Of its values; a file with one axis holds digits, 0 to 9.
        sha256: Of its decompressed contents (the compressed ones differ from copy to copy).
    """

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of the decompressed file: four, four for every axis, and the values."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


def find(root: Path, file: IdxFile) -> Path | None:
    """The file in a folder, under its name or with a dot before ``idx``, raw or with ``.gz``; None if not there."""
    names = [file.name, file.name.replace("-idx", ".idx")]
    candidates = [root / f"{name}{suffix}" for name in names for suffix in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def read(file: IdxFile, root: Path, download: bool, mirrors: Sequence[str]) -> Tensor:
    """The values of a file that is in a folder, or that is fetched into it first.

    Args:
        file: Which.
        root: The folder.
        download: Fetch it if it is missing.
        mirrors: URLs that end in a slash, tried in order.

    Returns:
        ``file.shape``, uint8. A local file is checked for its structure, a downloaded one also for its digest.

    Raises:
        FedhaError: The file is missing and not to be downloaded, cannot be fetched, or is not what it should be.
    """
    path = find(root, file)
    if path is None and not download:
        raise FedhaError(f"{file.name} (or {file.name}.gz) is not in {root}; put it there or set data.download: true")
    path = path or fetch(file, root, mirrors)
    try:
        content = unpack(path.read_bytes(), file)
    except _UNREADABLE as error:
        raise FedhaError(f"cannot read {path}: {brief(error)}; replace it by a whole copy of {file.name}") from error
    return parse(content, file, str(path))


def parse(content: bytes, file: IdxFile, origin: str) -> Tensor:
    """Values of an IDX file of unsigned bytes: two zeros, the type 8, the number of axes, their lengths, the values.

    Args:
        content: The whole file, decompressed.
        file: What it should hold.
        origin: What errors call it.

    Returns:
        ``file.shape``, uint8.

    Raises:
        FedhaError: Another magic number, other axes, more or fewer bytes than they say, or a digit over 9.

    Source:
        LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section on file formats.
    """
    header = bytes([0, 0, 8, len(file.shape)]) + b"".join(length.to_bytes(4, "big") for length in file.shape)
    if content[:4] != header[:4]:
        raise FedhaError(
            f"{origin} begins with {content[:4].hex(' ')}, not {header[:4].hex(' ')}; it is no {file.name}"
        )
    if content[: len(header)] != header:
        found = [int.from_bytes(content[place : place + 4], "big") for place in range(4, len(header), 4)]
        raise FedhaError(f"{origin} says its shape is {found}, not {list(file.shape)}; it is no {file.name} of MNIST")
    if len(content) != file.size:
        some = "more than" if len(content) > file.size else f"{len(content):,} instead of"
        raise FedhaError(f"{origin} holds {some} {file.size:,} bytes; replace it by a whole copy of {file.name}")
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=len(header)).reshape(file.shape)
    if len(file.shape) == 1 and int(values.max()) > 9:
        raise FedhaError(f"{origin} holds the label {int(values.max())}; digits are 0 to 9, so it is no {file.name}")
    return values


def unpack(packed: bytes, file: IdxFile) -> bytes:
    """Contents of a gzip or of a raw file, told apart by the first bytes; one byte more than it should hold at most.

    Raises:
        OSError, EOFError, zlib.error: The gzip is damaged or ends too early.
    """
    if not packed.startswith(_GZIP_MAGIC):
        return packed
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
        return stream.read(file.size + 1)


def fetch(file: IdxFile, root: Path, mirrors: Sequence[str]) -> Path:
    """Download ``<mirror><name>.gz`` into a folder, from the first mirror whose contents have the right digest.

    Args:
        file: Which, and its digest.
        root: The folder; made if it is missing. It gets the whole verified file or nothing.
        mirrors: URLs that end in a slash, tried in order.

    Returns:
        The file's path.

    Raises:
        FedhaError: With what went wrong at every mirror, or the folder cannot be written to.
    """
    problems = []
    for mirror in mirrors:
        url = f"{mirror}{file.name}.gz"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
                packed = response.read(file.size + 1024)  # a gzip of noise is longer than the noise
            digest = hashlib.sha256(unpack(packed, file)).hexdigest()
        except (*_UNREADABLE, http.client.HTTPException, ValueError) as error:
            problems.append(f"{url}: {error or type(error).__name__}")
            continue
        if digest == file.sha256:
            path = root / f"{file.name}.gz"
            _make(root)
            write_bytes(path, packed)
            return path
        problems.append(f"{url}: its contents have SHA-256 {digest}, not {file.sha256}")
    raise FedhaError(
        f"cannot download {file.name} ({'; '.join(problems) or 'no mirror given'}); "
        f"check the network, or put the file into {root} yourself"
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FedhaError(f"cannot make the folder {folder}: {error.strerror}; choose another data.root") from error
