"""An audit as one HTML file: no network, no script, readable on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
import html
import math
from typing import TYPE_CHECKING, Any

import torch

from .. import _png
from . import verdicts

if TYPE_CHECKING:
    from .report import Report, Row

SHOWN = 8
"""Records of a batch that are shown at most."""
SIDE = 224
"""Pixels that a picture is reduced to at most, by an integer."""
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --soft: #f1f3f5; --line: #6b7178; --bad: #a61b1b;
  --open: #7a4b00; --good: #0b5d2a; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --paper: #16181b; --soft: #23272c; --line: #9aa1a9;
  --bad: #ff9a9a; --open: #ffcc80; --good: #8fe0ac; } }
* { box-sizing: border-box; }
body { color: var(--ink); background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 60rem; padding: 1rem; overflow-wrap: anywhere; }
.verdict { border-left: .5rem solid; padding: .5rem 1rem; background: var(--soft); }
.verdict p:first-child { font-size: 1.5rem; font-weight: 700; margin: 0; }
.leaks { border-color: var(--bad); } .leaks p:first-child, td.leaks { color: var(--bad); }
.open { border-color: var(--open); } .open p:first-child, td.open { color: var(--open); }
.nothing { border-color: var(--good); } .nothing p:first-child, td.nothing { color: var(--good); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .5rem; border-bottom: 1px solid var(--line); }
td.number { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0; } figcaption { margin-bottom: .25rem; }
img { width: 7rem; image-rendering: pixelated; border: 1px solid var(--line); margin: 0 .25rem .25rem 0; }
pre { white-space: pre-wrap; background: var(--soft); padding: .5rem; }
@media (max-width: 40rem) { .scroll td, .scroll th { padding: .25rem; font-size: .85rem; } img { width: 5rem; } }
@media print { body { max-width: none; color: #000; background: #fff; } .scroll { overflow: visible; }
  figure, tr { break-inside: avoid; } }
"""
CLASSES = {verdicts.LEAKS: "leaks", verdicts.NOT_FOUND: "nothing"}
WORDS = {
    "found": "Found in the message", "planted": "Planted by the auditor", "found of planted": "Found of the planted",
}  # fmt: skip


def page(report: Report) -> str:
    """The whole file."""
    kind = CLASSES.get(report.verdict, "open")
    parts = [
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Audit: {_text(report.verdict)}</title>", f"<style>{STYLE}</style>", "</head>", "<body>", "<main>",
        "<h1>What this message gives away</h1>",
        f'<div class="verdict {kind}"><p>{_text(report.verdict)}</p><p>{_text(report.reason)}</p>',
        f"<p>{_text(report.advice)}</p></div>",
    ]  # fmt: skip
    if report.stopped:
        parts.append(f"<p>{_text(report.stopped)}: what follows is what was done by then.</p>")
    parts += ["<h2>What was audited</h2>", _about(report), "<h2>Is the message what it is said to be?</h2>"]
    parts.append(_table("Checks before and after the attacks", ("Question", "Outcome", "What it means"), [
        [check.name, check.outcome, check.says] for check in report.checks]))  # fmt: skip
    ran = [row for row in report.rows if row.verdict != verdicts.NOT_RUN]
    parts += ["<h2>Attacks</h2>", _attacks(ran) if ran else "<p>No attack was run to its end.</p>"]
    for row in ran:
        parts += [f"<h3>{_text(row.title)}</h3>", f"<p>{_text(row.verdict)}: {_text(row.reason)}</p>"]
        parts += [f"<p>{_text(note)}</p>" for note in (row.certified, *row.notes) if note]
        parts += [_shown(row, name, report) for name in WORDS if name in row.pictures]
    left = [[row.title, row.reason] for row in report.rows if row.verdict == verdicts.NOT_RUN]
    if left:
        parts += ["<h2>Attacks that were not run</h2>", _table("Reasons", ("Attack", "Why not"), left)]
    parts += ["<h2>How to read this</h2>", *(f"<p>{text}</p>" for text in READING), "</main>", "<footer>",
              f"<p>Leaky Scalars, glutils.audit; {report.seconds:.0f} seconds.</p>", "</footer>", "</body>",
              "</html>", ""]  # fmt: skip
    return "\n".join(parts)


