"""Panels for JupyterLab: move a dial, and what made the static pictures computes again.

A page of the book has no kernel behind it, so panels are shown only where somebody asks for them (the parameter
``live`` of a notebook), always above the static picture, which needs none. Each panel draws one
:class:`~glutils.show.Frame` with a function that is public here too, so that notebooks make their static pictures with
the same one.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import torch

from .. import _validate, attacks, data, metrics, models, observation, protocols
from .. import show as shown
from ..data.batch import Batch
from ..defenses.base import DEFENSES
from ..show import Frame
from . import defended, pictures
from .strengths import STRENGTHS

_OFFERED = {
    "gradient": ("gaussian_noise", "dpsgd", "topk", "bits", "soteria", "clip"),
    "scalars": ("gaussian_noise", "dp_scalars", "bits", "clip_scalars"),
}
LEVELS = {kind: {name: STRENGTHS[name].panels[kind] for name in names} for kind, names in _OFFERED.items()}
"""What clients send to defences to the strengths that a panel offers, from weak to strong."""
RATIOS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
"""Scalars for each unknown pixel that a panel offers."""
STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
"""Smoothing steps that a panel offers."""
QUICK = defended.Scene(clients=5, images=2, rounds=60, evaluations=60, practice=0, misled=None)
"""A scene that answers within seconds."""


class Panel(widgets.VBox):
    """Dials above a picture that is drawn anew when one of them moves; what was drawn before is kept.

    Args:
        dials: name of an argument of ``draw`` to a widget with a ``value``.
        draw: the values to a :class:`~glutils.show.Frame`. What it raises is shown in its place.

    Attributes:
        dials, view: the widgets. frame: what is shown now, or ``None`` after an error.
    """

    def __init__(self, dials: Mapping[str, widgets.Widget], draw: Callable[..., Frame]) -> None:
        self.dials, self.view, self.frame = dict(dials), widgets.HTML(), None
        self._draw, self._known, self._resting = draw, {}, False
        for dial in self.dials.values():
            dial.observe(self._moved, "value")
        super().__init__([*self.dials.values(), self.view])
        self.refresh()

    def _moved(self, change: Any) -> None:
        if not self._resting:
            self.refresh()

    def refresh(self) -> None:
        """Draw for the values that the dials have now."""
        values: dict[str, Hashable] = {name: dial.value for name, dial in self.dials.items()}
        key = tuple(values.values())
        if key not in self._known:
            self.view.value = "computing ..."
            try:
                self._known[key] = self._draw(**values)
            except (ValueError, TypeError, RuntimeError) as error:
                self.frame, self.view.value = None, f'<p role="alert">{html.escape(str(error))}</p>'
                return
        self.frame = self._known[key]
        self.view.value = f"{self.frame.html}<p>{html.escape(self.frame.alt)}</p>"

    def offer(self, name: str, options: Sequence[Any]) -> None:
        """Give a dial other options; its first one is taken, and nothing is drawn before that is done."""
        self._resting = True
        self.dials[name].options = options
        self.dials[name].index = 0
        self._resting = False


def show(panel: Panel) -> None:
    """Display a panel in the running notebook; outside one, print what it shows."""
    _validate.instance("panel", panel, Panel)
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        print(panel.view.value if panel.frame is None else panel.frame.alt)
    else:
        display(panel)


def defense(scene: defended.Scene = QUICK, *, seed: int = 0) -> Panel:
    """Choose a defence, its strength and who attacks; :func:`glutils.experiments.defended.measure` does the rest."""
    levels, private = LEVELS[_validate.choice("what the scene sends", scene.kind, LEVELS)], defended.truth(scene, seed)
    rows: dict[tuple, list] = {}

    def draw(defense: str, strength: float | int, attacker: str) -> Frame:
        name, level = (defense, strength) if strength else (None, None)
        if (name, level) not in rows:
            rows[name, level] = defended.measure(scene, name, level, seed=seed)
        title = f"{DEFENSES.get(defense).title}, {_strength(defense, strength)}"
        return pictures.frame_of(rows[name, level], private, title, attacker)

    def options(name: str) -> list[tuple[str, float | int]]:
        return [(_strength(name, value), value) for value in (0, *levels[name])]

    dials = {
        "defense": widgets.Dropdown(
            options=[(DEFENSES.get(name).title, name) for name in levels], description="Defence"
        ),
        "strength": widgets.SelectionSlider(
            options=options(next(iter(levels))), description="Strength", continuous_update=False
        ),
        "attacker": widgets.RadioButtons(
            options=[(text, who) for who, text in pictures.ATTACKERS.items()], description="Attacker"
        ),
    }
    # before the panel itself observes the choice, so that it draws once, with a strength that fits
    panel: list[Panel] = []
    dials["defense"].observe(lambda change: panel[0].offer("strength", options(change["new"])), "value")
    panel.append(Panel(dials, draw))
    return panel[0]


def _strength(name: str, value: float | int) -> str:
    return "undefended" if not value else f"{STRENGTHS[name].option} {value:g}"


def _digit(private: Any) -> Batch:
    return (
        data.sample("digits", seed=0, device="cpu")
        if private is None
        else _validate.instance("private", private, Batch)
    )


def _solved(private: Batch, protocol: protocols.Protocol, seed: int) -> tuple[Any, metrics.Score, torch.Tensor]:
    """What was seen, and what Gauss-Newton made of it."""
    model = models.build("mlp", private, hidden=(32,), activation="tanh", seed=seed)
    seen = observation.observe(
        model, protocol, protocol.transmit(model, private.images, private.labels), private, knows={"labels"}
    )
    result = attacks.attack("zerogla", seen, seed=seed, restarts=1, check=False, progress=False)
    score = metrics.score(result, private)
    return seen, score, result.images[score.matching]


def _bar(score: metrics.Score) -> tuple[str, float, str]:
    found, blank = metrics.mean_psnr(score.psnr), metrics.mean_psnr(score.controls["mean_colour"].psnr)
    text = f"{shown.decibels(found)} (blank card {shown.decibels(blank)})"
    return pictures.bar(found, text)


def budget_frame(ratio: float | int, private: Batch | None = None, *, seed: int = 0) -> Frame:
    """What Gauss-Newton finds from so many scalars for each unknown pixel.

    Args:
        ratio: scalars for each pixel, above 0.
        private: the images; default: one 8x8 digit.
        seed: of weights, directions and start.
    """
    private = _digit(private)
    count = max(1, round(_validate.number("ratio", ratio, above=0) * private.images.numel()))
    _, score, found = _solved(private, protocols.ZerothOrder(directions=count, dtype="float64", seed=seed), seed)
    bar = _bar(score)
    title = f"{count} scalars for {private.images.numel()} pixels"
    return shown.frame(found, private, title=title, said=f"{title}: {bar[2]}", bars=[bar])


def query_budget(private: Batch | None = None, *, seed: int = 0) -> Panel:
    """Choose how many scalars the client sends; draws :func:`budget_frame`."""
    options = [(f"{ratio:g} a pixel", ratio) for ratio in RATIOS]
    dial = widgets.SelectionSlider(options=options, value=1.0, description="Scalars", continuous_update=False)
    return Panel({"ratio": dial}, lambda ratio: budget_frame(ratio, private, seed=seed))


def smoothing_frame(mu: float | int, dtype: str = "float64", private: Batch | None = None, *, seed: int = 0) -> Frame:
    """How wrong finite differences with this step are in this precision, and what Gauss-Newton finds from them.

    Args:
        mu: smoothing step, above 0.
        dtype: ``"float32"`` or ``"float64"``, in which the client computes its losses.
        private: the images; default: one 8x8 digit.
        seed: of weights, directions and start.
    """
    private = _digit(private)
    count = round(1.25 * private.images.numel())
    protocol = protocols.ZerothOrder(directions=count, mu=mu, dtype=dtype, seed=seed)
    seen, score, found = _solved(private, protocol, seed)
    with torch.no_grad():
        exact = protocol.simulate(seen.model, private.images.double(), private.labels)
    error = float((seen.payload.double() - exact).norm() / exact.norm())
    title, bar = f"mu = {mu:g}, {dtype}", _bar(score)
    said = f"{title}: scalars are wrong by {error:.1e} of their size; found {bar[2]}"
    return shown.frame(found, private, title=title, said=said, bars=[bar])


def smoothing(private: Batch | None = None, *, seed: int = 0) -> Panel:
    """Choose the smoothing step and the precision; draws :func:`smoothing_frame`."""
    dials = {
        "mu": widgets.SelectionSlider(
            options=[(f"{mu:g}", mu) for mu in STEPS], value=1e-4, description="mu", continuous_update=False
        ),
        "dtype": widgets.RadioButtons(options=["float64", "float32"], description="Precision"),
    }
    return Panel(dials, lambda mu, dtype: smoothing_frame(mu, dtype, private, seed=seed))


def iteration_frame(result: Any, truth: Any, number: int) -> Frame:
    """A reconstruction after so many of the steps whose images its history kept, from 0; -1 is the last."""
    frames = getattr(getattr(result, "history", None), "frames", None)
    if not frames:
        raise ValueError("result must have a history with frames; run the attack with frames kept")
    count = len(frames)
    number = _validate.integer("number", number, at_least=-count, at_most=count - 1) % count
    order = metrics.match(frames[-1], truth.images)
    images = frames[number][order]
    psnr = metrics.mean_psnr(metrics.psnr(images, truth.images))
    title = f"step {result.history.frame_steps[number]} of {result.history.frame_steps[-1]}"
    bar = pictures.bar(psnr, shown.decibels(psnr))
    return shown.frame(images, truth, title=title, said=f"{title}: {bar[2]}", bars=[bar])


def iterations(result: Any, truth: Any) -> Panel:
    """Walk through a reconstruction's history; draws :func:`iteration_frame`. ``gl.show.scrubber`` needs no kernel."""
    last = len(getattr(getattr(result, "history", None), "frames", None) or ()) - 1
    if last < 1:
        raise ValueError("result must have a history with frames; run the attack with frames kept")
    dial = widgets.IntSlider(value=last, min=0, max=last, description="Frame", continuous_update=False)
    return Panel({"number": dial}, lambda number: iteration_frame(result, truth, number))
