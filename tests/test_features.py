"""What a layer is fed with: recorded by hooks that are gone afterwards, whatever happens."""

import pytest
import torch
from torch import nn

from glutils import models, priors


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_the_input_of_a_layer_is_what_the_layers_before_it_make(digit):
    model = models.build("convnet", digit, seed=0)
    name, layer = models.last_linear(model)
    images = digit.images.clone().requires_grad_()
    found = models.layer_input(model, layer, models.parameters(model), images)
    torch.testing.assert_close(found, model[: int(name)](digit.images), rtol=0, atol=0)
    (slope,) = torch.autograd.grad(found.sum(), images)
    assert float(slope.abs().sum()) > 0
    other = {n: torch.zeros_like(p) for n, p in models.parameters(model).items()}
    assert not models.layer_input(model, layer, other, images).any()  # of the parameters given, not of the model's own
    with pytest.raises(ValueError, match="layer must be one that runs when the model does, got Identity"):
        models.layer_input(model, nn.Identity(), models.parameters(model), images)
    assert _hooks(model) == 0


def test_every_run_is_recorded_and_no_hook_stays(digit):
    model = models.build("mlp", digit, seed=0)
    _, layer = models.last_linear(model)
    with models.record_inputs(layer) as inputs:
        model(digit.images), model(1 - digit.images)
    assert len(inputs) == 2 and not torch.equal(*inputs)
    model(digit.images)
    assert len(inputs) == 2
    with pytest.raises(ZeroDivisionError), models.record_inputs(layer):
        1 / 0  # noqa: B018
    assert _hooks(model) == 0


def test_batch_norm_statistics_are_those_of_the_last_pass(digits):
    model = models.build("resnet8", digits, seed=0, width=4)
    with priors.record_batchnorm_statistics(model) as found:
        model(1 - digits.images), model(digits.images)
    first = next(iter(found))
    x = model[0](digits.images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found[first][0], x.mean(1))
    torch.testing.assert_close(found[first][1], x.var(1))
    assert list(found) == list(priors.running_statistics(model)) and _hooks(model) == 0


def test_layers_with_parameters_come_in_order_and_without_their_containers(digit):
    model = models.build("convnet", digit)
    names = [name for name, _ in models.layers_with_parameters(model)]
    assert names == list(dict.fromkeys(name.rsplit(".", 1)[0] for name in models.parameters(model)))
    assert models.layers_with_parameters(nn.Sequential(nn.Flatten())) == []
