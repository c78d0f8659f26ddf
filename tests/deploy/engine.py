"""Stands where an engine would for the page's commands: takes what both engines take, looks, and starts nothing.

Run as ``python engine.py NAME WORDS...``. It reads compose files as an engine does, as far as to say what would fail: a
variable that is required and not set, a file that is not there, a secret that the containers' user cannot read. What
containers then do is tests/containers' to show.
"""

import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import yaml

# What docker 28 with compose v2, podman 4.3 and podman-compose 1.6 all take, of what the page uses.
TAKEN = {
    "build": {"-f": 1, "-t": 1, "--build-arg": 1},
    "save": {},
    "compose": {"--env-file": 1, "--profile": 1},
    "up": {"--detach": 0, "--build": 0, "--force-recreate": 0, "--remove-orphans": 0},
    "down": {"--timeout": 1},
    "run": {"--rm": 0},
}


def options(words: list[str], known: dict[str, int]) -> tuple[dict[str, str], list[str]]:
    """The options at the front, and what follows them."""
    found: dict[str, str] = {}
    while words and words[0].startswith("-"):
        name, *words = words
        assert name in known, f"not every engine takes {name}"
        if known[name]:
            found[name], *words = words
        else:
            found[name] = ""
    return found, words


def plain(words: list[str]) -> None:
    """build and save."""
    verb, *rest = words
    found, rest = options(rest, TAKEN[verb])
    if verb == "build":
        assert Path(found["-f"]).is_file(), found["-f"]
        assert rest == ["."], rest
    else:
        assert len(rest) == 1, "podman saves one image under all names that it is given"


def composed(words: list[str]) -> None:
    """A command of compose, in a folder."""
    given, (verb, *rest) = options(words, TAKEN["compose"])
    _, rest = options(rest, TAKEN[verb])
    file = next(path for path in map(Path, ("compose.yml", "docker-compose.yml")) if path.exists())
    values = variables(Path(given.get("--env-file", ".env")))
    content = yaml.safe_load(filled(file.read_text(encoding="utf-8"), values))
    if verb == "up":
        ready(content, int(values["FEDHA_UID"]))
    if verb == "run":
        service, *rest = rest
        assert given.get("--profile") in content["services"][service]["profiles"], "podman-compose asks for the profile"
        mounts = dict(reversed(volume.split(":")[:2]) for volume in content["services"][service]["volumes"])
        assert rest[0] == "run", rest
        assert (Path(mounts["/work/configs"]) / Path(rest[1]).name).is_file(), rest[1]


def variables(path: Path) -> dict[str, str]:
    """An environment file's."""
    pairs = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
    return {name: value for name, _, value in pairs}


def filled(text: str, values: dict[str, str]) -> str:
    """The text with its variables; one that is required and not there is an error."""

    def value(match: re.Match[str]) -> str:
        name, operator, default = match.groups()
        if values.get(name) or (operator == "-" and name in values):
            return values[name]
        assert not operator.endswith("?"), f"{name} {default}"
        return default

    return re.sub(r"\$\{(\w+)(:?[-?])([^}]*)\}", value, text)


def ready(content: dict[str, Any], user: int) -> None:
    """Whether all that is mounted is there, and the containers' user may read it."""
    for secret in content["secrets"].values():
        found = os.stat(secret["file"])
        assert found.st_uid == user, f"{secret['file']} belongs to {found.st_uid}, and containers run as {user}"
        assert stat.S_IMODE(found.st_mode) == 0o600, secret["file"]
    for service in content["services"].values():
        for volume in service.get("volumes", []):
            assert Path(volume.split(":")[0]).exists(), volume


if __name__ == "__main__":
    name, *words = sys.argv[1:]
    try:
        if name == "podman-compose":
            composed(words)
        elif words[0] == "compose":
            assert name == "docker", "podman's compose is podman-compose"
            composed(words[1:])
        else:
            plain(words)
    except AssertionError as error:
        sys.exit(f"{name}: {error}")
