"""Runs in the trackers that people have already: TensorBoard, MLflow, Weights & Biases, or one of your own."""

from fedha.loggers.logged import Logged, logger, with_loggers

__all__ = ["Logged", "logger", "with_loggers"]
