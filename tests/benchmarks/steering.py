"""Decoding and steering beside Hugging Face's and TransformerLens' `generate`. `python -m tests.benchmarks.steering`.

All on the default set in one process, medians of several rounds. The obvious way to steer is a forward hook and
`generate`, which reads the prompt again whenever a control moves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from engine.headless import Headless
from engine.job import Job
from engine.opening import OpenSet
from engine.protocol import FeatureRef, Intervention, Open
from engine.quiet import quiet_libraries
from engine.steering.continuing import Continuation, Rules
from engine.steering.decoding import Decoding
from engine.steering.interventions import compile_program
from engine.steering.prefix import Prefix
from engine.steering.sampling import Sampling
from tests.benchmarks.features import TEXT
from tests.benchmarks.measuring import machine, medians, table

LONG, SHORT, NEW = 64, 32, 50
_GREEDY = Sampling(temperature=0)
_SOURCE = "13-res-sc"


def one(source: str, kind: str = "add") -> Intervention:
    return Intervention(FeatureRef(source, 7), 20.0, kind)  # type: ignore[arg-type]


class Bench:
    """The open default set and the jobs."""

    def __init__(self, device: str) -> None:
        engine = Headless(lambda *_: None)
        engine.ask(Open(id=1, device=device, dtype="float32"))
        self.opened: OpenSet = engine.engine.opened
        self.model = self.opened.model
        self.model.__dict__["end_ids"] = frozenset()  # let every text run to its full length
        ids = self.opened.ids(TEXT, chat=False)
        self.short, self.long = ids[:SHORT], ids[:LONG]
        self.sites = {d.site for d in self.opened.dictionaries.values()}

    def prefix(self, ids: list[int]) -> Prefix:
        return Prefix(self.model, ids, self.sites, Job())

    def hooked(self) -> AbstractContextManager[object]:
        """The obvious way to steer: a hook that adds the vector."""
        dictionary = self.opened.dictionaries[_SOURCE]
        vector = 20.0 * dictionary.decoder[7]
        return self.model.visiting({dictionary.site: lambda x: x + vector.to(x.dtype)})

    # --- others -------------------------------------------------------------------------------------------------

    def hugging_face(self, ids: list[int], rows: int, new: int, *, steered: bool = False) -> Callable[[], None]:
        batch = torch.tensor([ids] * rows, device=self.model.device)
        mask = torch.ones_like(batch)

        def run() -> None:
            with self.hooked() if steered else nullcontext():
                self.model.hf.generate(
                    batch, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False
                )

        return run

    def transformer_lens(self, ids: list[int], new: int) -> Callable[[], None]:
        """The Bridge of the same weights, steered by its own hooks."""
        bridge = self.model._bridge
        batch = torch.tensor([ids], device=self.model.device)
        vector = 20.0 * self.opened.dictionaries[_SOURCE].decoder[7]

        def add(x: Tensor, hook: object) -> Tensor:
            return x + vector.to(x.dtype)

        def run() -> None:
            with torch.no_grad(), bridge.hooks(fwd_hooks=[("blocks.13.hook_resid_post", add)]):
                bridge.generate(batch, max_new_tokens=new, do_sample=False, stop_at_eos=False, verbose=False)

        return run

    # --- ours ---------------------------------------------------------------------------------------------------

    def decoding(self, prefix: Prefix, rows: list[list[Intervention] | None]) -> Callable[[], None]:
        """The bare loop: rows that are plain (None) or steered."""

        def run() -> None:
            programs = [None if r is None else compile_program(self.opened, r, prefix.ids) for r in rows]
            decoding = Decoding(prefix, programs, Job())
            with decoding.running() as logits:
                for _ in range(NEW - 1):
                    logits = decoding.advance(logits.argmax(1).tolist())

        return run

    def both_arms(self, ids: list[int]) -> Callable[[], None]:
        """What the first run of a prompt does: read it, both arms, tokens drawn."""

        def run() -> None:
            program = compile_program(self.opened, [one(_SOURCE)], ids)
            for _ in Continuation(self.prefix(ids), program, Rules(NEW, _GREEDY), Job()).steps():
                pass

        return run

    def moved(self, prefix: Prefix, source: str) -> Callable[[], None]:
        """From a moved control to the first steered token."""
        for _ in Continuation(prefix, compile_program(self.opened, [one(source)], prefix.ids), _RULES, Job()).steps():
            pass

        def run() -> None:
            program = compile_program(self.opened, [one(source)], prefix.ids)
            next(Continuation(prefix, program, _RULES, Job()).steps())

        return run


_RULES = Rules(2, _GREEDY)


def first_token(bench: Bench, rounds: int, synchronise: Callable[[], None]) -> None:
    prefix = bench.prefix(bench.long)
    sources = list(bench.opened.dictionaries)
    jobs = {
        "TransformerLens generate, one token": bench.transformer_lens(bench.long, 1),
        "Hugging Face generate, one token": bench.hugging_face(bench.long, 1, 1, steered=True),
        **{f"ours, {source}": bench.moved(prefix, source) for source in (sources[0], _SOURCE, sources[-1])},
    }
    seconds = medians(jobs, rounds, synchronise)
    slowest = seconds["Hugging Face generate, one token"]
    rows = [[name, f"{1000 * s:.0f} ms", f"{slowest / s:.2f}×"] for name, s in seconds.items()]
    table(f"from a moved control to the first steered token, prompt of {LONG} tokens", ["", "", "of generate"], rows)


def speed(bench: Bench, rounds: int, synchronise: Callable[[], None]) -> None:
    sources = list(bench.opened.dictionaries)
    prefix = bench.prefix(bench.short)
    everywhere: list[list[Intervention] | None] = [[one(source) for source in sources]]
    clamped: list[list[Intervention] | None] = [[one(source, "clamp") for source in sources]]
    jobs = {
        "TransformerLens generate, steered": bench.transformer_lens(bench.short, NEW),
        "Hugging Face generate": bench.hugging_face(bench.short, 1, NEW),
        "Hugging Face generate, steered by a hook": bench.hugging_face(bench.short, 1, NEW, steered=True),
        "Hugging Face generate, two texts": bench.hugging_face(bench.short, 2, NEW),
        "ours, plain": bench.decoding(prefix, [None]),
        f"ours, add at {len(sources)} sites": bench.decoding(prefix, everywhere),
        f"ours, clamp at {len(sources)} sites": bench.decoding(prefix, clamped),
        "ours, plain and steered, prompt read and tokens drawn": bench.both_arms(bench.short),
    }
    seconds = medians(jobs, rounds, synchronise)
    generate, plain = seconds["Hugging Face generate"], seconds["ours, plain"]
    rows = [[n, f"{NEW / s:.1f}", f"{generate / s:.2f}×", f"{100 * plain / s:.0f} %"] for n, s in seconds.items()]
    table(f"{NEW} tokens after {SHORT}, float32, greedy", ["", "steps/s", "of generate", "of ours, plain"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    quiet_libraries()
    print(machine(chosen.device))
    synchronise = torch.cuda.synchronize if chosen.device.startswith("cuda") else lambda: None
    first_token(Bench(chosen.device), chosen.rounds, synchronise)
    speed(Bench(chosen.device), chosen.rounds, synchronise)


if __name__ == "__main__":
    main()
