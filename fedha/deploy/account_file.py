"""Where a site's account of its examples is: named after what its folder holds, which no server chooses.

A server chooses data.name and all its options, but not the bytes of a site's files. An account that was kept under
another name before is found and carried on.
"""

import hashlib
import json
from logging import WARNING
from pathlib import Path

from flwr.supercore import log

from fedha.atomic import write_text
from fedha.data.export import FILE
from fedha.errors import FedhaError
from fedha.jsonfile import parse_json
from fedha.privacy.account import Account

_NEW, _SEEN = "examples-", "files.json"
_CHUNK = 2**20


def account_of(cache: Path, root: Path | None, client_id: int) -> Account:
    """A site's account.

    Args:
        cache: The client's folder for what it needs again.
        root: The folder of the site's data; None where they are in no files.
        client_id: The client's.

    Raises:
        FedhaError: The folder has an account of other content: nobody knows whether it is of the same examples.
    """
    folder = cache / "account"
    there = str(root.resolve()) if root is not None and root.is_dir() else ""
    content = _content(Path(there), folder / _SEEN) if there else "none"
    path = folder / f"{_NEW}{content}-{client_id}.json"
    if path.exists():
        return Account(path, source=there)
    for other in sorted(folder.glob(f"{_NEW}*-{client_id}.json")):
        if there and Account(other).read().source == there:
            raise FedhaError(
                f"the files in {there} are no longer those of this site's account {other}; if all their examples are "
                f"others, move the account away; if some are the same, rename it to {path.name} to carry it on"
            )
    return Account(path, source=there, earlier=tuple(_earlier(folder, client_id)))


def _earlier(folder: Path, client_id: int) -> list[Path]:
    """Accounts that were named after data.name."""
    return [one for one in sorted(folder.glob(f"*-{client_id}.json")) if not one.name.startswith(_NEW)]


def _content(root: Path, seen: Path) -> str:
    """A digest of the files that a site's data come from: of the exported domain, if there is one, else of all.

    Files are read once; a list of those that were read is kept, and believed while their size and time stay.
    """
    exported = root / FILE
    among = root.glob(f"{exported.stem}.*") if exported.is_file() else root.rglob("*")
    known = _known(seen)
    found: dict[str, list[int | str]] = {}
    for path in sorted(one for one in among if one.is_file()):
        state, name = path.stat(), str(path)
        before = known.get(name, [])
        if before[:2] != [state.st_size, state.st_mtime_ns]:
            before = [state.st_size, state.st_mtime_ns, _digest(path)]
        found[name] = before
    if found != {name: known.get(name) for name in found}:
        seen.parent.mkdir(parents=True, exist_ok=True)
        write_text(seen, json.dumps({**known, **found}), mode=0o600)
    total = hashlib.sha256()
    for name, (*_, digest) in found.items():
        total.update(f"{Path(name).relative_to(root)} {digest}\n".encode())
    return total.hexdigest()[:16] if found else "none"


def _known(seen: Path) -> dict[str, list[int | str]]:
    """What was read before; nothing where the list cannot be read, for files can always be read again."""
    if not seen.exists():
        return {}
    try:
        content = parse_json(seen.read_bytes())
        return {str(name): list(state) for name, state in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log(WARNING, "fedha reads this site's files once more, for %s is damaged: %s", seen, error)
        return {}


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_CHUNK):
                total.update(block)
    except OSError as error:
        raise FedhaError(f"cannot read {path}: {error.strerror}; make it readable for this site's client") from error
    return total.hexdigest()
