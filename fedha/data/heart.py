"""UCI Heart Disease: four hospitals that recorded the same 13 attributes, as four natural domains."""

import math
from pathlib import Path

import torch

from fedha.config import DataConfig
from fedha.data.domain import Domain, DomainSet, Examples, choose_sources, own_source, split, unseen
from fedha.data.sides import Cut
from fedha.errors import FedhaError
from fedha.textfile import read_text

FILE = "processed.{}.data"  # of a hospital
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")

# Attribute, centre, scale, in the unit of the files. Fixed numbers that a textbook would give, not estimates from these
# rows: so no hospital has to share a mean or a deviation, and nothing of the held-out rows or the target leaks.
ATTRIBUTES: tuple[tuple[str, float, float], ...] = (
    ("age", 55.0, 10.0),  # years
    ("sex", 0.5, 0.5),  # 0 female, 1 male
    ("cp", 2.5, 1.0),  # chest pain: 1 typical angina to 4 asymptomatic
    ("trestbps", 130.0, 20.0),  # resting blood pressure, mmHg
    ("chol", 240.0, 50.0),  # serum cholesterol, mg/dl
    ("fbs", 0.5, 0.5),  # fasting blood sugar over 120 mg/dl
    ("restecg", 1.0, 1.0),  # resting electrocardiogram: 0 normal, 1 ST-T abnormality, 2 hypertrophy
    ("thalach", 140.0, 25.0),  # maximum heart rate, beats a minute
    ("exang", 0.5, 0.5),  # angina under exercise
    ("oldpeak", 1.0, 1.0),  # ST depression under exercise
    ("slope", 2.0, 1.0),  # of the ST segment: 1 up, 2 flat, 3 down
    ("ca", 1.0, 1.0),  # vessels coloured by fluoroscopy, 0 to 3
    ("thal", 5.0, 2.0),  # 3 normal, 6 fixed defect, 7 reversible defect
)
_ZERO_IS_MISSING = {"chol", "trestbps"}  # nobody has none; all Swiss cholesterol is 0, and one VA blood pressure


def load(config: DataConfig, cut: Cut) -> DomainSet:
    """The hospitals as domains; the task is no heart disease (0) against any (1 to 4 in the files).

    Args:
        config: Its root (with ``processed.<hospital>.data`` of those that are used), sources (default: all but the
            target) and target (default: "va").
        cut: Decides which rows of the sources are held out.

    Returns:
        Inputs [n, 26]: 13 attributes less their fixed centre, over their fixed scale, 0 where missing; then 13 columns
        that are 1 where the attribute is missing. Two classes.

    Raises:
        FedhaError: No root, an unknown hospital, a missing file, or a row that does not parse.

    Source:
        Janosi, Steinbrunn, Pfisterer, Detrano, "Heart Disease", UCI Machine Learning Repository, CC BY 4.0.
    """
    if config.root is None:
        raise FedhaError("data.root is not set; name the folder that holds processed.cleveland.data and the others")
    target = config.target or "va"
    names = choose_sources(HOSPITALS, config.sources, target)
    sources = tuple(_source(config.root, name, cut) for name in names)
    unseen_one = load_target(config, config.root)
    rows = unseen_one.held_out
    counts = ", ".join(f"{one.name} {len(one.train) + len(one.held_out)}" for one in sources)
    return DomainSet(
        sources=sources,
        targets=(unseen_one,),
        classes=2,
        description=(
            "UCI Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano; CC BY 4.0): "
            f"{counts} patients, unseen target {target} {len(rows)}"
        ),
    )


def load_target(config: DataConfig, root: Path) -> Domain:
    """The unseen hospital, from its own file alone.

    Args:
        config: Its target.
        root: The folder of the file.

    Raises:
        FedhaError: As in `load`.
    """
    name = config.target or "va"
    return unseen(name, _read(root / FILE.format(name)))


def load_own(config: DataConfig, cut: Cut, client_id: int) -> Domain:
    """The source of one client, from its own file alone; arguments as in `load`.

    Args:
        config: As in `load`; only the hospital's own file is read.
        cut: As in `load`.
        client_id: The client's, in client order.

    Raises:
        FedhaError: As in `load`, or there is no such source.
    """
    if config.root is None:
        raise FedhaError("data.root is not set; name the folder that holds the hospital's processed.*.data file")
    names = choose_sources(HOSPITALS, config.sources, config.target or "va")
    return _source(config.root, own_source(names, client_id, config.root, FILE), cut)


def _source(root: Path, name: str, cut: Cut) -> Domain:
    return split(name, _read(root / FILE.format(name)), cut)


def parse(text: str, origin: str) -> Examples:
    """Rows of one hospital as examples.

    Args:
        text: 14 values a line, separated by commas: the attributes, then the diagnosis 0 to 4. ``?`` and -9 are
            missing, as are a cholesterol and a blood pressure of 0. A first line of column names is skipped.
        origin: What errors call the text.

    Returns:
        Inputs [n, 26], float32, and labels [n], as in `load`.

    Raises:
        FedhaError: A line without 14 values, a value that is no finite number, or a diagnosis that is not 0 to 4.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if lines and lines[0][1].strip().lower().startswith("age"):
        del lines[0]
    rows = [_row(line, f"{origin}, line {number}") for number, line in lines]
    values = torch.tensor([attributes for attributes, _ in rows], dtype=torch.float64).reshape(-1, len(ATTRIBUTES))
    centres, scales = torch.tensor([[centre, scale] for _, centre, scale in ATTRIBUTES], dtype=torch.float64).T
    missing = values.isnan()
    scaled = ((values - centres) / scales).masked_fill(missing, 0.0)
    inputs = torch.cat([scaled, missing.to(scaled.dtype)], dim=1).float()
    return Examples(inputs, torch.tensor([diagnosis > 0 for _, diagnosis in rows], dtype=torch.int64))


def _read(path: Path) -> Examples:
    return parse(read_text(path, remedy="data.root must hold the hospital's file"), str(path))


def _row(line: str, place: str) -> tuple[list[float], float]:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(ATTRIBUTES) + 1:
        raise FedhaError(f"{place}: {len(fields)} values; a row has 13 attributes and the diagnosis")
    values = [_attribute(name, field, place) for (name, _, _), field in zip(ATTRIBUTES, fields[:-1], strict=True)]
    diagnosis = _number("diagnosis", fields[-1], place)
    if diagnosis not in (0, 1, 2, 3, 4):
        raise FedhaError(f"{place}: the diagnosis is {fields[-1]!r}; it must be 0, 1, 2, 3 or 4")
    return values, diagnosis


def _attribute(name: str, field: str, place: str) -> float:
    """The value, or NaN where it is missing."""
    value = -9.0 if field == "?" else _number(name, field, place)
    return math.nan if value == -9 or (value == 0 and name in _ZERO_IS_MISSING) else value


def _number(name: str, field: str, place: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FedhaError(f"{place}: {name} is {field!r}; write a number, or ? where an attribute is missing")
    return value
