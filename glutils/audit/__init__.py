"""Before anything is sent: what a planned message would give away, in closed form."""

from .predict import Prediction, predict

__all__ = ["Prediction", "predict"]
