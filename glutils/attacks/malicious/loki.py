"""LOKI: blocks that keep clients apart in a sum (Zhao, Sharma, Elkordy, Ezzeldin, Avestimehr, Bagchi, S&P 2024)."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn

from ... import _validate
from ...data.batch import Batch
from ...observation import Observation
from ..base import Card, Reconstruction, register
from ..closed_form.held import gradient_of
from . import imprint

SILENT = -1e6
"""Bias of a neuron that never fires, in units of the block's gain."""


def loki_models(
    model: nn.Module, public: Batch, clients: int, *, bins: int = 64, seed: int = 0, **options: Any
) -> list[nn.Module]:
    """One model for each client, all behind the block of RTF, each with neurons of its own; all others are silent.

    Silent neurons have a gradient of zero. So in a sum over clients every group of neurons holds the images of one
    client, whatever the number of clients: secure aggregation adds zeros to them.

    Args:
        model, public, bins, seed, options: as for :func:`glutils.attacks.malicious.imprint.imprint`; ``bins`` are each
            client's. A two-sided block is refused.
        clients: in the sum.

    Raises:
        ValueError: no client, or an option that the block does not take.

    Example:
        >>> import glutils as gl
        >>> photos = gl.data.sample("photos", size=16, count=4, seed=0)
        >>> model = gl.models.build("convnet", photos, seed=0)
        >>> sent, protocol = gl.attacks.loki_models(model, gl.data.public(photos), 4), gl.protocols.FedSGD()
        >>> parts = [protocol.transmit(m, one.images, one.labels) for m, one in zip(sent, photos)]
        >>> seen = gl.observe(sent[0], protocol, sum(parts[1:], parts[0]) / 4, photos)
        >>> bool((gl.score(gl.attack("loki", seen), photos).psnr > 60).all())
        True
    """
    clients = _validate.integer("clients", clients, at_least=1)
    if options.get("two_sided"):
        raise ValueError("two_sided must be False: what keeps clients apart are neurons that never fire")
    whole = imprint.imprint(model, public, bins=bins, seed=seed, **options)
    block = cast("imprint.Imprint", imprint.block_of(whole))
    encode, decode = block.encode, block.decode
    with torch.no_grad():
        row, bias, column = encode.weight.repeat(clients, 1), encode.bias.clone(), decode.weight.repeat(1, clients)
    device, sent = row.device, []
    for client in range(clients):
        own = copy.deepcopy(whole)
        mine = cast("imprint.Imprint", imprint.block_of(own))
        mine.encode = nn.Linear(row.shape[1], len(row), device=device)
        mine.decode.weight = nn.Parameter(column.clone())
        mine.decode.in_features = len(row)
        mine.clients = clients
        with torch.no_grad():
            mine.encode.weight.copy_(row)
            mine.encode.bias.fill_(SILENT * block.gain)
            mine.encode.bias[client * bins : (client + 1) * bins] = bias
        sent.append(own)
    return sent


@register(
    "loki",
    Card(
        title="LOKI",
        adversary="malicious server",
        kinds=("gradient", "delta"),
        simulates="nothing: one subtraction, one division a bin",
        variable="-",
        distance="-",
        prior="none",
        solver="closed form",
        labels="not needed",
        source="zhao2024loki",
    ),
)
def loki(seen: Observation, *, seed: int = 0, threshold: float | int = 1e-6) -> Reconstruction:
    """The images of a sum of clients, client by client, each alone in a bin of its client's own block
    (:func:`glutils.attacks.loki_models`).

    Each group of neurons is read as 'rtf' reads its block. Images come in the order of clients, and within a client in
    that of the bins: unlike the trap of RTF, the server learns whose image it is. Diagnostics: ``hits``, bins that were
    hit; ``clients``. ``seed`` is not used.

    Deviations: the paper keeps clients apart by convolutional kernels in front of the block, others for each client, so
    that no parameter of the block differs; here its biases do. Both are models that differ from client to client:
    masks that are bound to the model stop both.

    Raises:
        ValueError: a model that was not made by ``loki_models``, or a threshold outside 0 to 1.
    """
    block = imprint.block_of(seen.model)
    clients = getattr(block, "clients", None)
    if block is None or clients is None:
        raise ValueError(
            "attack 'loki' needs a model that begins with a block for each client (gl.attacks.loki_models makes one); "
            "'rtf' reads a block that all clients share, 'spear' and 'ig' models as they are"
        )
    _validate.number("threshold", threshold, at_least=0, at_most=1)
    prefix = "" if block is seen.model else "0."
    whole = [gradient_of(seen, "loki", f"{prefix}encode.{name}") for name in ("weight", "bias")]
    parts, loudest = [part.chunk(clients) for part in whole], whole[1].abs().max()
    found = []
    for weight, bias in zip(*parts, strict=True):
        weight, bias, hits = imprint.read_bins(weight, bias, False, threshold)
        hits = hits[bias[hits].abs() > threshold * loudest]
        found.append((weight[hits] / bias[hits, None], weight[hits].norm(dim=1)))
    rows, sizes = (torch.cat(kind) for kind in zip(*found, strict=True))
    told = {"hits": float(len(rows)), "clients": float(clients)}
    return imprint.collected(seen, rows, sizes, "by clients and bins", told)
