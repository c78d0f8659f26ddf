"""Which packages the images need, at the versions of constraints.txt, for `make requirements`.

A deployment needs what fedha needs, its accounts of privacy included, but for Ray, which is for simulations, and uv and
setuptools, which install and build packages. torch has a file of its own, torch.txt, because its wheels without CUDA
have an index of their own.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"ray", "setuptools", "uv"}
APART = {"torch"}


def needed() -> set[str]:
    """The names of all packages in the images: what pyproject.toml asks for, and what that needs in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["privacy"]]
    return closure([re.sub(r"\[simulation\]", "", text) for text in asked])


def closure(asked: list[str]) -> set[str]:
    """These requirements and all that they need, as the packages of this environment say, by name."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in asked]
    seen = set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in LEFT_OUT or (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        found.add(name)
        waiting += needs(name, one.extras)
    return found


def needs(name: str, extras: set[str]) -> Iterator[Requirement]:
    """What a package asks for on this platform."""
    for text in requires(name) or []:
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield one


def pinned(names: set[str]) -> list[str]:
    """The lines of constraints.txt for these packages; a package that has none is an error."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions = {canonicalize_name(line.partition("==")[0]): line for line in lines if "==" in line}
    return [versions[name] for name in sorted(names)]


if __name__ == "__main__":
    names = closure(sys.argv[1:]) if len(sys.argv) > 1 else needed() - APART
    sys.stdout.write("".join(f"{line}\n" for line in pinned(names)))
