"""``glutils audit CONFIG.yaml``: an audit from a file, for people and for scripts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from .. import _validate, data, defenses, models, protocols
from ..data.batch import Batch
from ..protocols import Protocol
from .run import MINUTES, run

REFUSED = 3
"""Exit status for a file or a message that cannot be what it is said to be; 0 not found, 1 leaks, 2 inconclusive."""
PROTOCOLS = {"fedsgd": "FedSGD", "fedavg": "FedAvg", "zeroth_order": "ZerothOrder"}
SECTIONS = {
    "model": ("name", "weights", "mode", "options", "seed"),
    "message": ("file", "client", "lr", "decay"),
    "protocol": ("kind", "defence"),
    "records": ("shape", "classes", "labels"),
    "stand_in": ("folder", "dataset", "count"),
    "attacks": (),
    "options": (),
    "minutes": (),
    "seed": (),
    "out": (),
}
"""Entries of a file, and what may stand in each; ``protocol`` and ``model: options`` take their own arguments too."""
NEEDED = ("model", "message", "protocol", "records", "out")
EPILOG = """
exit status: 0 not found by these attacks, 1 leaks, 2 inconclusive, 3 refused. The file's entries are on the page
"Audit your own federation" of the book; paths in it are relative to the file.
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``glutils audit`` with these arguments; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="glutils audit", description="Audit a client's message as a YAML file says.", epilog=EPILOG
    )
    parser.add_argument("config", help="path of the YAML file")
    parser.add_argument("--minutes", type=float, help="in place of the file's")
    parser.add_argument("--out", help="path of the report, ending in .html, in place of the file's")
    parser.add_argument("--quiet", action="store_true", help="print the verdict alone")
    options = parser.parse_args(list(arguments))
    try:
        found = load(options.config)
        where = Path(options.config).resolve().parent
        out = Path(options.out) if options.out else where / str(found["out"])
        if out.suffix != ".html":
            raise ValueError(f"out must end in .html, got {str(out)!r}")
        how = asked(found, where)
        if options.minutes is not None:
            how["minutes"] = options.minutes
        report = run(**how, progress=not options.quiet)
        report.save(out)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"glutils: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    print(f"{report.verdict}: {report.reason}" if options.quiet else report)
    print(f"wrote {out}")
    return report.exit_status


def load(path: str | Path) -> dict[str, Any]:
    """The entries of a file, checked for their names alone.

    Raises:
        ValueError: a file that is missing or no YAML, an entry that is unknown or missing.
    """
    file = Path(path)
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} must hold entries such as 'model:', got {type(found).__name__}")
    for name, entry in found.items():
        _validate.choice("entry", name, tuple(SECTIONS))
        if SECTIONS[name] and not isinstance(entry, dict):
            raise ValueError(f"{name} must hold {', '.join(SECTIONS[name])}, got {entry!r}")
        if name not in ("protocol",) and SECTIONS[name]:
            for own in entry:
                _validate.choice(f"entry of {name}", own, SECTIONS[name])
    for name in NEEDED:
        if name not in found:
            raise ValueError(f"{str(path)!r} must have the entry {name!r}; entries: {', '.join(SECTIONS)}")
    return found


def asked(found: dict[str, Any], where: Path) -> dict[str, Any]:
    """The arguments of :func:`glutils.audit.run` that the entries of a file stand for; paths are relative to ``where``.

    Raises:
        TypeError, ValueError: naming the entry.
    """
    records, sent = found["records"], found["message"]
    shape = _shape(records.get("shape"))
    labels = records.get("labels")
    protocol = _protocol(found["protocol"])
    example = _example(shape, records.get("classes"))
    model = _model(found["model"], example, where)
    if "file" not in sent:
        raise ValueError("message must have 'file', the path of what the client sent")
    how = {name: sent[name] for name in ("client", "lr", "decay") if name in sent}
    return how | {
        "model": model, "payload_or_log": str(where / str(sent["file"])), "protocol": protocol, "shape": shape,
        "classes": records.get("classes"), "labels": None if labels is None else torch.tensor(labels),
        "stand_in": _stand_in(found.get("stand_in"), shape, example, where), "attacks": found.get("attacks"),
        "options": found.get("options"), "minutes": found.get("minutes", MINUTES), "seed": found.get("seed", 0),
    }  # fmt: skip


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) not in (2, 4):
        raise ValueError(f"records must have 'shape', [records, channels, height, width] or [records, columns], got "
                         f"{shape!r}")  # fmt: skip
    return tuple(_validate.integer("shape", side, at_least=1) for side in shape)


