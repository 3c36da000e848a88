"""The corpus index beside the bare model and SAELens' way, on the same text. `python -m tests.benchmarks.corpus`.

The bare passes say what no index can beat: the model up to the last dictionary's layer, and the whole model with its
logits. SAELens' way is what a notebook does, with SAEDashboard's arithmetic by hand: `run_with_cache` of the
Bridge for the hooks of the SAEs, `SAE.encode` of sae_lens for each, and from the dense activations the density, the
maximum and the strongest places of every feature. All of them read the same batches of the same tokens, and none of
them writes anything.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from engine.corpus.part import IndexPart
from engine.corpus.reading import read_batches
from engine.corpus.text import contexts_of, documents_of
from engine.job import Job
from engine.opening import OpenSet, open_set
from engine.protocol import Open
from engine.quiet import quiet_libraries
from engine.training.corpus import Context, batches
from tests.benchmarks.measuring import extra_megabytes, machine, medians, table

KEEP = 20


def bare(opened: OpenSet, contexts: list[Context], rows: int, *, whole: bool) -> Callable[[], None]:
    """The forward pass alone, to the last dictionary's layer or to the logits."""
    last = max((d.site for d in opened.dictionaries.values()), key=lambda site: site.depth)
    model = opened.model

    def run() -> None:
        for ids, _ in batches(contexts, rows):
            inputs = torch.from_numpy(ids).to(model.device, torch.long)
            with torch.inference_mode():
                if whole:
                    model.logits(model.hidden(inputs).flatten(0, 1))
                else:
                    model.read(inputs, {last: lambda _: None})

    return run


def ours(opened: OpenSet, contexts: list[Context], rows: int, kept: list[IndexPart]) -> Callable[[], None]:
    """A part of an index; it is left in `kept`."""
    dictionaries = list(opened.dictionaries.values())

    def run() -> None:
        part = IndexPart.empty(dictionaries, KEEP, opened.model.device)
        for batch in read_batches(opened.model, dictionaries, contexts, Job(), rows):
            part.add(batch)
        for own in part.tables.values():
            own.settle()
        kept[:] = [part]

    return run


def saelens(opened: OpenSet, contexts: list[Context], rows: int, kept: list[Any]) -> Callable[[], None]:
    """Dense activations of every SAE, and counts, maxima and the strongest places of every feature from them."""
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge

    device = str(opened.model.device)
    bridge: Any = TransformerBridge.boot_transformers(str(opened.model.folder), device=device)
    saes: list[Any] = [SAE.load_from_disk(d.folder, device=device) for d in opened.dictionaries.values()]
    hooks = [sae.cfg.metadata.hook_name for sae in saes]
    last = max(d.site.layer for d in opened.dictionaries.values()) + 1

    def run() -> None:
        fired = [torch.zeros(sae.cfg.d_sae, device=device) for sae in saes]
        maximum = [torch.zeros(sae.cfg.d_sae, device=device) for sae in saes]
        best = [torch.zeros(KEEP, sae.cfg.d_sae, device=device) for sae in saes]
        place = [torch.zeros(KEEP, sae.cfg.d_sae, device=device, dtype=torch.long) for sae in saes]
        seen = 0
        for ids, group in batches(contexts, rows):
            inputs = torch.from_numpy(ids).to(device, torch.long)
            real = torch.zeros(inputs.shape, dtype=torch.bool, device=device)
            for row, context in enumerate(group):
                real[row, 1 : len(context.ids)] = True
            with torch.no_grad():
                _, cache = bridge.run_with_cache(inputs, names_filter=hooks, stop_at_layer=last)
                for n, sae in enumerate(saes):
                    dense = (sae.encode(cache[hooks[n]]) * real[:, :, None]).flatten(0, 1)
                    fired[n] += (dense > 0).sum(0)
                    maximum[n] = torch.maximum(maximum[n], dense.amax(0))
                    top = dense.topk(min(KEEP, len(dense)), dim=0)
                    values = torch.cat([best[n], top.values])
                    places = torch.cat([place[n], top.indices + seen])
                    best[n], chosen = values.topk(KEEP, dim=0)
                    place[n] = places.gather(0, chosen)
            seen += real.numel()
        kept[:] = [(fired, maximum)]

    return run


def compare(opened: OpenSet, contexts: list[Context], rows: int, rounds: int) -> None:
    part: list[IndexPart] = []
    other: list[Any] = []
    to_last = "bare pass to the last dictionary's layer"
    jobs = {
        to_last: bare(opened, contexts, rows, whole=False),
        "bare pass of the whole model": bare(opened, contexts, rows, whole=True),
        "ours": ours(opened, contexts, rows, part),
        "SAELens' way": saelens(opened, contexts, rows, other),
    }
    device = str(opened.model.device)
    seconds = medians(jobs, rounds, torch.cuda.synchronize if device.startswith("cuda") else lambda: None)
    tokens = sum(len(c.ids) for c in contexts)
    rows_out = [
        [
            name,
            f"{seconds[name]:.2f} s",
            f"{tokens / seconds[name]:,.0f}",
            f"{seconds[to_last] / seconds[name]:.2f}",
            f"{extra_megabytes(job, device):.0f} MB",
        ]
        for name, job in jobs.items()
    ]
    head = ["", "median", "tokens/s", "rate, bare to the last layer = 1", "extra memory"]
    table(f"{tokens:,} tokens, {len(contexts)} contexts, {len(opened.dictionaries)} dictionaries", head, rows_out)
    fired, maximum = other[0]
    for n, (source, own) in enumerate(part[0].tables.items()):
        apart = int((own.fired.float() - fired[n]).abs().sum())
        print(
            f"{source}: {int(own.fired.sum()):,} firings, of SAELens' way {apart:,} fewer or more; "
            f"maxima differ in {int((own.maximum - maximum[n]).abs().gt(1e-2 * maximum[n]).sum())} features "
            "(attention sinks are left out here)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8_000)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument(
        "--text", action="append", default=[], help="files or hf://OWNER/NAME; the sample of saescope otherwise"
    )
    chosen = parser.parse_args()
    quiet_libraries()
    print(machine(chosen.device))
    opened = open_set(Open(id=1, device=chosen.device), Job())
    documents = documents_of(tuple(chosen.text))
    contexts: list[Context] = list(contexts_of(opened, documents, 128, chosen.tokens))
    compare(opened, contexts, chosen.rows, chosen.rounds)


if __name__ == "__main__":
    main()
