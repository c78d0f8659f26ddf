"""Makes a file system with what an image runs and nothing else: no shell, no package manager, no compiler, no tests.

    python lean.py ROOT PATH...

copies each path into ROOT at the same place, with this Python and its modules, and with every shared library that any
of it is linked to. An image that starts from nothing and copies ROOT then has no more than that. It runs where the
image is built, on Debian, and uses Python's own modules, ldd and dpkg. The packages that libraries come from are
written to ROOT/usr/share/debian-packages, a `name version` a line.
"""

import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

# Of packages: what compilers and testers need. Of Python: what makes, tests and draws.
UNUSED = {"tests", "include"}
UNUSED_OF_PYTHON = {"ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo", "venv"}
UNUSED_OF_PYTHON |= {"site-packages", "dist-packages"}
HEADERS = (".h", ".hpp", ".cuh", ".pxd", ".pyi", ".a")
SHARING = "torch_shm_manager"
# Loaded by name, so no file says that it needs them.
BY_NAME = ("libgcc_s.so.1",)
ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/:/nonexistent\nfedha:x:10001:10001::/tmp:/nonexistent\n",
    "etc/group": "root:x:0:\nfedha:x:10001:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def main(root: Path, paths: Iterable[Path]) -> None:
    """Make the file system."""
    root.mkdir()
    links(root)
    for name, content in ACCOUNTS.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content, encoding="utf-8")
    for folder in ("tmp", "work"):
        (root / folder).mkdir()
    (root / "tmp").chmod(0o1777)
    standard = Path(sysconfig.get_path("stdlib"))
    executable = Path(sys.executable).resolve()
    for path in (executable, standard, *paths):
        copy(path, root, UNUSED_OF_PYTHON if path == standard else UNUSED)
    compileall.compile_dir(root / str(standard)[1:], quiet=2, stripdir=str(root))
    found = libraries(root)
    for path in found:
        copy(path, root, set())
    sources = root / "usr/share/debian-packages"
    sources.parent.mkdir(parents=True, exist_ok=True)
    sources.write_text("".join(f"{line}\n" for line in packages([executable, *found, *paths])), encoding="utf-8")


def links(root: Path) -> None:
    """/lib and the like are links into /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        original = Path("/", name)
        if original.is_symlink():
            (root / name).symlink_to(os.readlink(original))
            (root / "usr" / name).mkdir(parents=True, exist_ok=True)


def copy(path: Path, root: Path, unused: set[str]) -> None:
    """Copy a file, with what a link leads to, or a folder, to the same place in another root."""
    path = path.parent.resolve() / path.name
    place = root / str(path)[1:]
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target = path.parent / os.readlink(path)
        if not place.is_symlink():
            place.symlink_to(os.readlink(path))
        copy(target, root, unused)
    elif path.is_dir():
        place.mkdir(exist_ok=True)
        for inside in sorted(path.iterdir()):
            if not is_unused(inside, unused) and (inside.exists() or not inside.is_symlink()):
                copy(inside, root, unused)
    elif not place.exists():
        shutil.copy2(path, place)


def is_unused(path: Path, unused: set[str]) -> bool:
    """Whether a file or folder serves builds and tests alone. Of torch's programs one is needed, the rest are tests."""
    headers = path.name in unused or path.name.endswith(HEADERS) or path.name.startswith("config-3.")
    above = path.parent.parts[-2:]
    return headers or path.parts[-2:] == ("torch", "test") or (above == ("torch", "bin") and path.name != SHARING)


def libraries(root: Path) -> list[Path]:
    """The shared libraries that programs and libraries in a root are linked to and that lie outside of it."""
    programs = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and linked(path)]
    found = {path for program in programs for path in needed(Path("/", program.relative_to(root)))}
    cache = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    for name in BY_NAME:
        found.update(Path(path) for path in re.findall(rf"\t{re.escape(name)} .* => (\S+)", cache))
    return sorted(path for path in found if not (root / str(path.parent.resolve() / path.name)[1:]).exists())


def linked(path: Path) -> bool:
    """Whether a file is a program or a library."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def needed(program: Path) -> Iterator[Path]:
    """What the loader would load for a program, itself included; what a driver brings is not there and passed over."""
    said = subprocess.run(["ldd", program], check=False, capture_output=True, text=True).stdout
    for path in re.findall(r"(?:=> |\t)(/\S+) \(0x", said):
        yield Path(path)


def packages(paths: Iterable[Path]) -> list[str]:
    """The Debian packages of these files, with their versions."""
    names = set()
    for path in paths:
        for place in {path, path.resolve(), Path(str(path.resolve()).removeprefix("/usr"))}:
            said = subprocess.run(["dpkg", "-S", place], check=False, capture_output=True, text=True)
            if said.returncode == 0:
                names.update(said.stdout.partition(": ")[0].split(", "))
    wanted = ["dpkg-query", "--show", "--showformat=${binary:Package} ${Version}\n", *sorted(names)]
    return sorted(subprocess.run(wanted, check=True, capture_output=True, text=True).stdout.splitlines())


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]])
