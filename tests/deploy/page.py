"""The commands of docs/deploy.md, in order, and in the words of either engine."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("in the checkout", "on the server, in fedha", "at each site, in fedha")
ENGINES = {"docker": ("docker", "docker compose"), "podman": ("podman", "podman-compose")}


@dataclass(frozen=True)
class Command:
    """One line of the page.

    Attributes:
        place: Where it is typed.
        line: As written.
    """

    place: str
    line: str

    def words(self, engine: str) -> str:
        """The line as the page tells users of an engine to write it."""
        plain, compose = ENGINES[engine]
        return re.sub(r"\bdocker( compose)?\b", lambda found: compose if found[1] else plain, self.line)


def commands() -> Iterator[Command]:
    """All of the page."""
    text = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        first, *lines = block.splitlines()
        for line in lines:
            yield Command(first.removeprefix("# "), re.sub(r"\s+#.*", "", line))


if __name__ == "__main__":
    for command in commands():
        sys.stdout.write(f"{command.place}\t{command.words(sys.argv[1])}\n")
