"""Decoding: Hugging Face `generate` beside our loop, plain and steered. `python -m tests.benchmarks.steering`.

Our loop continues two texts at once, plain and steered, so a step of ours is two tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from engine import default_model, sets
from engine.generation import Sampling, generate
from engine.job import Job
from engine.loading import open_model
from engine.model import LanguageModel
from engine.quiet import quiet_libraries
from engine.saelens_folder import read_dictionary
from engine.sites import Site
from tests.benchmarks.features import TEXT
from tests.benchmarks.measuring import machine, medians, table

PROMPT, NEW = 32, 50


def hugging_face(model: LanguageModel, ids: list[int], rows: int) -> Callable[[], None]:
    batch = torch.tensor([ids] * rows, device=model.device)

    def run() -> None:
        model.hf.generate(
            batch, attention_mask=torch.ones_like(batch), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False
        )

    return run


def ours(model: LanguageModel, ids: list[int], directions: Mapping[Site, Tensor]) -> Callable[[], None]:
    def run() -> None:
        for _ in generate(model, ids, directions, NEW, Sampling(temperature=0), Job()):
            pass

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    quiet_libraries()
    print(machine(chosen.device))
    model = open_model(default_model.ensure(Job()), chosen.device, "float32")
    model.__dict__["end_ids"] = frozenset()  # let every text run to its full length
    ids = model.tokenizer.encode(TEXT, bos=False)[:PROMPT]
    dictionaries = [read_dictionary(f).to(model.device, model.dtype) for f in sets.resolve(None, ()).dictionaries]
    directions = {d.write_site: 5.0 * d.decoder[7] for d in dictionaries}
    jobs = {
        "Hugging Face generate, 1 text": hugging_face(model, ids, 1),
        "Hugging Face generate, 2 texts": hugging_face(model, ids, 2),
        "ours, 2 texts, nothing steered": ours(model, ids, {}),
        f"ours, 2 texts, one steered at {len(directions)} sites": ours(model, ids, directions),
    }
    synchronise = torch.cuda.synchronize if chosen.device.startswith("cuda") else lambda: None
    seconds = medians(jobs, chosen.rounds, synchronise)
    slowest = seconds["Hugging Face generate, 2 texts"]
    rows = [[n, f"{1000 * s / NEW:.1f} ms", f"{slowest / s:.2f}×"] for n, s in seconds.items()]
    table(f"{PROMPT} tokens and {NEW} new ones, float32", ["", "per step", "of generate, 2 texts"], rows)


if __name__ == "__main__":
    main()
