"""Runs first in every process that tests start.

`import torchvision` works there where its compiled part does not load.

A wheel that was compiled for another torch (CUDA's beside the CPU's) lacks two operators, without which nothing of
it can be imported; models and transforms need neither. They are declared when torchvision is about to be imported, so
that a process that does not import it pays nothing. Where the compiled part loads, nothing is done.

A SuperNode that has FEDHA_TESTS_PAUSE in its environment looks for messages, and for their answers, again after so many
seconds; Flower's own three, which it has no option for, are most of what a small federation's round would take.
"""

import os
import sys
import time
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace

_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[object] = []  # which would be gone with the object that declared them


class _BeforeTorchvision:
    """A finder that finds nothing, and is asked before those that do."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Declare what is missing, if it is torchvision that is asked for."""
        if name == "torchvision" and not _declared:
            found = PathFinder.find_spec(name)
            if found is not None and found.origin is not None:
                _declare(Path(found.origin).parent)


def _declare(package: Path) -> None:
    import torch

    for compiled in package.glob("_C.*"):
        try:
            torch.ops.load_library(compiled)
        except OSError:
            continue
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        _declared.append(library)
        for name in ("nms", "qnms"):
            library.define(f"{name}{_BOXES}")


class _BeforeSuperNodes:
    """A finder of one module of Flower's, whose pauses are cut."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Flower's module that waits for messages; nothing else."""
        if name != "flwr.supernode.start_client_internal":
            return None
        found = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        assert found is not None
        assert found.loader is not None
        execute, longest = found.loader.exec_module, float(os.environ["FEDHA_TESTS_PAUSE"])

        def hurried(module: ModuleType) -> None:
            execute(module)
            vars(module)["time"] = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, longest)))

        vars(found.loader)["exec_module"] = hurried
        return found


if "FEDHA_TESTS_PAUSE" in os.environ:
    sys.meta_path.insert(0, _BeforeSuperNodes())  # type: ignore[arg-type]
if not any(type(one).__name__ == _BeforeTorchvision.__name__ for one in sys.meta_path):
    sys.meta_path.insert(0, _BeforeTorchvision())  # type: ignore[arg-type]
