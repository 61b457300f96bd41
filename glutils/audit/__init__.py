"""What a client's message gives away: measured by every attack that applies, foretold, or proved by canaries."""

from .canaries import Canaries, canaries
from .checks import Check
from .messages import message
from .meter import Meter
from .predict import Prediction, predict
from .report import Report, Row
from .run import run
from .texts import TextCount, count_texts
from .verdicts import Planted

__all__ = [
    "Canaries", "Check", "Meter", "Planted", "Prediction", "Report", "Row", "TextCount", "canaries", "count_texts",
    "message", "predict", "run",
]  # fmt: skip
