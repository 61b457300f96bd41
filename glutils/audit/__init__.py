"""What a client's message gives away: measured by every attack that applies, or foretold in closed form."""

from .checks import Check
from .messages import message
from .predict import Prediction, predict
from .report import Report, Row
from .run import run
from .verdicts import Planted

__all__ = ["Check", "Planted", "Prediction", "Report", "Row", "message", "predict", "run"]
