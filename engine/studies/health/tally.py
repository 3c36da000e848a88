"""What is summed up over text for dictionary health: who fires, how strongly, and what is reconstructed.

As in `engine.training.tally`, first tokens and attention sinks (norm over four medians of a batch) do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.dictionary import Dictionary
from engine.job import Job
from engine.model import LanguageModel
from engine.reading import SINK_FACTOR
from engine.training.corpus import Context, batches
from engine.training.tally import Variance

Arrays = Mapping[str, NDArray[np.generic]]


class Firing:
    """The sums of one dictionary, kept where it computes.

    Attributes:
        fired: [d_sae], on how many counted tokens each feature is not zero.
        total, maximum: [d_sae], the sum and the largest of its activations, by size where they have a sign.
        variance: of what was to be reconstructed, and of what was missed.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary = dictionary
        width, device = dictionary.d_sae, dictionary.device
        self.fired = torch.zeros(width, dtype=torch.long, device=device)
        self.total = torch.zeros(width, dtype=torch.float64, device=device)
        self.maximum = torch.zeros(width, dtype=dictionary.precision, device=device)
        self.variance = Variance(dictionary.d_out)

    @property
    def counted(self) -> int:
        """Tokens that count."""
        return self.variance.count

    @property
    def frequency(self) -> Tensor:
        """[d_sae] share of counted tokens on which each feature fires."""
        return (self.fired.double() / max(self.counted, 1)).cpu()

    @property
    def mean(self) -> Tensor:
        """[d_sae] mean activation where it fires; NaN where it never did."""
        return (self.total / self.fired).cpu()

    @property
    def l0(self) -> float:
        """Features active per counted token."""
        return int(self.fired.sum()) / max(self.counted, 1)

    def add(self, x: Tensor, target: Tensor, keep: Tensor, lengths: list[int]) -> None:
        """Take n tokens: what was read [n, d_in], what stands where the dictionary writes [n, d_out], which count [n],
        and the lengths of the contexts they are of."""
        own = self.dictionary
        read = x[keep]
        if own.selects and not own.whole_prompt:
            sparse = own.encode_sparse(read)
            rebuilt = own.decode_sparse(sparse, read)
            at, place = sparse.values.nonzero(as_tuple=True)
            self._count(sparse.indices[at, place], sparse.values[at, place])
        else:
            if own.whole_prompt:
                parts = [(own.encode(part, whole=True), part) for part in torch.split(x, lengths)]
                rebuilt = torch.cat([own.decode(acts, part) for acts, part in parts])[keep]
                dense = torch.cat([acts for acts, _ in parts])[keep]
            else:
                dense = own.encode(read)
                rebuilt = own.decode_active(dense, read)
            at, feature = dense.nonzero(as_tuple=True)
            self._count(feature, dense[at, feature])
        wanted = target[keep]
        self.variance.add(wanted, wanted - rebuilt)

    def _count(self, features: Tensor, values: Tensor) -> None:
        sizes = values.abs()
        self.fired += torch.bincount(features, minlength=len(self.fired))
        self.total.index_add_(0, features, sizes.double())
        self.maximum.scatter_reduce_(0, features, sizes.to(self.maximum.dtype), "amax")

    # --- kept in a file -----------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All of it, to be kept."""
        own = self.variance
        return {
            "fired": self.fired.cpu().numpy(),
            "total": self.total.cpu().numpy(),
            "maximum": self.maximum.cpu().numpy(),
            "sum": own.sum.numpy(),
            "moments": np.array([own.count, own.error, own.square], dtype=np.float64),
        }

    def restore(self, arrays: Arrays) -> None:
        """Go on from what `arrays` gave. Raises KeyError or ValueError where that is not of this dictionary."""
        for name in ("fired", "total", "maximum"):
            mine = getattr(self, name)
            mine.copy_(torch.from_numpy(arrays[name].reshape(mine.shape)))
        self.variance.sum.copy_(torch.from_numpy(arrays["sum"].reshape(self.variance.sum.shape)))
        count, error, square = arrays["moments"].tolist()
        self.variance.count, self.variance.error, self.variance.square = int(count), error, square


def read_contexts(model: LanguageModel, firings: Sequence[Firing], contexts: list[Context], job: Job) -> None:
    """One forward pass over a batch of contexts, which ends after the last site; every dictionary takes its tokens.

    Raises:
        Cancelled: between two blocks of the model; nothing was counted then.
    """
    padded, _ = next(batches(contexts, len(contexts)))
    lengths = [len(context.ids) for context in contexts]
    sites = {site for f in firings for site in (f.dictionary.site, f.dictionary.write_site)}
    inner = torch.arange(padded.shape[1], device=model.device)
    real = inner < torch.tensor(lengths, device=model.device)[:, None]
    body = (inner > 0).expand_as(real)[real]
    with torch.inference_mode():
        caught = model.capture(torch.from_numpy(padded).to(model.device, torch.long), sites, job)
        tokens = {site: x.flatten(2)[real].float() for site, x in caught.items()}
        for firing in firings:
            x = tokens[firing.dictionary.site]
            norms = x.norm(dim=1)
            keep = body & (norms <= SINK_FACTOR * norms[body].median())
            firing.add(x, tokens[firing.dictionary.write_site], keep, lengths)
