"""How glibc keeps small freed memory: without a cache for each thread, which makes a heap grow where tensors are large.

torch asks for memory at a multiple of 64. glibc cuts it out of a piece that is a little larger, and frees what is left
at both ends; of the smallest such ends each thread keeps some in a cache (tcache), where they are joined to no
neighbour. A large tensor that is freed then leaves a place that is too small for the next of its size, which goes on
top: a network in pieces of 130 MB came to hold 100 to 450 MB of free memory, as chance had it. Without the cache it
holds what its largest piece takes. glibc reads this where a process starts, and never again.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress

TUNABLES = "GLIBC_TUNABLES"
_SETTING = "glibc.malloc.tcache_count"


def uncached(environment: Mapping[str, str]) -> str:
    """The value of `TUNABLES` with which a process keeps no such cache, unless somebody has set one.

    Args:
        environment: Of this process.
    """
    given = environment.get(TUNABLES, "")
    return given if _SETTING in given else ":".join(filter(None, (given, f"{_SETTING}=0")))


def restart_uncached() -> None:
    """Start this program once more, in this very process, with the setting; to be called before anything is imported.

    It takes some 20 ms. Where the C library is another, the setting is there, or it cannot be started again, nothing
    happens: the program uses more memory then, and gives the same numbers.
    """
    wanted = uncached(os.environ)
    if not _is_glibc() or os.environ.get(TUNABLES) == wanted or not sys.executable:
        return
    os.environ[TUNABLES] = wanted
    with suppress(OSError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # the same program, no shell


def _is_glibc() -> bool:
    with suppress(ValueError, OSError):
        return sys.platform == "linux" and (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    return False
