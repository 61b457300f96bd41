"""Write requirements.lock: every package of the environment with its version and the digests of its files.

    make lock        # needs uv (https://docs.astral.sh/uv) and the network

Versions are those of constraints.txt. PyTorch, and what it brings along for graphics cards, is left out: its builds
differ from machine to machine, and so do their digests. No address of an index is written.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = re.compile(r"^(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
PYTHON = "3.11.5"
"""The oldest Python that has all of these versions."""
HEAD = "# Every package but PyTorch, with the digests of its files: made by `make lock` from constraints.txt.\n"
COMMAND = (
    "uv", "pip", "compile", "pyproject.toml", "--extra", "book", "--extra", "test", "-c", "constraints.txt",
    "--generate-hashes", "--universal", "--python-version", PYTHON, "--no-header", "--no-annotate", "--quiet",
)  # fmt: skip


def main() -> int:
    """Ask uv, and write what it says without what differs with the machine."""
    try:
        said = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        print("make lock needs uv: pip install uv", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return 1
    (ROOT / "requirements.lock").write_text(HEAD + kept(said), encoding="utf-8")
    return 0


def kept(lock: str) -> str:
    """A lock file without the packages of :data:`LEFT_OUT`, each of which begins a line at its left edge."""
    entries = re.split(r"^(?=\S)", lock, flags=re.M)
    return "".join(entry for entry in entries if entry and not LEFT_OUT.match(entry))


if __name__ == "__main__":
    sys.exit(main())
