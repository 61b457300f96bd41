"""An audit of scalars about a text: what leaks is the text that was sent, and a mismatch is no all-clear."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import glutils as gl
from glutils.audit import verdicts
from glutils.audit.page import page
from glutils.data import Batch

PIECES, LENGTH = 12, 4


def texts(seed, count=1):
    """Random pieces, each labelled by the next."""
    found = torch.randint(PIECES, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    labels = found.clone()
    labels[:, 0] = -100
    return Batch(found, labels, tuple(f"w{i}" for i in range(PIECES)))


@pytest.fixture(scope="module")
def sent():
    batch = texts(3)
    model = gl.models.build("gpt", batch, depth=1, width=16, heads=2, context=8, seed=0)
    protocol = gl.protocols.ZerothOrder(directions=64, mu=1e-3, dtype="float64", law="gaussian", seed=5)
    return batch, model, protocol, protocol.transmit(model, batch.images, batch.labels).scalars


def audited(sent, protocol, scalars=None, **more):
    _, model, _, own = sent
    how = {"shape": (1, LENGTH), "classes": PIECES, "stand_in": texts(50, count=4), "attacks": ["zerogla_text"]}
    return gl.audit.run(model, own if scalars is None else scalars, protocol, minutes=0.05, **how | more)


def test_scalars_of_a_text_leak_and_the_report_shows_it(sent):
    report = audited(sent, sent[2])
    (row,) = (row for row in report.rows if row.attack == "zerogla_text")
    assert report.verdict == row.verdict == verdicts.LEAKS and report.exit_status == 1
    assert torch.equal(row.pictures["found"].long(), sent[0].images) and row.planted.passed
    assert row.misfit <= row.tolerance < min(row.controls.values()) and "other texts" in row.controls
    assert report.vocabulary.decode(sent[0].images[0]) in page(report)


@pytest.mark.parametrize("changed", [{"law": "decomfl"}, {"seed": 6}])
def test_scalars_along_other_directions_are_no_all_clear(sent, changed):
    report = audited(sent, replace(sent[2], **changed))
    assert report.verdict == verdicts.INCONCLUSIVE and report.exit_status not in (0, 1)


def test_drowned_scalars_are_not_called_safe(sent):
    shield = gl.defenses.get("gaussian_noise", sigma=100.0, relative=True)
    noisy = gl.defenses.Defended(sent[2], shield, private=1)
    scalars = noisy.transmit(sent[1], sent[0].images, sent[0].labels).scalars
    report = audited(sent, noisy, scalars)
    assert report.verdict in (verdicts.INCONCLUSIVE, verdicts.NOT_FOUND) and "safe" not in page(report).lower()
