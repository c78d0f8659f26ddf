"""fedha's ServerApp, as `flwr run` and a SuperLink load it."""

from pathlib import Path

from fedha.flower.apps import server_app

app = server_app(Path(__file__).resolve().parents[1])
