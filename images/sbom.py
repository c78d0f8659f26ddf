"""Writes what is in an image as a bill of materials: CycloneDX 1.5, JSON, the same bytes for the same content.

    python sbom.py NAME VERSION DEBIAN_PACKAGES > sbom.cdx.json

The packages of the Python that runs it, that Python, and the Debian packages of a file with a `name version` a line.
"""

import json
import platform
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote


def bill(name: str, version: str, debian: str) -> dict[str, Any]:
    """The bill of an image.

    Args:
        name: The image's.
        version: The image's.
        debian: A `name version` a line.
    """
    python = {"type": "application", "name": "python", "version": platform.python_version()}
    ours = sorted((one for one in map(of_python, distributions())), key=lambda one: str(one["name"]))
    theirs = [of_debian(*line.split()) for line in debian.splitlines()]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version}},
        "components": [python, *ours, *theirs],
    }


def of_python(package: Distribution) -> dict[str, Any]:
    """A Python package, with its licence where it says one in a word."""
    name, version = package.metadata["Name"], package.version
    public = version.partition("+")[0]  # a local version, as +cpu, belongs to one index
    address = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(public)}"
    found: dict[str, Any] = {"type": "library", "name": name, "version": version, "purl": address}
    licence = package.metadata.get("License-Expression")
    return found | ({"licenses": [{"expression": licence}]} if licence else {})


def of_debian(name: str, version: str) -> dict[str, Any]:
    """A Debian package."""
    plain, _, architecture = name.partition(":")
    known = f"?arch={architecture}" if architecture else ""
    address = f"pkg:deb/debian/{plain}@{quote(version)}{known}"
    return {"type": "library", "name": plain, "version": version, "purl": address}


if __name__ == "__main__":
    packages = Path(sys.argv[3]).read_text(encoding="utf-8")
    json.dump(bill(sys.argv[1], sys.argv[2], packages), sys.stdout, indent=1)
    sys.stdout.write("\n")
