"""Examples that a finished run is asked about: prepared as its data were, with labels where there are some."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from fedha.config import DataConfig
from fedha.data.archive import members, read_inputs, read_values
from fedha.data.class_names import plain
from fedha.data.domain import Examples
from fedha.data.images.decode import Square
from fedha.data.images.files import ImageFiles
from fedha.data.images.source import Images
from fedha.data.images.tree import images_below
from fedha.data.layout import layout_of
from fedha.data.mapped import kept_as
from fedha.data.tables.encode import Encoding
from fedha.data.tables.load import MISSING
from fedha.data.tables.roles import check_cells
from fedha.data.tables.sheet import read_sheet
from fedha.data.tables.statistics import ColumnStatistics
from fedha.errors import FedhaError, listed

UNKNOWN = -1  # the label of an example that has none


def archive(path: Path, config: DataConfig, shape: Any) -> Examples:
    """The arrays ``inputs`` and, where they are there, ``labels`` of an .npz file.

    Args:
        path: The file.
        config: Its layout, scale and unlabelled, where the run's data are such files.
        shape: Of one input, as the network takes it.

    Raises:
        FedhaError: There are no inputs, or the file cannot be read.
    """
    found = members(path)
    if "inputs" not in found:
        raise FedhaError(f"{path} has no array 'inputs', only {listed(found) or 'none'}; save it under that name")
    member = found["inputs"]
    plainly = DataConfig(name="arrays") if config.name != "arrays" else config
    layout = layout_of(str(path), member.dtype, member.shape, plainly)
    kind = kept_as(member.dtype)
    inputs = read_inputs(path, member, layout.axes, layout.divisor if kind.kind == "f" else 1.0, kind)
    labels = torch.full((len(inputs),), UNKNOWN)
    if "labels" in found:
        labels = torch.from_numpy(read_values(path, found["labels"]).astype(numpy.int64))
        if len(labels) != len(inputs):
            raise FedhaError(f"{path} has {len(inputs)} inputs but {len(labels)} labels; give one label an input")
        if config.unlabelled is not None:
            labels[labels == config.unlabelled] = UNKNOWN
    return Examples(inputs, labels, divisor=1.0 if kind.kind == "f" else layout.divisor).counted()


def image_folder(path: Path, config: DataConfig, shape: Any, names: Sequence[str]) -> Examples:
    """The images of a folder; those in a folder that is called as a class are of that class, all others of none.

    Args:
        path: The folder.
        config: Its interpolation, decode and workers.
        shape: [channels, size, size], as the network takes it.
        names: Of the classes.

    Raises:
        FedhaError: There is no image.
    """
    found = images_below(path)
    if not found:
        raise FedhaError(f"{path} holds no image; name a folder with images, or with class folders of them")
    channels, size, _ = shape
    square = Square(size, channels, config.interpolation or "bilinear", config.decode == "scaled")
    places = {name: place for place, name in enumerate(names)}
    labels = [places.get(name.partition("/")[0], UNKNOWN) if "/" in name else UNKNOWN for name in found]
    files = ImageFiles(path.absolute(), tuple(found), square, config.workers)
    return Examples(Images(files), torch.tensor(labels, dtype=torch.int64))


def rows_of_table(path: Path, config: DataConfig, statistics: Mapping[str, Any], names: Sequence[str]) -> Examples:
    """The rows of one file, as inputs by the statistics that the run's own rows were made inputs by.

    Args:
        path: The file.
        config: Of the data set `table`.
        statistics: Of each feature.
        names: Of the classes.

    Raises:
        FedhaError: Nobody knows the statistics; a feature's column is missing, or a label is no class.
    """
    options = config.options
    given = statistics or options.get("statistics") or {}
    if not given:
        raise FedhaError("the run does not say by which statistics its rows were made inputs; train it again")
    columns = {name: ColumnStatistics.model_validate(one) for name, one in given.items()}
    label, missing = str(options["label"]), options.get("missing")
    has_categories = {name: one.categories is not None for name, one in columns.items()}
    as_text = [label, *(name for name, has in has_categories.items() if has)]
    sheet = read_sheet(path, as_text, MISSING if missing is None else missing, options.get("delimiter"))
    if gone := [name for name in columns if name not in sheet.columns]:
        raise FedhaError(f"{path} has no column {gone[0]!r}, which the run was trained on; give it one")
    encoding = Encoding(
        columns, options.get("impute", "mean"), _true(options, "indicator"), _true(options, "standardise")
    )
    rows = numpy.arange(sheet.rows)
    inputs = torch.from_numpy(encoding.inputs(check_cells(sheet, has_categories), rows, trained=False))
    labels = _labels(path, sheet.columns[label].texts, names) if label in sheet.columns else None
    return Examples(inputs, torch.full((len(rows),), UNKNOWN) if labels is None else labels).counted()


def _labels(path: Path, texts: Sequence[str | None] | None, names: Sequence[str]) -> Tensor:
    places = {name: place for place, name in enumerate(names)}
    found = [None if one is None else plain(one) for one in texts or []]
    if strange := [one for one in found if one is not None and one not in places]:
        raise FedhaError(f"{path} has the label {strange[0]!r}, and the run's classes are {listed(names)}; mend it")
    return torch.tensor([UNKNOWN if one is None else places[one] for one in found], dtype=torch.int64)


def _true(options: Mapping[str, Any], name: str) -> bool:
    return str(options.get(name, True)).lower() not in ("false", "no", "0")
