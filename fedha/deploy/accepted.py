"""What a site runs of other people's code: a file of the site's own, to which a person adds a line.

``bundle SHA-256 NAME VERSION``
    An app that a run may bring, started where the site says so (``FEDHA_APP=accepted``); name and version are for
    people.
``code package.module:function``
    Something installed at the site that a config may name: a data set, a network, a rule, a statistic, a transform.

In the environment of the site's app ``FEDHA_ACCEPTED`` names the file; default: where the containers have it.
"""

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from fedha import atomic, permitted, plugins
from fedha.config import Config
from fedha.deploy import bundle
from fedha.errors import FedhaError, brief
from fedha.named import is_own
from fedha.rules.table import AVERAGINGS, RULES, named_rule

FILE = "accepted.txt"
_USUAL = Path("/run/secrets") / FILE
_HEAD = """\
# What this site runs of other people's code: a line each, which a person of this site adds (fedha deploy accept).
#   bundle SHA-256 NAME VERSION    an app that a run brings; unpacked and started only with FEDHA_APP=accepted in .env
#   code package.module:function   something installed here that a run's config may name
"""
_REMEDY = f"if this site's people want it to run here, they add `code NAME` to {FILE} (fedha deploy accept NAME)"
_BUNDLE = re.compile(r"bundle\s+([0-9a-f]{64})(?:\s+(.*))?")
_CODE = re.compile(r"code\s+([\w.]+:[\w.]+)")

# fedha's own, which any config may name; by their import names, since that is what is looked up. A site keeps no
# tracker's log of a run.
_OWN = {place for group, rows in plugins.BUILT_IN.items() if group != plugins.LOGGERS for place in rows.values()} | {
    row.maker for row in (*RULES.values(), *AVERAGINGS.values())
}


@dataclass(frozen=True)
class Accepted:
    """What a site's people accepted.

    Attributes:
        bundles: What each is called, by its digest.
        code: Each as ``package.module:function``.
    """

    bundles: Mapping[str, str]
    code: frozenset[str]


def first() -> bytes:
    """The file that a new site begins with: this version's own bundle, and no code but fedha's."""
    return f"{_HEAD}{bundle_line(bundle.DIGEST, bundle.NAME, bundle.VERSION)}\n".encode()


def bundle_line(digest: str, *called: str) -> str:
    """The line that accepts a bundle of this digest, with what people call it."""
    words = (re.sub(r"[^!-~]", "?", one)[:100] for one in called)
    return f"bundle {digest} {' '.join(words)}"


def code_line(place: str) -> str:
    """The line that accepts installed code.

    Raises:
        FedhaError: It is no such name.
    """
    line = f"code {place}"
    if not _CODE.fullmatch(line):
        raise FedhaError(f"{place!r} names no code; write package.module:function, or the file of an app bundle")
    return line


def parse(text: str, called: str) -> Accepted:
    """What the lines of a site's file accept.

    Args:
        text: The file's.
        called: The file, in errors.

    Raises:
        FedhaError: A line says neither.
    """
    bundles, code = dict[str, str](), set[str]()
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        if found := _BUNDLE.fullmatch(line):
            bundles[found[1]] = found[2] or ""
        elif found := _CODE.fullmatch(line):
            code.add(found[1])
        else:
            raise FedhaError(
                f"line {number} of {called} is {line[:200]!r}; write `bundle SHA-256 NAME VERSION`, or "
                "`code package.module:function`"
            )
    return Accepted(bundles, frozenset(code))


def read(path: Path) -> Accepted:
    """What a site's file accepts; nothing where there is none.

    Raises:
        FedhaError: It cannot be read, or a line says neither.
    """
    return parse(_text(path) or "", f"this site's {path.name}")


def here() -> Accepted:
    """What this process' site accepted; errors as in `read`."""
    return read(Path(os.environ.get("FEDHA_ACCEPTED") or _USUAL))


def add(path: Path, line: str) -> bool:
    """Add a line to a site's file, which stays its owner's.

    Args:
        path: The file; one that is not there begins with what it is for.
        line: From `bundle_line` or `code_line`.

    Returns:
        Whether it was not there.

    Raises:
        FedhaError: The file cannot be read or written, or is no such file.
    """
    text = _text(path)
    before, wanted = parse(text or "", str(path)), parse(line, "what is to be added")
    if wanted.bundles.keys() <= before.bundles.keys() and wanted.code <= before.code:
        return False
    owner = path.stat() if text is not None else path.parent.stat()
    whole = _HEAD if text is None else text if text.endswith("\n") or not text else f"{text}\n"
    atomic.write_text(path, f"{whole}{line}\n", 0o600)
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)
    return True


def only_this(accepted: Accepted) -> AbstractContextManager[None]:
    """Within it, a config or a message may name fedha's own code and what was accepted, and no other."""
    return permitted.only(_OWN | accepted.code, _REMEDY)


def only_what_a_site_accepted(folder: Path) -> AbstractContextManager[None]:
    """Within it, likewise what the site of a folder accepted; errors as in `read`."""
    return only_this(read(folder / FILE))


def only_this_from_now_on(accepted: Accepted) -> None:
    """The same until the process ends."""
    permitted.from_now_on(_OWN | accepted.code, _REMEDY)


def check_named(config: Config) -> None:
    """Refuse a config that names other code, before anything is done for it.

    Raises:
        FedhaError: Names it.
    """
    augment = config.data.augment if isinstance(config.data.augment, str) else str(config.data.augment["name"])
    rule, averaging = (
        "" if one is None else named_rule(one)[0]
        for one in (config.training.optimizer, config.training.weight_averaging)
    )
    named = (
        ("data.name", plugins.DATA, config.data.name),
        ("data.augment", plugins.TRANSFORMS, augment),
        ("model.name", plugins.MODELS, config.model.name),
        ("training.optimizer", plugins.RULES, rule),
        ("training.weight_averaging", plugins.RULES, averaging),
    )
    metrics = (("evaluation.metrics", plugins.METRICS, name) for name in config.evaluation.metrics)
    for key, group, name in (*named, *metrics):
        if is_own(place := plugins.location(group, name)):
            permitted.check(key, place)


def _text(path: Path) -> str | None:
    """A file's text; None where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FedhaError(f"cannot read {path}, where a site says what code it accepts: {brief(error)}") from error
