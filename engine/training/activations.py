"""Activations on disk: one bfloat16 file per site, written once, read in shuffled batches.

Harvesting is the slow half of training. Kept on disk, it is done once, goes on where it was stopped, and serves
every dictionary and every setting one wants to try.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.errors import BadRequest, SaescopeError
from engine.job import Job
from engine.model import LanguageModel
from engine.sites import Site, parse_hook
from engine.training.corpus import Context, batches

_BLOCK = 512
_POOL_BLOCKS = 512


class ActivationStore:
    """A folder of activations: `meta.json` and, per site, a raw [tokens, d] bfloat16 file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._meta = folder / "meta.json"

    @property
    def meta(self) -> dict[str, object]:
        if not self._meta.is_file():
            raise BadRequest(f"{self.folder} holds no activations.")
        return json.loads(self._meta.read_text())  # type: ignore[no-any-return]

    def file(self, site: Site) -> Path:
        return self.folder / f"{site.hook}.bf16"

    def tokens(self, site: Site, width: int) -> int:
        file = self.file(site)
        return file.stat().st_size // (2 * width) if file.is_file() else 0

    def write(
        self,
        model: LanguageModel,
        sites: list[Site],
        contexts: list[Context],
        rows: int,
        identity: dict[str, object],
        job: Job,
    ) -> None:
        """Run the model over the contexts and append the activation of every token.

        An interrupted harvest goes on after the last whole batch; `identity` must be the same.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        meta = {**identity, "hooks": [s.hook for s in sites], "d": model.d_model, "rows": rows}
        done = 0
        if self._meta.is_file():
            old = self.meta
            done = int(old.pop("batches_done"))  # type: ignore[call-overload]
            if old != meta:
                raise BadRequest(
                    f"{self.folder} holds activations of another run.",
                    "Give another folder or delete this one.",
                )
        total = sum(len(c.ids) for c in contexts)
        self._check_space(total * model.d_model * 2 * len(sites))
        written = sum(len(c.ids) for c in contexts[: done * rows])
        for site in sites:
            with self.file(site).open("ab") as file:
                file.truncate(written * model.d_model * 2)
        for number, (ids, group) in enumerate(batches(contexts, rows)):
            if number < done:
                continue
            caught = model.capture(torch.from_numpy(ids).to(model.device, torch.long), sites, job)
            keep = torch.zeros(ids.shape, dtype=torch.bool)
            for row, context in enumerate(group):
                keep[row, : len(context.ids)] = True
            for site in sites:
                rows_out = caught[site][keep.to(model.device)].to("cpu", torch.bfloat16)
                with self.file(site).open("ab") as file:
                    file.write(rows_out.view(torch.int16).numpy().tobytes())
            written += int(keep.sum())
            self._meta.write_text(json.dumps({**meta, "batches_done": number + 1}))
            job.progress("harvesting activations", written, total)

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        present = sum(f.stat().st_size for f in self.folder.glob("*.bf16"))
        if needed - present > free:
            raise SaescopeError(
                f"The activations need {needed / 1e9:.1f} GB and {self.folder} has {free / 1e9:.1f} GB free.",
                "Use fewer tokens or sites, or another folder.",
            )

    def open(self, site: Site, width: int) -> Tensor:
        """The activations of a site as a memory-mapped bfloat16 tensor [tokens, d]."""
        file = self.file(site)
        mapped = np.memmap(file, dtype=np.int16, mode="c", shape=(self.tokens(site, width), width))
        return torch.from_numpy(mapped).view(torch.bfloat16)

    def sites(self) -> list[Site]:
        return [parse_hook(str(h)) for h in self.meta["hooks"]]  # type: ignore[attr-defined]


def shuffled_batches(data: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    """Endless float32 batches [batch, d]: blocks of 512 rows drawn without replacement, mixed in a pool.

    The pool keeps memory bounded; contexts were shuffled before harvesting, so blocks hold unrelated text.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = len(data) // _BLOCK
    if blocks == 0:
        raise BadRequest(f"{len(data)} activations are too few to train on.", "Give more text.")
    while True:
        order = torch.randperm(blocks, generator=generator)
        for pool_start in range(0, blocks, _POOL_BLOCKS):
            chosen = order[pool_start : pool_start + _POOL_BLOCKS].sort().values
            pool = torch.cat([data[b * _BLOCK : (b + 1) * _BLOCK] for b in chosen.tolist()])
            pool = pool[torch.randperm(len(pool), generator=generator)]
            for start in range(0, len(pool) - batch + 1, batch):
                yield pool[start : start + batch].float()
