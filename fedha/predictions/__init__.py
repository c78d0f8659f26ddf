"""What a finished run's network says of examples, in a file; and how good that is, where they have labels."""

from fedha.predictions.predicting import Predicted, predict

__all__ = ["Predicted", "predict"]
