"""``gl.transcripts``: transcripts, and the logs of servers that they are read from and written to."""

from __future__ import annotations

from .logs import read, write
from .recorded import RECORDED, Recording, recorded
from .transcript import Round, Transcript, advance, check_payload, move

__all__ = [
    "RECORDED", "Recording", "Round", "Transcript", "advance", "check_payload", "move", "read", "recorded", "write",
]  # fmt: skip
