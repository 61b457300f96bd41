"""What the adversary holds: everything it saw, everything it was told, and nothing else."""

from .facts import KNOWLEDGE
from .observe import Observation, observe
from .transcripts import Round, Transcript, advance, check_payload, move
from .views import as_gradient, as_slopes, local_steps, naive, tamper

__all__ = [
    "KNOWLEDGE", "Observation", "Round", "Transcript", "advance", "as_gradient", "as_slopes", "check_payload",
    "local_steps", "move", "naive", "observe", "tamper",
]  # fmt: skip
