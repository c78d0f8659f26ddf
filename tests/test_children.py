"""Processes that tests start can import what tests import."""

import subprocess
import sys

import pytest


def test_torchvision_can_be_imported_here_and_in_a_process_that_a_test_starts():
    torchvision = pytest.importorskip("torchvision", reason="needs the extra `vision`: pip install 'fedha[vision]'")
    assert callable(torchvision.models.resnet18)
    answer = subprocess.run(
        [sys.executable, "-c", "import sys; print('torch' in sys.modules); import timm, torchvision.transforms.v2"],
        capture_output=True,
        text=True,
    )
    assert (answer.stdout, answer.returncode) == ("False\n", 0), answer.stderr
