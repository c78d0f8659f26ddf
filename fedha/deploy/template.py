"""The process that apps are forked from: it has imported what they need, and has no thread and no connection.

It reads one order a line, ``{"app", "options", "quiet"}``, and ends where its input ends. Secrets among the options
stand on no command line.
"""

import gc
import importlib
import json
import os
import random
import signal
import sys
from typing import Any

import numpy as np
import torch

_APPS = {
    "server": "flwr.superlink.cli.flwr_serverapp:flwr_serverapp",
    "site": "fedha.deploy.site_app:main",
}


def main() -> None:
    """Fork until the input ends."""
    for module in ("fedha.deploy.apps", *(one.partition(":")[0] for one in _APPS.values())):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that no collection in a child copies what it only reads
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the SuperExec ends us
    for line in sys.stdin:
        if os.fork() == 0:
            sys.exit(_run(json.loads(line)))  # with all that Python does at a process' end


def _run(order: dict[str, Any]) -> int:
    """What the process of a task does, and the status that it ends with."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _detach(bool(order["quiet"]))
    _stir()
    module, _, function = _APPS[order["app"]].partition(":")
    sys.argv = [function, *order["options"]]
    return int(getattr(sys.modules[module], function)() or 0)


def _detach(quiet: bool) -> None:
    """Leave the orders to the template, and be silent if asked to."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2) if quiet else (0,):
        os.dup2(null, number)
    os.close(null)


def _stir() -> None:
    """Global generators start from chance, as in a process of their own; nothing of ours draws from them."""
    random.seed()
    np.random.seed()
    torch.seed()


if __name__ == "__main__":
    main()
