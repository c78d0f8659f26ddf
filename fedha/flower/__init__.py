"""fedha in a Flower app: the strategy for a ServerApp, the ClientApp for the clients."""

from fedha.flower.client import client_app
from fedha.flower.strategy import HessianAlignment

__all__ = ["HessianAlignment", "client_app"]
