"""The executed book as one file: pages, executed notebooks, records, and a list of what is inside.

    python tools/archive.py _build        # writes _build/leaky-scalars-VERSION.zip and its .sha256

The same content gives the same bytes: names are sorted and times are left out.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from pathlib import Path

from glutils import __version__

CONTENT = {"html": "book", "stage/notebooks": "notebooks", "records": "records"}
"""Folder under the build to folder in the archive."""


def main(build: Path) -> int:
    """Write the archive and its checksum; 1 and a message where the book was not built."""
    files = {
        f"{name}/{path.relative_to(build / folder).as_posix()}": path
        for folder, name in CONTENT.items()
        for path in sorted((build / folder).rglob("*"))
        if path.is_file()
    }
    if missing := [folder for folder, name in CONTENT.items() if not any(key.startswith(name + "/") for key in files)]:
        print(
            f"nothing in {', '.join(str(build / folder) for folder in missing)}; run make book first", file=sys.stderr
        )
        return 1
    target = build / f"leaky-scalars-{__version__}.zip"
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("manifest.json"), json.dumps(sums, indent=1) + "\n", zipfile.ZIP_DEFLATED)
        for name, path in files.items():
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    target.with_name(target.name + ".sha256").write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    print(f"{target}: {len(files)} files, {target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
