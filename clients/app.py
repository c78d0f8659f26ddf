"""fedha's ClientApp, as `flwr run` and a SuperNode load it."""

from pathlib import Path

from fedha.flower.apps import bound_client_app

app = bound_client_app(Path(__file__).resolve().parents[1])
