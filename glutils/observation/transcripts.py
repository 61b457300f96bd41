"""``gl.transcripts``: transcripts, and the logs of servers that they are read from and written to."""

from __future__ import annotations

from .logs import read, write
from .transcript import Round, Transcript, advance, check_payload, move

__all__ = ["Round", "Transcript", "advance", "check_payload", "move", "read", "write"]
