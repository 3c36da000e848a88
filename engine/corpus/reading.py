"""What dictionaries make of a stream of contexts: one forward pass a batch, every dictionary read on the way.

First tokens and attention sinks (norm over four times the median) do not count: they are a hundred times longer than
any other token, and every figure would be theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.dictionary import Dictionary
from engine.job import Job
from engine.model import LanguageModel
from engine.reading import SINK_FACTOR
from engine.training.corpus import Context, batches


@dataclass(frozen=True)
class Entries:
    """The activations that are not zero, [m] each, by row: of feature `features[i]` at token `rows[i]` of the batch."""

    rows: Tensor
    features: Tensor
    values: Tensor


@dataclass(frozen=True)
class Read:
    """What one dictionary makes of a batch of n tokens laid end to end.

    Attributes:
        x: what its site held, [n, d_in], float32.
        counts: bool [n], which tokens count.
        entries: its activations on tokens that count.
    """

    dictionary: Dictionary
    x: Tensor
    counts: Tensor
    entries: Entries

    @property
    def counted(self) -> int:
        return int(self.counts.sum())

    def dense(self) -> Tensor:
        """The same as [n, d_sae], zero where a token does not count."""
        out = self.x.new_zeros(len(self.x), self.dictionary.d_sae)
        out[self.entries.rows, self.entries.features] = self.entries.values
        return out


@dataclass(frozen=True)
class Batch:
    """Several contexts, their n tokens laid end to end.

    Attributes:
        start: how many contexts came before in the stream.
        ids, context, inner: of every token its id, which of `contexts` it is in and where, [n].
        reads: by source.
    """

    start: int
    contexts: list[Context]
    ids: NDArray[np.int32]
    context: NDArray[np.int32]
    inner: NDArray[np.int32]
    reads: dict[str, Read]


def read_batches(
    model: LanguageModel,
    dictionaries: Sequence[Dictionary],
    contexts: Iterable[Context],
    job: Job,
    rows: int = 16,
) -> Iterator[Batch]:
    """The batches of a stream, in order; the pass stops after the last dictionary's site.

    Raises:
        Cancelled: between two blocks of the model.
    """
    stream = iter(contexts)
    sites = {d.site for d in dictionaries}
    start = 0
    while group := list(islice(stream, rows)):
        padded, _ = next(batches(group, rows))
        lengths = [len(c.ids) for c in group]
        inner = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
        real = torch.from_numpy(np.arange(padded.shape[1]) < np.array(lengths)[:, None]).to(model.device)
        counted = torch.from_numpy(inner > 0).to(model.device)
        with torch.inference_mode():
            caught = model.capture(torch.from_numpy(padded).to(model.device, torch.long), sites, job)
            reads = {
                d.source: _read(d, caught[d.site].flatten(2)[real].float(), counted, lengths) for d in dictionaries
            }
        yield Batch(
            start=start,
            contexts=group,
            ids=np.concatenate([c.ids for c in group]),
            context=np.repeat(np.arange(len(group), dtype=np.int32), lengths),
            inner=inner,
            reads=reads,
        )
        start += len(group)


def _read(dictionary: Dictionary, x: Tensor, counted: Tensor, lengths: list[int]) -> Read:
    norms = x.norm(dim=1)
    counts = counted & (norms <= SINK_FACTOR * norms.median())
    if dictionary.whole_prompt:
        dense = torch.cat([dictionary.encode(part, whole=True) for part in torch.split(x, lengths)])
    elif dictionary.selects:
        sparse = dictionary.encode_sparse(x)
        values = sparse.values * counts[:, None]
        at, place = values.nonzero(as_tuple=True)
        return Read(dictionary, x, counts, Entries(at, sparse.indices[at, place], values[at, place]))
    else:
        dense = dictionary.encode(x)
    dense = dense * counts[:, None]
    at, feature = dense.nonzero(as_tuple=True)
    return Read(dictionary, x, counts, Entries(at, feature, dense[at, feature]))
