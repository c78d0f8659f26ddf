"""A contact sheet a domain: some images of every class, as the network is given them, in one picture."""

import html
import io
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray

from fedha.atomic import write_bytes, write_text
from fedha.data.domain import Domain, DomainSet
from fedha.data.examine import Examined
from fedha.data.examples import Examples, joined
from fedha.data.holdings import holdings_section
from fedha.errors import FedhaError

PAGE = "index.html"
_EACH = 10  # images of a class
_CLASSES = 40  # that are shown
_SIDE = 48  # pixels that an image has at least


def shows_images(domains: DomainSet) -> bool:
    """Whether inputs are images: one to three channels of two axes."""
    shape = domains.input_shape
    return isinstance(shape, tuple | torch.Size) and len(shape) == 3 and shape[0] in (1, 2, 3) and min(shape[1:]) > 1


def write_sheets(domains: DomainSet, examined: Examined, folder: Path, *, images: bool = True) -> list[Path]:
    """Write a page with all domains, their counts and who holds what of them; of images also a PNG a domain.

    Args:
        domains: Any.
        examined: What was found of them.
        folder: Made if it is not there.
        images: Whether they are images.

    Returns:
        The files; the page is the last.

    Raises:
        FedhaError: The folder cannot be written, or holds a page that is not such a one.
    """
    page = folder / PAGE
    if page.exists() and _MARK not in page.read_text(encoding="utf-8", errors="replace"):
        raise FedhaError(f"{page} is there already and is no page of contact sheets; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FedhaError(f"cannot make the folder {folder}: {error.strerror}; choose another --out") from error
    files = []
    for place, one in enumerate((*domains.sources, *domains.targets) if images else ()):
        files.append(folder / f"sheet-{place}.png")
        write_bytes(files[-1], png(sheet(one, domains.classes)))
    write_text(page, _page(examined, files))
    return [*files, page]


def sheet(domain: Domain, classes: int) -> NDArray[numpy.uint8]:
    """Some images of each class, a row a class, in the order of the domain's rows, [height, width, 3]."""
    whole = joined([one for one in (domain.train, domain.held_out) if len(one)])
    rows = [_row(whole, label) for label in range(min(classes, _CLASSES))]
    return numpy.concatenate(rows)


def png(pixels: NDArray[numpy.uint8]) -> bytes:
    """A picture's file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _row(whole: Examples, label: int) -> NDArray[numpy.uint8]:
    places = (whole.labels == label).nonzero()[:_EACH, 0]
    _, height, width = whole.shape
    times = max(1, -(-_SIDE // max(height, width)))
    made = numpy.full((_EACH, height * times + 2, width * times + 2, 3), 255, dtype=numpy.uint8)
    if len(places):
        images = _coloured(whole.take(places).float())
        made[: len(places), 1:-1, 1:-1] = images.repeat(times, 1).repeat(times, 2)
    return numpy.concatenate(list(made), axis=1)


def _coloured(images: torch.Tensor) -> NDArray[numpy.uint8]:
    """[n, h, w, 3]: grey in all three colours, two channels as red and green; numbers beyond 0 to 1 are stretched."""
    low, high = min(0.0, float(images.min())), max(1.0, float(images.max()))
    pixels = ((images - low) / (high - low) * 255).round().to(torch.uint8)
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1)
    elif pixels.shape[1] == 2:
        pixels = torch.cat([pixels, torch.zeros_like(pixels[:, :1])], 1)
    made: NDArray[numpy.uint8] = pixels.permute(0, 2, 3, 1).cpu().numpy()
    return made


_MARK = "<!-- fedha data check -->"
_STYLE = "body{font:15px sans-serif;max-width:70em;margin:2em auto}img{max-width:100%;image-rendering:pixelated}"


def _page(examined: Examined, files: Sequence[Path]) -> str:
    parts = []
    for one, file in zip_longest(examined.domains, files):
        counts = "; ".join(f"{part.replace('_', ' ')} {sum(each)}" for part, each in one.parts.items())
        told = f"{one.role}, {counts}"
        title = html.escape(one.name)
        image = "" if file is None else f'<img src="{file.name}" alt="some images of {title}, a row a class">'
        parts.append(f"<h2>{title}</h2><p>{told}</p>{image}")
    problems = "".join(f"<li>{html.escape(one)}</li>" for one in examined.problems)
    found = f"<h2>Problems</h2><ul>{problems}</ul>" if problems else ""
    head = f'<meta charset="utf-8"><title>Contact sheets</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>{_MARK}<html lang="en">{head}'
        f"<h1>Contact sheets</h1><p>{html.escape(examined.description)}</p>{found}{holdings_section(examined)}"
        f"{''.join(parts)}</html>\n"
    )
