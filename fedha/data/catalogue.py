"""Every data set that a config can name: fedha's own, and those of installed packages."""

import inspect
from dataclasses import dataclass

from fedha import plugins
from fedha.data.about import About, about_of
from fedha.errors import FedhaError
from fedha.named import find

OLDER = {
    "arrays": About(
        "your own NumPy arrays",
        needs="data.root with <domain>.npz, data.target",
        domains="the files",
    ),
    "colored_digits": About(
        "1,797 real digits of scikit-learn, coloured so that the colour misleads",
        needs="",
        domains="flip-0.2, flip-0.1, target: data.color_flips",
        classes=2,
    ),
    "colored_mnist": About(
        "MNIST coloured as published",
        needs="data.root with MNIST's four files (`fedha data fetch mnist`)",
        domains="flip-0.2, flip-0.1, target: data.color_flips",
        classes=2,
    ),
    "folder": About(
        "your own images, domain/class/image",
        needs="data.root with the folders, data.target",
        domains="the folders",
    ),
    "heart": About(
        "UCI Heart Disease, patients of four hospitals",
        needs="data.root with processed.<hospital>.data (`fedha data fetch heart`)",
        domains="cleveland, hungarian, switzerland, va",
        classes=2,
    ),
}


@dataclass(frozen=True)
class Entry:
    """A data set in the list.

    Attributes:
        name: As ``data.name`` has it.
        package: Whose it is.
        about: What it says of itself.
        problem: Why it cannot be used, such as a package that cannot be imported; "" for nothing.
    """

    name: str
    package: str
    about: About
    problem: str = ""


def catalogue() -> list[Entry]:
    """All of them, fedha's own first, by name."""
    own = [Entry(name, "fedha", about) for name, about in OLDER.items()]
    own += [_entry(name, "fedha") for name in plugins.BUILT_IN[plugins.DATA]]
    others = {name: point for name, point in plugins.installed(plugins.DATA).items() if name not in OLDER}
    theirs = [
        _entry(name, plugins.whose(point).removeprefix("package "))
        for name, point in others.items()
        if name not in plugins.BUILT_IN[plugins.DATA]
    ]
    return [*sorted(own, key=lambda one: one.name), *sorted(theirs, key=lambda one: one.name)]


def _entry(name: str, package: str) -> Entry:
    try:
        function = find("data.name", plugins.location(plugins.DATA, name))
    except FedhaError as error:
        return Entry(name, package, About("", "", ""), str(error))
    return Entry(name, package, about_of(function) or _guessed(function))


def _guessed(function: object) -> About:
    """What a function that says nothing of itself shows: the first line of its text, and whether it takes a folder."""
    try:
        takes_folder = "root" in inspect.signature(function).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):  # written in another language
        takes_folder = False
    first, *_ = (inspect.getdoc(function) or "").strip().split("\n")
    return About(first.rstrip("."), "data.root" if takes_folder else "", "as the function makes them")
