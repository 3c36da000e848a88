"""Runs of a data set with features ablated: the group taken out, or everything else.

Ablation is that of circuits (`engine.circuits.faithfulness`; Marks et al. 2024) at all positions at once. Features of
one dictionary act together: a group is a mask, never one index.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from engine.circuit_results import ErrorMode
from engine.circuits.basis import Basis, Codes
from engine.circuits.examples import Example, batches
from engine.circuits.faithfulness import NodeSet, Replacement, ablated, replacement
from engine.circuits.goal import Goal, token_ids
from engine.circuits.passes import joined
from engine.circuits.states import SiteState
from engine.circuits.workspace import Workspace, workspace
from engine.job import Job
from engine.memory.use import available_bytes
from engine.model import LanguageModel, Visitor
from engine.results import FeatureRef
from engine.sites import Site

To: TypeAlias = Literal["zero", "resample"]
_SHARE = 0.1
"""Of the memory that is free, how much the patch values of one batch may take."""


@dataclass
class _Batch:
    """Some examples. Patch values are sparse in `work.states`, and dense only while they are used."""

    work: Workspace
    to: To

    def replacement(self, source: str) -> Replacement:
        """What the nodes of a site become."""
        state = self.work.states[source]
        return replacement(state, None, "zero", 0) if self.to == "zero" else _patch_values(self.work, state)

    def replacements(self) -> dict[str, Replacement]:
        return {source: self.replacement(source) for source in self.work.states}


class Runs:
    """A data set read once, ready for groups of features to be ablated; all answers are means over its examples.

    Attributes:
        whole: m(M), the metric of the model as it is.
        examples: how many.
    """

    def __init__(
        self,
        model: LanguageModel,
        bases: Sequence[Basis],
        examples: Sequence[Example],
        to: To,
        errors: ErrorMode,
        job: Job,
    ) -> None:
        self._errors: ErrorMode = errors
        self._batches = [_prepared(model, bases, part, to, job) for part in _parts(bases, examples, to, model.device)]
        self.whole = _mean(b.work.clean for b in self._batches)
        self.examples = len(examples)

    def empty(self) -> float:
        """m(∅): every feature of every dictionary ablated."""
        return _mean(ablated(b.work, None, b.replacements(), self._errors) for b in self._batches)

    def kept(self, features: Iterable[FeatureRef]) -> float:
        """m(C): every feature but these ablated."""
        members = _by_source(features)
        return _mean(ablated(b.work, _nodes(b.work, members), b.replacements(), self._errors) for b in self._batches)

    def without(self, features: Iterable[FeatureRef]) -> float:
        """m(rest): these ablated and nothing else; with errors removed, those too."""
        members = _by_source(features)
        if self._errors == "keep":
            return _mean(_taken_out(b, members) for b in self._batches)
        return _mean(
            ablated(b.work, _nodes(b.work, members), b.replacements(), self._errors, complement=True)
            for b in self._batches
        )


def _parts(
    bases: Sequence[Basis], examples: Sequence[Example], to: To, device: torch.device
) -> Iterator[list[Example]]:
    """Examples of one length each, as many as the patch values of all sites leave room for."""
    per_token = 4 * sum(basis.d_sae for basis in bases) if to == "resample" else 0
    room = _SHARE * available_bytes(device)
    for batch in batches(examples):
        size = max(1, int(room / (per_token * len(batch[0].ids)))) if per_token else len(batch)
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def _prepared(model: LanguageModel, bases: Sequence[Basis], examples: Sequence[Example], to: To, job: Job) -> _Batch:
    job.check()
    patches = [list(e.patch) for e in examples if e.patch is not None] if to == "resample" else []
    against = token_ids([list(e.against) for e in examples], model.device) if examples[0].against else None
    targets = token_ids([list(e.targets) for e in examples], model.device)
    goal = Goal("difference" if against is not None else "logit", targets, against)
    ids = token_ids([list(e.ids) for e in examples], model.device)
    patch_ids = token_ids(patches, model.device) if patches else None
    work = workspace(model, bases, ids, patch_ids, lambda _: goal, "pass-through", job)
    return _Batch(work, to)


def _patch_values(work: Workspace, state: SiteState) -> Replacement:
    """What the nodes of a site are on each example's own patch prompt."""
    b, t, d = state.shape
    coefficients = state.x.new_zeros(b * t, state.basis.d_sae)
    values = state.clean + state.delta
    coefficients[state.rows, state.features] = values
    written, read = (work.other[s] for s in (state.basis.write_site, state.basis.read_site))
    carried = state.basis.decode(Codes(state.rows, state.features, values), b * t, d)
    error = written.reshape(b * t, d) - carried - state.basis.constant(read.reshape(b * t, -1))
    return Replacement(coefficients.view(b, t, -1), error.view(b, t, d))