READING = (
    "<strong>Misfit</strong>: what a client with the records found would have sent is taken off what was sent; what is "
    "left, as a share of the message. Zero is a perfect explanation, one is none. No private record is needed for it.",
    "<strong>Controls</strong>: the misfits of records that know nothing of the message: a blank card, stand-in "
    "records, and the same attack on a message that was spoiled.",
    "<strong>Positive control</strong>: the same attack, with the same settings and time, on up to three messages "
    f"about planted records, through the same model and protocol. One is passed at {verdicts.LEVEL:g} dB above the "
    f"best blank card (of texts: {verdicts.TOKENS:.0%} of the pieces).",
    f"<strong>leaks</strong>: the misfit is at round-off and {verdicts.CLEAR:g} times below every control; or a "
    f"positive control was passed, and the misfit is {verdicts.STRONG:g} times below every control, or what was found "
    f"explains at least {verdicts.ALIKE:.0%} of what these planted records explain beyond every control. <strong>not "
    f"found by these attacks</strong>: all positive controls were passed, what was found explains at most "
    f"{verdicts.NOTHING:.0%} of that of each, and stated noise or round-off the rest, or the message holds next to "
    "nothing. <strong>inconclusive</strong>: neither can be said.",
    "<strong>certified</strong>: the attack was run once more on four fifths of the scalars, and what it found "
    "predicts the fifth that it had not seen, to rounding. Nothing else would have.",
    "The rules are this book's own, and not peer-reviewed. An attack that is not in the table may find more.",
)


def _text(value: Any) -> str:
    return html.escape(str(value))


def _about(report: Report) -> str:
    rows = [[name, "; ".join(map(str, value)) if isinstance(value, list) and name != "shape" else value]
            for name, value in report.about.items() if value not in ([], None)]  # fmt: skip
    return _table("Conditions", ("What", "Value"), rows)


def _table(caption: str, heads: tuple[str, ...], rows: list[list[Any]]) -> str:
    lines = ['<div class="scroll" role="region" tabindex="0" aria-label="' + _text(caption) + '"><table>']
    lines.append(f"<caption>{_text(caption)}</caption>")
    lines.append("<thead><tr>" + "".join(f'<th scope="col">{_text(head)}</th>' for head in heads) + "</tr></thead>")
    lines.append("<tbody>")
    for first, *others in rows:
        cells = "".join(_cell(value) for value in others)
        lines.append(f'<tr><th scope="row">{_text(first)}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{"n/a" if math.isnan(value) else f"{value:.2g}"}</td>'
    known = value in (verdicts.LEAKS, verdicts.NOT_FOUND, verdicts.INCONCLUSIVE) if isinstance(value, str) else False
    return f'<td class="{CLASSES.get(value, "open")}">{_text(value)}</td>' if known else f"<td>{_text(value)}</td>"


def _attacks(rows: list[Row]) -> str:
    truth = any(row.psnr for row in rows)
    heads = ("Attack", "Verdict", "Misfit", "Round-off and noise", "Best control", "Positive control", "Seconds")
    body = []
    for row in rows:
        name = min(row.controls, key=row.controls.__getitem__) if row.controls else ""
        control = f"{name}: {row.controls[name]:.2g}" if name else "none"
        cells = [row.title, row.verdict, row.misfit, row.tolerance, control]
        cells += [verdicts.listed(row.plants) if row.plants else "none", row.seconds]
        body.append(cells + [", ".join(f"{v:.1f}" for v in row.psnr)] * truth)
    return _table("Attacks and their controls", heads + ("PSNR of the truth, dB",) * truth, body)


def _shown(row: Row, name: str, report: Report) -> str:
    """Records of a row as pictures, as text, or as numbers."""
    stack, title = row.pictures[name][:SHOWN], WORDS[name]
    more = f", {len(stack)} of {len(row.pictures[name])}" if len(row.pictures[name]) > SHOWN else ""
    caption = f"<figcaption>{_text(title)}{more}</figcaption>"
    if stack.ndim == 4 and stack.shape[1] in (1, 3):
        images = "".join(_picture(image, f"{title} by {row.title}, record {k + 1}: {_seen(image)}")
                         for k, image in enumerate(stack))  # fmt: skip
        return f"<figure>{caption}{images}</figure>"
    if not stack.is_floating_point() and report.vocabulary is not None:
        body = "\n".join(map(report.vocabulary.decode, stack))
    else:
        body = "\n".join(" ".join(f"{v:.3g}" for v in record.flatten()[:64].tolist()) for record in stack)
    return f"<figure>{caption}<pre>{_text(body)}</pre></figure>"


def _picture(image: torch.Tensor, alt: str) -> str:
    step = max(1, math.ceil(max(image.shape[1:]) / SIDE))
    code = base64.b64encode(_png.encode(image[:, ::step, ::step])).decode("ascii")
    return f'<img src="data:image/png;base64,{code}" alt="{_text(alt)}">'


def _seen(image: torch.Tensor) -> str:
    """A few words on a picture for who cannot see it."""
    image = image.float().nan_to_num(0).clamp(0, 1)
    return (f"{image.shape[2]} by {image.shape[1]} pixels, mean brightness {float(image.mean()):.0%}, spread "
            f"{float(image.std(correction=0)):.0%}")  # fmt: skip
