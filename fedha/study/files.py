"""The files of a study: what was asked, what was found, as JSON, Markdown, CSV and SVG."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedha.config import Config, load_written, to_yaml
from fedha.errors import FedhaError
from fedha.report.drawing import standalone
from fedha.report.formats import Table, render
from fedha.runs import own_files
from fedha.runs.files import ASKED, CSV, FIGURE, FOUND, MARKDOWN, STUDY
from fedha.runs.own_files import MARKER
from fedha.runs.owner import LOCK
from fedha.runs.runfolder import make_folder
from fedha.study.points import Point


def take(folder: Path, config: Config) -> None:
    """Make a study's folder, or go on in it; more noises and aggregations may be asked for than last time.

    Args:
        folder: The study's.
        config: Its recipes and seeds included.

    Raises:
        FedhaError: The folder holds a study of another config, or something else.
    """
    path = folder / ASKED
    if path.is_file() and ASKED in own_files.owned(folder):
        if load_written(path) != config:
            raise FedhaError(f"{folder} holds a study of another config; choose another folder with --out")
        own_files.claim(folder, *STUDY)
        return
    if folder.is_dir() and any(one.name not in (MARKER, LOCK) for one in folder.iterdir()):
        raise FedhaError(f"{folder} is not empty and holds no study; choose another folder with --out")
    own_files.write_text(make_folder(folder), ASKED, to_yaml(config))
    own_files.claim(folder, *STUDY)


def write(folder: Path, points: Sequence[Point], tables: Sequence[Table], figure: str) -> None:
    """Write what was found; the page is not among it.

    Args:
        folder: The study's.
        points: All of them.
        tables: The study's; the first is the CSV file.
        figure: The ``<svg>``; "" for none.

    Raises:
        FedhaError: A file cannot be written.
    """
    own_files.write_json(folder, FOUND, {"form": 1, "runs": [_content(one) for one in points]})
    own_files.write_text(folder, MARKDOWN, "\n".join(render(one, "markdown") for one in tables))
    own_files.write_text(folder, CSV, render(tables[0], "csv"))
    if figure:
        own_files.write_text(folder, FIGURE, standalone(figure))


def _content(point: Point) -> dict[str, Any]:
    """A point as JSON has it: no ε is null, which no number could say."""
    return {**asdict(point), "epsilon": None if math.isinf(point.epsilon) else point.epsilon}
