"""Self-checks: random cases, the answers they should get, and the verdict in words."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from .. import _validate
from .._registry import Registry
from .compare import Answer, difference


@dataclass(frozen=True)
class Case:
    """One try of a reader's function.

    Attributes:
        about: what is special about it, after "with": ``"3 neurons and 5 inputs"``.
        arguments: what the function is called with. It receives copies.
        expected: the right answer, a tensor, a number, or a tuple of them; unused where there is a ``judge``.
        judge: for exercises with many right answers: from an answer and the function, what is wrong, or None.
    """

    about: str
    arguments: tuple[Any, ...]
    expected: Answer | None = None
    judge: Callable[[Any, Callable[..., Any]], str | None] | None = None


@dataclass(frozen=True)
class Verdict:
    """The verdict of a check. It shows itself as a text in short lines, and is true if the function passed.

    Attributes:
        passed: whether every case was right.
        message: what to show.
        error: what the function raised, if it did; ``raise verdict.error`` shows where.
    """

    passed: bool
    message: str
    error: Exception | None = field(default=None, compare=False)

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return _wrap(self.message)


@dataclass(frozen=True)
class Exercise:
    """A check that is called with the reader's function: ``gl.exercises.invert_layer(my_function)``.

    Attributes:
        name: of the function to write.
        task: what it takes and gives.
        cases: draws the cases from a generator.
        hint: a nudge, shown with every wrong answer.
        mistakes: well-known wrong functions, by what to say about them; a wrong answer is compared with theirs.
        rtol: accepted difference, relative to the largest number of the right answer.
    """

    name: str
    task: str
    cases: Callable[[torch.Generator], Iterator[Case]]
    hint: str
    mistakes: Mapping[str, Callable[..., Any]]
    rtol: float = 1e-4

    def __call__(self, function: Callable[..., Any], *, seed: int = 0) -> Verdict:
        """The verdict on ``function``, tried on every case up to the first that is wrong.

        Args:
            function: what the reader wrote.
            seed: of the cases; another one gives other shapes and numbers.

        Raises:
            TypeError: ``function`` cannot be called.
        """
        if not callable(function):
            raise TypeError(f"function must be callable (pass {self.name} itself), got {type(function).__name__}")
        draw = torch.Generator().manual_seed(_validate.integer("seed", seed, at_least=0))
        cases = list(self.cases(draw))
        for number, case in enumerate(cases, 1):
            where = f"case {number} of {len(cases)}, with {case.about}"
            try:
                wrong = self._try(function, case)
            except NotImplementedError as error:
                return Verdict(False, f"Not written yet: {self.task}", error)
            except Exception as error:  # whatever a reader's function may raise
                said = f"Not yet: {where}.\n  {self.name} raised {type(error).__name__}: {error}"
                return Verdict(False, f"{said}\n  Hint: {self.hint}", error)
            if wrong:
                return Verdict(False, f"Not yet: {where}.\n  {wrong}")
        return Verdict(True, f"Right: {len(cases)} cases, the last with {cases[-1].about}.")

    def __repr__(self) -> str:
        return _wrap(f"{self.task}\nCheck yours with gl.exercises.{self.name}({self.name}).")

    def _try(self, function: Callable[..., Any], case: Case) -> str | None:
        """What is wrong with the answer to one case, with advice; None if it is right."""
        arguments = copy.deepcopy(case.arguments)
        answer = function(*arguments)
        for number, (before, after) in enumerate(zip(case.arguments, arguments, strict=True), 1):
            if isinstance(before, torch.Tensor) and difference(before, after, 0.0):
                return f"{self.name} changed its argument number {number}. Work on a copy: the caller still needs it."
        if case.judge:
            wrong = case.judge(answer, function)
        else:
            wrong = difference(case.expected, answer, self.rtol)
        return None if wrong is None else f"{wrong}\n  {self._advice(answer, case)}"

    def _advice(self, answer: object, case: Case) -> str:
        """The words for a well-known mistake if the answer is what that mistake gives; the hint otherwise."""
        for says, mistaken in self.mistakes.items():
            try:
                same = difference(mistaken(*copy.deepcopy(case.arguments)), answer, self.rtol) is None
            except Exception:  # a mistake that does not even give an answer here
                continue
            if same:
                return says
        return f"Hint: {self.hint}"


EXERCISES = Registry[Exercise]("exercise")


def _wrap(text: str) -> str:
    """Text wrapped for a notebook's page; what was indented stays so."""
    wrapped = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()))
        wrapped += textwrap.wrap(line, 88, initial_indent="", subsequent_indent=indent, break_long_words=False)
    return "\n".join(wrapped)


def exercise(
    hint: str, mistakes: Mapping[str, Callable[..., Any]], rtol: float = 1e-4
) -> Callable[[Callable[[torch.Generator], Iterator[Case]]], Exercise]:
    """A decorator that makes an exercise of a function drawing its cases; its docstring is the task."""

    def make(cases: Callable[[torch.Generator], Iterator[Case]]) -> Exercise:
        task = " ".join((cases.__doc__ or "").split())
        made = Exercise(cases.__name__, task, cases, hint, mistakes, rtol)
        EXERCISES.register(made.name)(made)
        return made

    return make


def network(draw: torch.Generator, inputs: int, hidden: int, classes: int) -> nn.Module:
    """A small tanh network, float64, whose parameters are standard normal; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        layers = nn.Flatten(), nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(normal(draw, *parameter.shape))
    return model


def normal(draw: torch.Generator, *shape: int) -> Float64[Tensor, ...]:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def uniform(draw: torch.Generator, *shape: int) -> Float64[Tensor, ...]:
    """Numbers from [0, 1), float64."""
    return torch.rand(*shape, generator=draw, dtype=torch.float64)


def integer(draw: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=draw))
