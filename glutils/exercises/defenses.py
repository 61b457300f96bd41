"""Exercises of chapters 15 to 18: clipping, privacy budgets, masks of both kinds, noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch

from .base import Case, exercise, integer, normal, uniform

RING = 2**32


@exercise(
    "Shorten each example's gradient to the bound if it is longer, leave it alone if it is not, and average "
    "afterwards.",
    {
        "You clip the mean. One extreme example can then still move it by any amount: clip every example first.":
            lambda gradients, bound: _shorten(gradients.mean(0, keepdim=True), bound)[0],
        "You bring every gradient to the bound. Short ones must stay as they are.": lambda gradients, bound: (
            gradients * bound / gradients.norm(dim=1, keepdim=True)
        ).mean(0),
        "You clip entries. The bound is for the length of an example's whole gradient.": lambda gradients, bound: (
            gradients.clamp(-bound, bound).mean(0)
        ),
        "A sum is not a mean: divide by the number of examples.": lambda gradients, bound: _shorten(
            gradients, bound
        ).sum(0),
    },
)
def clip_and_average(draw: torch.Generator) -> Iterator[Case]:
    """clip_and_average(gradients, bound): the mean, (d,), of per-example gradients, (B, d), each shortened to at most
    the bound."""
    for bound in (0.5, 2.0, 4.0):
        count, d = integer(draw, 3, 8), integer(draw, 2, 9)
        gradients = normal(draw, count, d) * torch.linspace(0.1, 4, count, dtype=torch.float64)[:, None]
        mean = torch.stack([g * min(1.0, bound / float(g.norm())) for g in gradients]).mean(0)
        yield Case(f"{count} examples, {d} parameters and bound {bound:g}", (gradients, bound), mean)


def _shorten(gradients: torch.Tensor, bound: float) -> torch.Tensor:
    return gradients * (bound / gradients.norm(dim=1, keepdim=True)).clamp(max=1)


@exercise(
    "All rows satisfy weight[k] = bias[k] x, up to noise. That is least squares with one unknown for each pixel: "
    "weigh each row with its bias gradient.",
    {
        "This uses one neuron. The others know the image, too.": lambda weight, bias: (
            weight[bias.abs().argmax()] / bias[bias.abs().argmax()]
        ),
        "A plain mean gives the noisiest quotients the same say. Weigh rows by their bias gradients.":
            lambda weight, bias: (weight / bias[:, None]).mean(0),
        "Divide by the sum of squares of the biases.": lambda weight, bias: bias @ weight,
    },
)
def combine_neurons(draw: torch.Generator) -> Iterator[Case]:
    """combine_neurons(weight, bias): the least-squares estimate of the image, (inputs,), from noisy gradients of a
    first layer's weights (neurons, inputs) and its biases (neurons,)."""
    for _ in range(3):
        neurons, inputs = integer(draw, 3, 10), integer(draw, 2, 12)
        bias = normal(draw, neurons)
        weight = torch.outer(bias, uniform(draw, inputs)) + 0.3 * normal(draw, neurons, inputs)
        right = torch.linalg.lstsq(bias[:, None], weight).solution[0]
        yield Case(f"{neurons} neurons and {inputs} inputs", (weight, bias), right)


@exercise(
    "What is spent grows with the steps. Double a number of steps until it is too many, then halve the interval "
    "between what is allowed and what is not.",
    {
        "Budgets of single steps do not simply add up: that bound is far too careful. Ask what all steps spend "
        "together.":
            lambda budget, spent: int(budget / spent(1)),
        "That is one step more than allowed.": lambda budget, spent: _count_steps(budget, spent) + 1,
        "You stop one step too early.": lambda budget, spent: _count_steps(budget, spent) - 1,
    },
)
def steps_allowed(draw: torch.Generator) -> Iterator[Case]:
    """steps_allowed(budget, spent): the most steps of DP-SGD that keep epsilon at or below the budget; spent(steps)
    says what epsilon a number of steps costs, and grows with it. A whole number, 0 if not even one step is
    allowed."""
    for budget in (2.0, 8.0, 0.01):
        noise = 4 + integer(draw, 0, 16) / 4

        def spent(steps: int, noise: float = noise) -> float:
            """Renyi accounting of the Gaussian mechanism without sampling, best order, at delta = 1e-5."""
            return steps / (2 * noise**2) + math.sqrt(2 * steps * math.log(1e5)) / noise

        yield Case(f"epsilon {budget:g} and noise multiplier {noise:g}", (budget, spent), _count_steps(budget, spent))