# --- groups -----------------------------------------------------------------------------------------------------------


def _by_source(features: Iterable[FeatureRef]) -> dict[str, list[int]]:
    members: defaultdict[str, list[int]] = defaultdict(list)
    for ref in features:
        members[ref.source].append(ref.index)
    return dict(members)


def _mask(state: SiteState, indices: Sequence[int]) -> Tensor:
    mask = torch.zeros(state.basis.d_sae, dtype=torch.bool, device=state.x.device)
    mask[list(indices)] = True
    return mask


def _nodes(work: Workspace, members: Mapping[str, Sequence[int]]) -> dict[str, NodeSet]:
    """The group as a node set at all positions; what becomes of errors is said beside it."""
    return {
        source: NodeSet(
            _mask(work.states[source], indices)[None],
            torch.zeros(1, dtype=torch.bool, device=work.states[source].x.device),
        )
        for source, indices in members.items()
    }


# --- taking a group out -----------------------------------------------------------------------------------------------


def _taken_out(batch: _Batch, members: Mapping[str, Sequence[int]]) -> Tensor:
    """The metric of each example [B] without a group, errors kept.

    At the first site of the group nothing has changed yet: its change is known, and the run begins there.
    """
    work = batch.work
    ordered = [source for source in work.states if source in members]
    first, later = work.states[ordered[0]], ordered[1:]
    b, t, d = first.shape
    mine = _mask(first, members[ordered[0]])[first.features]
    change = first.basis.decode(Codes(first.rows[mine], first.features[mine], first.delta[mine]), b * t, d)
    visitors = joined(
        _taking_out(work.states[source], _mask(work.states[source], members[source]), batch.replacement(source))
        for source in later
    )
    with torch.no_grad():
        logits = work.run.from_site(first.basis.write_site, first.x + change.view(b, t, d), work.examples, visitors)
    return work.goal(logits, work.examples)


def _taking_out(state: SiteState, wanted: Tensor, new: Replacement) -> dict[Site, Visitor]:
    """Visitors that put the wanted features [F] of a site at their ablation value, whatever reaches it."""
    b, t, d = state.shape
    basis = state.basis
    values = (new.coefficients * wanted).expand(b, -1, -1).reshape(b * t, -1)
    rows, columns = values.nonzero(as_tuple=True)
    replaced = basis.decode(Codes(rows, columns, values[rows, columns]), b * t, d)
    kept = state.keep.reshape(b * t, 1)
    seen: list[Tensor] = []

    def read(x: Tensor) -> None:
        seen[:] = [x]

    def write(x: Tensor) -> Tensor:
        source = seen.pop() if seen else state.read  # it may read before the run begins, where nothing has changed
        return put(source, x)

    def put(source: Tensor, x: Tensor) -> Tensor:
        codes = basis.codes(source.reshape(b * t, -1))
        mine = wanted[codes.features]
        there = basis.decode(Codes(codes.rows[mine], codes.features[mine], codes.values[mine]), b * t, d)
        change = (replaced - there).masked_fill(kept, 0)
        return x + change.reshape(x.shape)

    if basis.read_site == basis.write_site:
        return {basis.write_site: lambda x: put(x, x)}
    return {basis.read_site: read, basis.write_site: write}


def _mean(parts: Iterable[Tensor]) -> float:
    return float(torch.cat(list(parts)).double().mean())
