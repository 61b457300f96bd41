"""Train the language model that ``gl.models.build("gpt", batch, weights="trained")`` loads, and cut its word pieces:

    python tools/train_gpt.py

writes ``messages.json`` (pieces), ``gpt.safetensors`` (float16) and ``gpt.json`` (record) to ``glutils/data/language``.
Two minutes on one core. It reads public messages beyond those of the set: templates and people are the public ones, and
every message of the set is held out. The same torch on the same kind of processor gives the same weights.
"""

from __future__ import annotations

import argparse
import time

import torch
from safetensors.torch import save_file

import glutils as gl
from glutils.data import messages, texts

PEAK, DECAY = 6e-3, 0.1
"""Largest learning rate of AdamW, on a one-cycle schedule, and its weight decay."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pieces", type=int, default=512)
    asked = parser.parse_args()
    torch.set_num_threads(1)

    first = messages.COUNTS["public"]
    public = [messages.text("public", first + i) for i in range(asked.texts)]
    vocabulary = gl.data.Vocabulary.train(public, size=asked.pieces)
    (texts.FOLDER / "messages.json").write_text(vocabulary.rules, encoding="utf-8")
    texts.messages_vocabulary.cache_clear()
    train = gl.data.from_texts(public)
    model = gl.models.build("gpt", train, seed=asked.seed)

    begin = time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=asked.steps, pct_start=0.1)
    draw = torch.Generator().manual_seed(asked.seed)
    for turn in range(asked.steps):
        chosen = torch.randint(len(train), (asked.batch,), generator=draw)
        length = int((train.labels[chosen] != -100).nonzero()[:, 1].max()) + 1
        loss = nats(model, train.images[chosen, :length], train.labels[chosen, :length])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if turn % 100 == 99:
            print(f"step {turn + 1}: {loss.item():.3f} nats a piece", flush=True)
    seconds = time.perf_counter() - begin

    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_file(weights, texts.FOLDER / "gpt.safetensors")
    stored = gl.models.build("gpt", train, weights="trained")
    rows = []
    for name, batch in (
        ("public, trained on", train[:1000]),
        ("public, held out", gl.data.sample("messages", count=1000, split="public", device="cpu")),
        ("private", gl.data.load("messages", device="cpu")),
    ):
        with torch.no_grad():
            value = nats(stored, batch.images, batch.labels).item()
        rows.append({"texts": name, "count": len(batch), "nats_per_piece": value})
        print(rows[-1])
    gl.runs.record(
        "gpt", parameters=vars(asked) | {"peak": PEAK, "decay": DECAY}, rows=rows, seeds=asked.seed, seconds=seconds,
        folder=texts.FOLDER,
    )  # fmt: skip


def nats(model: torch.nn.Module, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss of the pieces that the labels name."""
    return torch.nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


if __name__ == "__main__":
    main()