def _count_steps(budget: float, spent: Callable[[int], float]) -> int:
    """One step after the other."""
    return next(steps for steps in itertools.count() if spent(steps + 1) > budget)


@exercise(
    "Sort by absolute value, keep the first ceil(share * n) numbers (at least one) in their places, and put zeros "
    "elsewhere.",
    {
        "You keep the largest numbers. Very negative ones are as important: sort by absolute value.":
            lambda tensor, share: (
            torch.where(tensor >= tensor.flatten().topk(_keep_count(tensor, share)).values[-1], tensor, 0.0)
        ),
        "You send absolute values. The signs are lost.": lambda tensor, share: _topk(tensor, share).abs(),
        "You keep the smallest.": lambda tensor, share: tensor - _topk(tensor, 1 - share),
        "You round the number of kept entries down. At least one must stay, and a started one counts.":
            lambda tensor, share: _topk(tensor, int(share * tensor.numel()) / tensor.numel()),
    },
)
def topk(draw: torch.Generator) -> Iterator[Case]:
    """topk(tensor, share): the same tensor with only this share of its numbers, the largest by absolute value, and
    zeros for all others."""
    for share in (0.5, 0.25, 0.01):
        rows, columns = integer(draw, 2, 5), integer(draw, 3, 7)
        tensor = normal(draw, rows, columns)
        yield Case(f"{rows} x {columns} numbers and a share of {share:g}", (tensor, share), _topk(tensor, share))


def _keep_count(tensor: torch.Tensor, share: float) -> int:
    return max(1, math.ceil(share * tensor.numel()))


def _topk(tensor: torch.Tensor, share: float) -> torch.Tensor:
    """By rank: how many numbers are larger."""
    sizes = tensor.abs().flatten()
    rank = (sizes[None] > sizes[:, None]).sum(1)
    return torch.where((rank < _keep_count(tensor, share)).view(tensor.shape), tensor, 0.0)


@exercise(
    "What was not sent is unknown, not zero. Compare only where the message is not zero.",
    {
        "You compare with the zeros as well. They are places that were not sent; the true gradient is not zero "
        "there.":
            lambda guess, seen: (guess - seen).square().sum(),
        "You sparsify the guess by its own largest entries. The mask that counts is the message's.":
            lambda guess, seen: (_topk(guess, float((seen != 0).double().mean())) - seen).square().sum(),
        "You look only where nothing was sent.": lambda guess, seen: (guess - seen)[seen == 0].square().sum(),
    },
)
def masked_distance(draw: torch.Generator) -> Iterator[Case]:
    """masked_distance(guess, seen): the squared distance that an attacker minimises who knows that zeros in the
    message were not sent, from the gradient of its guess and the message, of one shape; a number."""
    for share in (0.6, 0.3, 0.1):
        n = integer(draw, 8, 30)
        guess, seen = normal(draw, n), _topk(normal(draw, n), share)
        right = sum((float(g) - float(s)) ** 2 for g, s in zip(guess, seen, strict=True) if float(s))
        yield Case(f"{n} numbers, of which a share of {share:g} was sent", (guess, seen), right)


def _mask_pairwise(messages: torch.Tensor, seeds: torch.Tensor, back: int) -> torch.Tensor:
    sent = messages.clone()
    for i in range(len(messages)):
        for j in range(i + 1, len(messages)):
            generator = torch.Generator().manual_seed(int(seeds[i, j]))
            mask = torch.randint(RING, messages.shape[1:], generator=generator)
            sent[i], sent[j] = sent[i] + mask, sent[j] + back * mask
    return sent % RING


