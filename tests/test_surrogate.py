"""ReLU with a visible step: values and first derivatives are ReLU's, the second is a bump of area one."""

import pytest
import torch

import glutils as gl
from glutils import models
from glutils.models.relu import SurrogateReLU, with_surrogates


@pytest.mark.parametrize("width", [0.1, 2.0])
def test_value_and_first_derivative_are_those_of_relu(width):
    x = torch.linspace(-3, 3, 41, dtype=torch.float64).requires_grad_()  # 0 among them
    y = SurrogateReLU(width)(x)
    torch.testing.assert_close(y, x.relu(), rtol=0, atol=0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, (x > 0).double(), rtol=0, atol=0)


def test_the_second_derivative_is_a_bump_of_area_one():
    """Of a logistic curve; its width is in units of the inputs' root mean square."""
    x = torch.linspace(-40, 40, 8001, dtype=torch.float64).requires_grad_()
    rms = float(x.detach().square().mean().sqrt())
    (slope,) = torch.autograd.grad(SurrogateReLU(0.05)(x).sum(), x, create_graph=True)
    (bump,) = torch.autograd.grad(slope.sum(), x)
    on = torch.sigmoid(x.detach() / (0.05 * rms))
    torch.testing.assert_close(bump, on * (1 - on) / (0.05 * rms))
    assert float(bump.sum() * 0.01) == pytest.approx(1, abs=1e-4)


def test_the_network_sends_the_same_gradient_and_is_left_alone(digit):
    model = models.build("resnet8", digit, seed=0, width=4)
    other = with_surrogates(model, 1.0)
    found, wanted = (models.gradient(m, None, digit.images, digit.labels) for m in (other, model))
    assert list(found) == list(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])
    assert moved(other, digit) > 1.1 * moved(model, digit) > 0


def moved(model, batch):
    """Length of the derivative of the gradient's square in the pixels."""
    images = batch.images.clone().requires_grad_()
    found = models.gradient(model, None, images, batch.labels, create_graph=True)
    return float(torch.autograd.grad(models.flatten(found).square().sum(), images)[0].norm())


@pytest.mark.parametrize("relu", [torch.nn.ReLU(inplace=True), torch.relu, torch.nn.functional.relu, torch.Tensor.relu])
def test_it_does_not_matter_how_relu_is_called(relu):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(64, 32), torch.nn.Linear(32, 10)

        def forward(self, x):
            return self.last(relu(self.first(x.flatten(1))))

    torch.manual_seed(0)
    model, batch = Own(), gl.data.sample("digits", seed=0, device="cpu")
    other = with_surrogates(model, 1.0)
    torch.testing.assert_close(other(batch.images), model(batch.images), rtol=0, atol=0)
    assert moved(other, batch) != pytest.approx(moved(model, batch), rel=0.01)


def test_it_foresees_how_the_gradient_moves():
    """Through the steps the derivative of a wide network's gradient is that which differences show; without, it is not.

    One hidden layer with many neurons: their jumps add up to a slope.
    """
    generator = torch.Generator().manual_seed(0)
    w, v = (torch.randn(20_000, generator=generator, dtype=torch.float64) for _ in range(2))
    bias = torch.randn(20_000, generator=generator, dtype=torch.float64)

    def slope(x, act):
        """d/dx of the mean of v^2 relu(w x + b)."""
        return torch.autograd.grad((v.square() * act(w * x + bias)).mean(), x, create_graph=True)[0]

    x = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ahead, behind = (slope((x + h).detach().requires_grad_(), torch.relu).detach() for h in (0.1, -0.1))
    seen = float((ahead - behind) / 0.2)
    foreseen = float(torch.autograd.grad(slope(x, SurrogateReLU(0.2)), x)[0])
    assert seen > 0.1 and foreseen == pytest.approx(seen, rel=0.1)
    missed = torch.autograd.grad(slope(x, torch.relu), x, allow_unused=True)[0]
    assert missed is None or float(missed) == 0


def test_a_network_without_relu_stays_what_it_is(digit):
    model = models.build("mlp", digit, seed=0, hidden=(8,), activation="tanh")
    other = with_surrogates(model, 1.0)
    assert str(other) == str(model) and moved(other, digit) == moved(model, digit)


def test_stg_leaves_the_observed_network_alone(digit):
    model = models.build("resnet8", digit, seed=0, width=2)
    protocol = gl.protocols.FedSGD()
    seen = gl.observe(model, protocol, protocol.transmit(model, digit.images, digit.labels), digit, knows={"labels"})
    before = str(model)
    gl.attack("stg", seen, iterations=1)
    assert str(model) == before
