"""What features are of: a digest of each row's content, and one of the network and of all that computes it."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedha.data.examples import Chosen, Draws, Examples, Joined
from fedha.data.images.augment import written
from fedha.data.images.files import broken_image
from fedha.data.images.source import Images
from fedha.data.mapped import Mapped
from fedha.data.taking import taken
from fedha.features.source import view_draws
from fedha.features.trunk import BLOCK
from fedha.objects import digest_of

KEY_BYTES = 16
FORMAT = 1
_PACKAGES = ("torch", "timm", "torchvision")

KEY = numpy.dtype(f"S{KEY_BYTES}")

Keys = NDArray[numpy.bytes_]  # [n], of KEY_BYTES each


def row_keys(examples: Examples, views: int = 0) -> Keys:
    """A digest of each row, whatever order the rows are in, and of whatever split, seed or target they are.

    Of images in files it is made of each file's place, size and time of change; of all else of the row's numbers.

    Args:
        examples: Placed for the network.
        views: Of each row, whose digests follow, view after view. An image's has what changes it, and by what it is
            drawn; of all else it is made of the changed numbers.
    """
    common = json.dumps([str(examples.inputs.dtype), [*examples.shape], examples.divisor_of(examples.inputs)]).encode()
    rows, found = torch.arange(len(examples)), list[bytes]()
    for draws in (None, *map(view_draws, range(views))):
        found += _digests(examples.inputs, rows, common, draws)
    return numpy.frombuffer(b"".join(found), KEY)


def trunk_key(trunk: nn.Module, examples: Examples, precision: str) -> dict[str, Any]:
    """What features depend on beside the rows: the network's numbers and layers, and what computes them."""
    place = next(trunk.parameters())
    return {
        "format": FORMAT,
        "weights": digest_of((name, value) for name, value in trunk.state_dict().items() if isinstance(value, Tensor)),
        "layers": hashlib.blake2b(_layers(trunk).encode(), digest_size=16).hexdigest(),
        "input": [str(one) for one in (*examples.form.kinds, *examples.form.shapes)],
        "block": BLOCK,
        "precision": precision,
        "computed": f"{place.dtype} on {place.device.type}, {torch.get_num_threads()} threads, {_processor()}",
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _layers(trunk: nn.Module) -> str:
    kinds = [f"{type(one).__module__}.{type(one).__qualname__}" for one in trunk.modules()]
    plain = {key: value for key, value in vars(trunk).items() if isinstance(value, int | float | str | tuple)}
    return json.dumps([repr(trunk), kinds, repr(plain)])


def _processor() -> str:
    return torch.backends.cpu.get_cpu_capability()


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _digests(kept: Any, rows: Tensor, common: bytes, draws: Draws | None) -> Iterator[bytes]:
    if isinstance(kept, Chosen):
        yield from _digests(kept.source, kept.rows[rows], common, draws)
    elif isinstance(kept, Joined):
        starts = numpy.cumsum([0, *map(len, kept.parts)])
        for row in rows.tolist():
            part = int(numpy.searchsorted(starts, row, side="right")) - 1
            yield from _digests(kept.parts[part], torch.tensor([row - int(starts[part])]), common, draws)
    elif isinstance(kept, Images):
        told = common + f"{kept.files.square!r}, Pillow {PIL.__version__}".encode()
        if draws is None or kept.augmentation is None:
            yield from _keys(told, (_image(kept.files.place(row)) for row in rows.tolist()))
        else:
            told += f"{written(kept.augmentation)}, {draws}".encode()
            yield from _keys(told, (b"%d %b" % (row, _image(kept.files.place(row))) for row in rows.tolist()))
    elif isinstance(kept, Mapped):
        told = common + repr((kept.kind, kept.offset, kept.axes, kept.file_shape)).encode() + _file(str(kept.path))
        yield from _keys(told, (b"%d" % row for row in rows.tolist()))
    else:
        for some in rows.split(256):
            block = kept[some] if isinstance(kept, Tensor) else taken(kept, some, draws)
            array = block.cpu().contiguous().numpy()
            yield from _keys(common, (one.tobytes() for one in array))


def _image(path: str) -> bytes:
    try:
        return _file(path)
    except OSError as error:  # a link to nowhere, or to itself
        raise broken_image(Path(path), error.strerror or type(error).__name__) from error


def _file(path: str) -> bytes:
    found = os.stat(path)
    return f"{path} {found.st_size} {found.st_mtime_ns}".encode(errors="surrogateescape")


def _keys(common: bytes, contents: Iterable[bytes]) -> Iterator[bytes]:
    begun = hashlib.blake2b(key=hashlib.blake2b(common, digest_size=32).digest(), digest_size=KEY_BYTES)
    for content in contents:
        told = begun.copy()
        told.update(content)
        yield told.digest()
