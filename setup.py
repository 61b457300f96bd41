"""Puts the published records and the claims into the package when it is built; all else stands in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PUBLISHED = {"benchmarks/results": "*.json", "book/claims": "*.y*ml"}
"""Folder of the repository to the files in it that notebooks read."""


class WithRecords(build_py):
    """Copies them to ``glutils/published``, in the folders that they have here; an editable install reads these."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._published().items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        mine = [] if self.editable_mode else [str(target) for target in self._published().values()]
        return super().get_outputs(include_bytecode) + mine

    def get_source_files(self) -> list[str]:
        return super().get_source_files() + [str(source.relative_to(ROOT)) for source in self._published()]

    def _published(self) -> dict[Path, Path]:
        to = Path(self.build_lib) / "glutils" / "published"
        return {
            path: to / folder / path.name
            for folder, names in PUBLISHED.items()
            for path in sorted((ROOT / folder).glob(names))
        }


setup(cmdclass={"build_py": WithRecords})