@exercise(
    "For each pair i < j draw one mask from its seed; client i adds it, client j subtracts it. Everything is "
    "modulo 2**32.",
    {
        "Both clients of a pair add the mask, so it is in the sum twice. One of them has to subtract it.":
            lambda messages, seeds: _mask_pairwise(messages, seeds, 1),
        "Nothing is hidden: these are the messages.": lambda messages, seeds: messages.clone(),
    },
)
def masked_messages(draw: torch.Generator) -> Iterator[Case]:
    """masked_messages(messages, seeds): what N clients send, (N, n), instead of their messages, (N, n) whole numbers
    modulo 2**32: masks from the seed that each pair shares, seeds[i, j] = seeds[j, i], hide every row and cancel in
    the sum."""
    for clients in (2, 3, 5):
        n = integer(draw, 12, 20)
        messages = torch.randint(1000, (clients, n), generator=draw)
        seeds = torch.randint(1, 2**31, (clients, clients), generator=draw).triu(1)
        seeds = seeds + seeds.T

        def judge(answer, again, messages: torch.Tensor = messages, seeds: torch.Tensor = seeds) -> str | None:
            if not isinstance(answer, torch.Tensor) or answer.shape != messages.shape:
                return f"Expected a tensor of shape {tuple(messages.shape)}."
            if answer.is_floating_point() or bool((answer < 0).any() or (answer >= RING).any()):
                return "Expected whole numbers from 0 to 2**32 - 1: take the remainder."
            if not torch.equal(answer.sum(0) % RING, messages.sum(0) % RING):
                return "The sum of what is sent is not the sum of the messages: the masks do not cancel."
            for client, row in enumerate(answer):
                if int((row < 1000).sum()) > len(row) // 2:
                    return f"The numbers of client {client} are as small as its message: they are not hidden."
            if not torch.equal(answer, again(messages, seeds)):
                return "The same seeds gave different masks: the other client of a pair could not subtract its own."
            return "Other seeds gave the same masks." if torch.equal(answer, again(messages, seeds + 1)) else None

        yield Case(f"{clients} clients and {n} numbers", (messages, seeds), judge=judge)


@exercise(
    "Variances add up, and only those who stay add theirs. The fewest that may stay have to reach sigma**2 together.",
    {
        "Standard deviations do not add up; variances do.": lambda sigma, clients, away: sigma / (clients - away),
        "If some stay away, their noise is missing. Count on those who are sure to stay.":
            lambda sigma, clients, away: sigma / math.sqrt(clients),
        "Each client alone would make all the noise: far too much for the sum.": lambda sigma, clients, away: sigma,
    },
)
def noise_share(draw: torch.Generator) -> Iterator[Case]:
    """noise_share(sigma, clients, away): the standard deviation of the noise that each client adds, so that the sum
    has at least standard deviation sigma even if this many clients stay away; a number."""
    for away in (1, 3, 4):
        clients, sigma = away + integer(draw, 2, 20), integer(draw, 1, 40) / 10
        right = next(sigma * k / 1e6 for k in [round(1e6 * (1 / (clients - away)) ** 0.5)])
        yield Case(f"sigma = {sigma:g}, {clients} clients, {away} of them away", (sigma, clients, away), right)


@exercise(
    "Noise tau in every scalar gives the image the mean squared error tau**2 times the mean of 1/sigma_i**2. Set it to "
    "10**(-psnr/10), and solve for tau.",
    {
        "This is the variance of the noise; take the root.": lambda values, psnr: (
            10 ** (-psnr / 10) / float((values**-2).mean())
        ),
        "Average 1/sigma**2, not 1/sigma: errors along different changes add up in squares.": lambda values, psnr: (
            math.sqrt(10 ** (-psnr / 10)) / float((1 / values).mean())
        ),
        "The mean squared error is a mean over the D changes, not their sum.": lambda values, psnr: math.sqrt(
            10 ** (-psnr / 10) / float((values**-2).sum())
        ),
        "Only the faintest change is counted. The others add to the error, too, and the mean is over all.":
            lambda values, psnr: math.sqrt(10 ** (-psnr / 10)) * float(values.min()),
    },
)
def noise_needed(draw: torch.Generator) -> Iterator[Case]:
    """noise_needed(singular_values, psnr): the standard deviation of the noise in every scalar that holds the
    attacker at this PSNR, in dB, from the D singular values of the Jacobian, (D,); a number."""
    for psnr in (10.0, 20.0, 35.0):
        values = uniform(draw, integer(draw, 3, 20)) + 0.05
        error = 10 ** (-psnr / 10)
        right = (error * len(values) / sum(float(v) ** -2 for v in values)) ** 0.5
        yield Case(f"{len(values)} singular values and {psnr:g} dB", (values, psnr), right)
