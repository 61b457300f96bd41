"""Before and beside a run: what a planned message would give away, and what canaries prove about a promise."""

from .canaries import Canaries, canaries
from .predict import Prediction, predict
from .texts import TextCount, count_texts

__all__ = ["Canaries", "Prediction", "TextCount", "canaries", "count_texts", "predict"]
