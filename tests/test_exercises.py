"""Self-checks: they accept what is right, refuse what is plausible and wrong, and say what differs."""

import pytest
import torch

import glutils as gl
from glutils.exercises.base import Case, exercise
from glutils.exercises.compare import difference

EXERCISES = [getattr(gl.exercises, name) for name in gl.exercises.names()]
MISTAKES = [(task, says) for task in EXERCISES for says in task.mistakes]


def toy(*cases, mistakes=None):
    """An exercise outside of the registry."""
    return gl.exercises.Exercise("double", "double(x): twice x.", lambda draw: iter(cases), "Twice.", mistakes or {})


@pytest.mark.parametrize(("task", "says"), MISTAKES, ids=[f"{task.name}-{says[:30]}" for task, says in MISTAKES])
def test_a_plausible_mistake_is_refused_and_named(task, says):
    verdict = task(task.mistakes[says])
    assert not verdict and not verdict.passed
    assert verdict.message.startswith("Not yet: case ") and says in " ".join(repr(verdict).split())
    assert max(map(len, repr(verdict).splitlines())) <= 88


@pytest.mark.parametrize("task", EXERCISES, ids=lambda task: task.name)
def test_every_exercise_says_what_to_write_and_helps(task):
    assert task.task.startswith(f"{task.name}(") and task.task.endswith(".")
    assert len(task.mistakes) >= 2 and len(task.hint.split()) > 8
    assert f"gl.exercises.{task.name}({task.name})" in repr(task)
    unwritten = task(lambda *given: (_ for _ in ()).throw(NotImplementedError))
    assert unwritten.message == f"Not written yet: {task.task}"
    nothing = task(lambda *given: None)
    assert not nothing and "Not yet: case 1 of" in nothing.message


@pytest.mark.parametrize("task", EXERCISES, ids=lambda task: task.name)
def test_cases_depend_on_the_seed_and_on_nothing_else(task):
    def shown(seed):
        return [case.about for case in task.cases(torch.Generator().manual_seed(seed))]

    state = torch.get_rng_state()
    assert shown(0) == shown(0)
    assert len({tuple(shown(seed)) for seed in range(6)}) > 1 or task.name == "cosine_distance"
    assert torch.equal(state, torch.get_rng_state())


def test_names_are_the_registered_ones_and_no_name_is_taken_twice():
    assert set(gl.exercises.names()) < set(gl.exercises.__all__)

    def topk(draw: torch.Generator):
        """topk(tensor): the same again."""
        yield Case("nothing", ())

    with pytest.raises(ValueError, match="'topk' is registered twice"):
        exercise("", {})(topk)


@pytest.mark.parametrize(
    ("expected", "answer", "said"),
    [
        (torch.ones(2, 3), torch.ones(3), "Expected shape (2, 3), got (3,)."),
        (torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3).T, "It is the right answer, transposed."),
        (torch.ones(3), [1.0, 1.0, 1.0], "Expected a tensor of shape (3,), got a list."),
        (torch.ones(3), None, "got nothing (is there a return?)"),
        (torch.tensor([1.0, 2.0]), torch.tensor([-2.0, -4.0]), "It is the right answer times -2."),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]), "Expected 2 at [1], got 5; 1 of 2 entries differ"),
        (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, float("nan")]]), "1 of yours are not finite."),
        (3, 3.5, "Expected 3, got 3.5."),
        (3, "three", "Expected a number, got a str."),
        (2.5, torch.ones(2), "Expected a number, got a tensor of shape (2,)."),
        ((1.0, 2.0), 1.0, "Expected 2 values, got a float."),
        ((1.0, 2.0), (1.0,), "Expected 2 values, got 1."),
        ((1.0, torch.ones(2)), (1.0, torch.zeros(2)), "Value 2 of 2: Expected 1 at [0], got 0"),
    ],
)
def test_differences_in_words(expected, answer, said):
    assert said in difference(expected, answer, 1e-4)


def test_small_differences_are_accepted_and_whole_numbers_are_exact():
    one = torch.tensor([1000.0, 0.001])
    assert difference(one, one + 0.05, 1e-4) is None  # relative to the largest number
    assert difference(one, one + 0.5, 1e-4)
    assert difference(1.0, torch.tensor(1.00001, requires_grad=True), 1e-4) is None
    assert difference(10**6, 10**6 + 1, 1e-4)
    assert difference(torch.tensor([5]), torch.tensor([5.0]), 1e-4) is None
    assert difference(torch.tensor(2.0), 2.0, 1e-4) is None


def test_what_a_function_raises_is_told_and_kept():
    verdict = toy(Case("one", (1.0,), 2.0))(lambda x: x + undefined_name)  # noqa: F821
    assert "double raised NameError: name 'undefined_name'" in verdict.message and "Hint: Twice." in verdict.message
    assert isinstance(verdict.error, NameError)


def test_changing_an_argument_in_place_is_refused_and_reaches_no_other_case():
    x = torch.ones(3)
    verdict = toy(Case("ones", (x,), 2 * x))(lambda x: x.mul_(2))
    assert "double changed its argument number 1." in verdict.message
    assert torch.equal(x, torch.ones(3))


def test_the_hint_stands_in_where_no_mistake_fits():
    task = toy(Case("two", (2.0,), 4.0), mistakes={"You squared.": lambda x: 1 / 0, "You added.": lambda x: x + 3})
    assert "You added." in task(lambda x: x + 3).message
    assert "Hint: Twice." in task(lambda x: x + 4).message
    assert task(lambda x: 2 * x).message == "Right: 1 cases, the last with two."


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="function must be callable"):
        gl.exercises.topk(torch.ones(3))
    with pytest.raises(ValueError, match="seed must be at least 0"):
        gl.exercises.topk(lambda tensor, share: tensor, seed=-1)


def test_a_control_has_to_use_its_seed_and_a_generator_of_its_own():
    state = torch.get_rng_state()
    verdict = gl.exercises.permute(lambda scalars, seed: scalars[torch.randperm(len(scalars))])
    assert "global random state has changed" in verdict.message
    torch.set_rng_state(state)
    own = torch.Generator()
    verdict = gl.exercises.permute(
        lambda scalars, _: scalars[torch.randperm(len(scalars), generator=own.manual_seed(1))]
    )
    assert "Two different seeds gave the same order" in verdict.message


def test_masks_that_the_partner_could_not_draw_are_refused():
    def private(messages, seeds):
        masks = torch.randint(2**32, messages.shape)
        masks[-1] = -masks[:-1].sum(0)
        return (messages + masks) % 2**32

    verdict = gl.exercises.masked_messages(private)
    assert "could not subtract its own" in verdict.message
