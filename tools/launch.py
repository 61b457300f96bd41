"""Lay out what Colab and Binder open: this repository, each notebook with a cell that installs what is missing.

    python tools/launch.py --repository https://github.com/OWNER/NAME --ref v0.1.0 --to _build/launch

The workflow that publishes the book pushes this tree as the branch ``launch``, and the book's launch buttons point to
it. The notebooks of the repository stay without that cell, because their address is not known before publication.
Binder has no graphics card: its environment takes the builds of PyTorch that need none, a tenth of the size.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "leaky-scalars"
CELL = f"""\
# Colab has not the package, in which the records are: fetch it. Where it is installed, this cell does nothing.
import importlib.util

if importlib.util.find_spec("glutils") is None:
    !git clone --quiet --depth 1 --branch {{ref}} {{repository}} {FOLDER}
    %pip install --quiet ./{FOLDER}
    %cd {FOLDER}/notebooks
"""
CPU_WHEELS = "--extra-index-url https://download.pytorch.org/whl/cpu"


def main(arguments: list[str] | None = None) -> int:
    """Copy the tracked files, then put the cell into the notebooks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", required=True, help="public address that git can clone")
    parser.add_argument("--ref", required=True, help="branch or tag that the notebooks install")
    parser.add_argument("--to", type=Path, required=True, help="folder to fill; what is there is removed")
    options = parser.parse_args(arguments)
    shutil.rmtree(options.to, ignore_errors=True)
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        target = options.to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".ipynb":
            notebook = with_install_cell((ROOT / name).read_text(encoding="utf-8"), options.repository, options.ref)
            target.write_text(notebook, encoding="utf-8")
        elif name == "environment.yml":
            target.write_text(with_cpu_wheels((ROOT / name).read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copy2(ROOT / name, target)
    return 0


def with_cpu_wheels(environment: str) -> str:
    """The conda environment (YAML text) whose pip also looks where PyTorch's builds for the CPU are, and prefers them.

    Raises:
        ValueError: pip is not told to keep to ``constraints.txt``, beside which the line has to stand.
    """
    line = re.compile(r"^( +- )-c constraints\.txt$", flags=re.M)
    if len(line.findall(environment)) != 1:
        raise ValueError("environment must hold the line '- -c constraints.txt' once")
    return line.sub(rf"\1{CPU_WHEELS}\n\g<0>", environment)


def with_install_cell(notebook: str, repository: str, ref: str) -> str:
    """The notebook (JSON text) with the install cell at its top.

    Raises:
        ValueError: for an address or a ref that would need quoting in a shell.
    """
    for argument, value in {"repository": repository, "ref": ref}.items():
        if not re.fullmatch(r"[A-Za-z0-9_.:/@+-]+", value) or value.startswith("-"):
            raise ValueError(f"{argument} must be made of letters, digits and _ . : / @ + -, got {value!r}")
    content = json.loads(notebook)
    source = CELL.format(repository=repository, ref=ref).rstrip("\n").splitlines(keepends=True)
    cell = {"cell_type": "code", "execution_count": None, "metadata": {"tags": ["remove-cell"]}, "outputs": []}
    content["cells"].insert(0, cell | {"id": "install", "source": source})
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