def _example(shape: tuple[int, ...], classes: Any) -> Batch:
    """A batch of the right shape, from which a model's factory reads it."""
    count = _validate.integer("classes", classes, at_least=2)
    names = tuple(map(str, range(count)))
    return Batch(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64), names, "")


def _model(entry: dict[str, Any], example: Batch, where: Path) -> torch.nn.Module:
    if "name" not in entry:
        raise ValueError("model must have 'name': one of the book's, or a factory as package.module:factory")
    if ":" in str(entry["name"]) and str(where) not in sys.path:
        sys.path.insert(0, str(where))  # a factory beside the file is found, as python would find it there
    own = {name: tuple(v) if isinstance(v, list) else v for name, v in (entry.get("options") or {}).items()}
    model = models.build(entry["name"], example, seed=entry.get("seed", 0), **own)
    if "weights" in entry:
        models.load(where / str(entry["weights"]), model)
    mode = _validate.choice("mode", entry.get("mode", "eval"), ("eval", "train"))
    return model.train(mode == "train")


def _protocol(entry: dict[str, Any]) -> Protocol:
    own = dict(entry)
    kind = _validate.choice("kind", own.pop("kind", None), tuple(PROTOCOLS))
    defence = own.pop("defence", None)
    try:
        protocol = getattr(protocols, PROTOCOLS[kind])(**own)
        if defence is None:
            return protocol
        if not isinstance(defence, dict) or "name" not in defence:
            raise ValueError(f"defence must have 'name' and its own arguments, got {defence!r}")
        more = dict(defence)
        return defenses.Defended(protocol, defenses.get(more.pop("name"), **more))
    except TypeError as error:
        raise ValueError(f"protocol {kind!r} takes other arguments: {error}") from error


def _stand_in(entry: Any, shape: tuple[int, ...], example: Batch, where: Path) -> Batch | None:
    """Records for the positive control, from a folder of pictures or a set of the book's."""
    if entry is None:
        return None
    count = entry.get("count", max(shape[0], 2))
    if ("folder" in entry) == ("dataset" in entry):
        raise ValueError("stand_in must have either 'folder', of pictures, or 'dataset', one of gl.data.names()")
    if "dataset" in entry:
        size = shape[2] if len(shape) == 4 else None
        found = data.sample(entry["dataset"], count=count, size=size, split="public", device="cpu")
    else:
        found = pictures(where / str(entry["folder"]), shape, entry.get("count"))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(len(example.classes), (len(found),), generator=generator)
    return Batch(found.images, labels, example.classes, found.source, found.columns)


def pictures(folder: Path, shape: tuple[int, ...], count: int | None = None) -> Batch:
    """All pictures of a folder and the folders in it, in the shape that the client's have, without their labels.

    Raises:
        ValueError: no such folder, no picture in it, a picture that cannot be read, pictures of other records.
    """
    from PIL import ImageOps

    from ..data.image_folder import picture_files
    from ..data.picture_files import open_picture

    if len(shape) != 4 or shape[1] not in (1, 3):
        raise ValueError(f"stand_in: folder is for pictures of 1 or 3 channels, got records of shape {shape[1:]}")
    if not folder.is_dir():
        raise ValueError(f"stand_in: folder must be a folder, there is none at {str(folder)!r}")
    files = picture_files(folder)
    if not files:
        raise ValueError(f"stand_in: folder {str(folder)!r} holds no picture")
    stack = []
    for file in files[:count]:
        try:
            image = open_picture(file).convert("RGB" if shape[1] == 3 else "L")
        except ValueError as error:
            raise ValueError(f"stand_in: {file.name} cannot be read as a picture: {error}") from error
        fitted = ImageOps.fit(image, (shape[3], shape[2]))
        values = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8).float() / 255
        stack.append(values.view(shape[2], shape[3], shape[1]).permute(2, 0, 1))
    return Batch(torch.stack(stack), torch.zeros(len(stack), dtype=torch.int64), ("a", "b"), folder.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
