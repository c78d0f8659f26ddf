"""fedha: FEDerated Hessian Alignment. One model across domains that may not share their data."""

import sys
from importlib import metadata

try:
    __version__ = metadata.version("fedha")  # pyproject.toml's, as it was installed
except metadata.PackageNotFoundError:
    __version__ = "0+uninstalled"

if sys.platform == "win32":  # before anything that only fails there
    _REFUSAL = "fedha runs on Linux and macOS; on Windows take WSL 2"
    if sys.argv[0].removesuffix(".exe").endswith(("fedha", "-m")):
        sys.exit(_REFUSAL)  # the command: a sentence, no traceback
    raise ImportError(_REFUSAL)
