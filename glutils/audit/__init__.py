"""Before anything is sent: what a planned message would give away, in closed form."""

from .predict import Prediction, predict
from .texts import TextCount, count_texts

__all__ = ["Prediction", "TextCount", "count_texts", "predict"]
