"""What chance does to an image that is trained on: DomainBed's transforms, or somebody's own, drawn by the row."""

import hashlib
import inspect
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image

from fedha import plugins
from fedha.data.examples import Draws
from fedha.data.images.decode import Square, squared
from fedha.data.images.tree import shown
from fedha.errors import FedhaError, brief
from fedha.named import arguments, find, invoke
from fedha.randomness import generator

NONE = "none"
GENERATOR = "generator"  # the parameter of a transform that is handed what it draws from


@dataclass(frozen=True)
class Augmentation:
    """Which transform; what travels to another process is its name.

    Attributes:
        name: As the config has it.
        options: Its arguments, as JSON.
        square: What each image becomes.
    """

    name: str
    options: str
    square: Square

    @property
    def parallel(self) -> bool:
        """Whether it draws from a generator that it is given, so that several threads may apply it at once."""
        return _transform(self).generator


@dataclass(frozen=True)
class _Transform:
    """A transform that is ready.

    Attributes:
        apply: Takes a Pillow image.
        generator: Whether it also takes a generator; else it draws from torch's global one.
    """

    apply: Callable[..., Any]
    generator: bool


def augmentation(wanted: str | Mapping[str, Any], square: Square) -> Augmentation | None:
    """What a config asks for; None where it asks for nothing.

    Args:
        wanted: A name, or a mapping with the name and its arguments.
        square: What each image becomes.

    Raises:
        FedhaError: There is no such transform, its arguments do not fit it, or torchvision is missing.
    """
    options = {} if isinstance(wanted, str) else {key: one for key, one in wanted.items() if key != "name"}
    name = wanted if isinstance(wanted, str) else str(wanted["name"])
    if name == NONE:
        return None
    made = Augmentation(name, json.dumps(options, sort_keys=True), square)
    _transform(made)  # what is wrong with it is said before a run begins
    return made


def augmented(image: Image.Image, wanted: Augmentation, draws: Draws, row: int) -> NDArray[numpy.uint8]:
    """An image's bytes after its transform, [channels, size, size].

    Args:
        image: As it was decoded, of its own size.
        wanted: Which transform.
        draws: The run's seed, the round and the client; with the row they decide what is drawn.
        row: The image's place in its domain.

    Raises:
        Exception: Whatever the transform raises.
        FedhaError: What it makes is no image.
    """
    seed, *rest = draws
    numbers = generator(seed, "augmentation", *rest, row)
    transform = _transform(wanted)
    if transform.generator:
        made = transform.apply(image, generator=numbers)
    else:
        with _globally(numbers.initial_seed()):
            made = transform.apply(image)
    return _bytes(made, wanted)


@lru_cache(maxsize=8)
def written(wanted: Augmentation) -> str:
    """What decides how an image is changed: a transform's name and arguments, and the text that defines it.

    What a text takes from other modules is not in it.
    """
    function = inspect.unwrap(find("data.augment", plugins.location(plugins.TRANSFORMS, wanted.name)))
    try:
        path = inspect.getsourcefile(function)
    except TypeError:  # written in another language
        path = None
    code = b"" if path is None else Path(path).read_bytes()
    return f"{wanted.name} {wanted.options} {wanted.square!r} {hashlib.blake2b(code, digest_size=16).hexdigest()}"


@contextmanager
def _globally(seed: int) -> Iterator[None]:
    """Draw from the global generators of torch, NumPy and Python as a seed says, and leave them as they were."""
    python, state = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            numpy.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(state)


def _bytes(made: Any, wanted: Augmentation) -> NDArray[numpy.uint8]:
    if isinstance(made, torch.Tensor):
        made = _from_tensor(made)
    if _is_picture(made):
        made = Image.fromarray(made)
    if not isinstance(made, Image.Image):
        told = f"an array of {made.dtype}, {[*made.shape]}" if hasattr(made, "dtype") else type(made).__name__
        raise FedhaError(
            f"it makes {told}; let it return a Pillow image, bytes [h, w, c], or a tensor [c, h, w] of bytes or of "
            "numbers from 0 to 1"
        )
    if 0 in made.size:
        raise FedhaError(f"it makes an image of {made.width} × {made.height} pixels")
    return squared(made.convert("L" if wanted.square.channels == 1 else "RGB"), wanted.square)


def _is_picture(made: Any) -> bool:
    """Whether it is an array of bytes, [h, w] or [h, w, c]."""
    if not isinstance(made, numpy.ndarray) or made.dtype != numpy.uint8:
        return False
    return made.ndim == 2 or (made.ndim == 3 and made.shape[2] in (3, 4))


def _from_tensor(made: torch.Tensor) -> Any:
    """[h, w, c] of bytes, or whatever it is that is no image."""
    if made.ndim != 3 or made.shape[0] not in (1, 3):
        return made.numpy()
    if made.is_floating_point():
        if not bool(((made >= 0) & (made <= 1)).all()):
            raise FedhaError("it makes numbers beyond 0 to 1; let the network normalise, not data.augment")
        made = (made * 255).round().to(torch.uint8)
    return (made[0] if made.shape[0] == 1 else made.permute(1, 2, 0)).contiguous().numpy()


@lru_cache(maxsize=8)
def _transform(wanted: Augmentation) -> _Transform:
    """The transform: what a function, or a class, makes of its arguments, or a function of an image itself."""
    place = plugins.location(plugins.TRANSFORMS, wanted.name)
    function, options = find("data.augment", place), json.loads(wanted.options)
    offered = {"size": wanted.square.size, "channels": wanted.square.channels}
    if later := _given_later(function, {*options, *offered}):
        given = arguments("data.augment", wanted.name, function, options, offered, later)
        apply: Any = partial(_with_image, function, given, later[0])
    else:
        apply = invoke("data.augment", wanted.name, function, options, offered)
    if not callable(apply):
        raise FedhaError(
            f"data.augment is {wanted.name!r}, which makes a {type(apply).__name__}; let it return a function of an "
            "image, or be one"
        )
    return _Transform(apply, GENERATOR in (later or _parameters(apply)))


def _with_image(
    function: Callable[..., Any], given: Mapping[str, Any], name: str, image: Image.Image, **more: Any
) -> Any:
    return function(**given, **{name: image}, **more)


def _given_later(function: Callable[..., Any], given: set[str]) -> list[str]:
    """A transform's parameters for the image and the generator; none of what makes a transform.

    A function that needs one more argument than is given is the transform itself, and that one is the image.
    """
    if inspect.isclass(function):
        return []
    parameters = _parameters(function)
    usual = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [name for name, one in parameters.items() if one.default is one.empty and one.kind in usual]
    left = [name for name in needed if name not in given | {GENERATOR}]
    return [*left, *(name for name in parameters if name == GENERATOR)] if len(left) == 1 else []


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in another language
        return {}


def failure(wanted: Augmentation, path: Path, error: Exception) -> str:
    """What is said where a transform fails on an image."""
    told = brief(error) if isinstance(error, FedhaError) else f"{type(error).__name__}: {brief(error)}"
    return f"data.augment is {wanted.name!r}, which fails on the image {shown(path)}: {told}; mend it"
