"""Effects of every feature over a data set of prompts: summed over tokens, averaged over the pairs.

The effects are those of circuits (`engine.circuits.effects`; Marks et al. 2024), with their sign: metric(clean) −
metric(node at its baseline), the patch prompt's value or zero. A feature that helps the clean prompt's answer has a
positive effect; feature-circuits' own numbers, m(patch) − m(clean), have the same sign, for its metric is the negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.circuit_results import Method, MetricKind
from engine.circuits.basis import DictionaryBasis
from engine.circuits.effects import SiteEffects, attrib, exact, integrated
from engine.circuits.examples import Example, Skipped, batches, from_pairs
from engine.circuits.gather import gathered
from engine.circuits.goal import Goal, token_ids
from engine.circuits.precision import computing_in
from engine.circuits.workspace import Workspace, workspace
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.memory.use import telling_out_of_memory
from engine.opening import OpenSet
from engine.prompts.datasets import PromptSet
from engine.protocol import Pair
from engine.studies.measure import Growing
from engine.text import quoted

STEPS = 10
"""Of integrated gradients, as feature-circuits takes them."""
BUDGET = 2000
"""Nodes that `exact` measures, in all; the others keep the plain gradient."""
_EXAMPLES = 16
"""Pairs at a time: what is there so far is shown between them."""
_TOLD = 10
"""Pairs that could not be used, told one by one."""


@dataclass
class MeanEffects:
    """Mean effects over the pairs read so far.

    Attributes:
        features: by source, float32 [d_sae] on the CPU, in units of the metric (logits).
        errors: by source, the effect of what the dictionary does not explain.
        kind: `difference` (logit answer − logit other answer), or `logit` where pairs have one answer.
        clean: mean metric on the clean prompts.
        patch: mean metric on the patch prompts; None where the baseline is zero.
        examples: pairs that these are means over.
        total: pairs that can be used; more than `examples` while it grows.
        skipped: pairs that cannot be used, and why.
        unmeasured: for `exact`, how many nodes keep a gradient, in all or part; 0 for other methods.
        at_sink: pairs that can be used and differ in their first token, an attention sink.
    """

    kind: MetricKind
    features: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    clean: float = 0.0
    patch: float | None = None
    examples: int = 0
    total: int = 0
    skipped: tuple[Skipped, ...] = ()
    unmeasured: int = 0
    at_sink: int = 0

    @property
    def effect(self) -> float | None:
        """The total effect, mean of metric(clean) − metric(patch); None where the baseline is zero."""
        return None if self.patch is None else self.clean - self.patch

    @property
    def finished(self) -> bool:
        """Whether all pairs that can be used have been read."""
        return self.examples == self.total


def examples_of(opened: OpenSet, prompts: PromptSet, where: str = "") -> tuple[list[Example], list[Skipped]]:
    """The pairs of a data set that can be used, and the others with the reason.

    Args:
        where: of two models, in which.

    Raises:
        BadRequest: none can be used, or only some have a patch prompt or a second answer.
    """
    try:
        return from_pairs(opened, prompts.pairs)
    except BadRequest as error:
        none = error.message.startswith("None of")  # its own remedy is that of circuits
        remedy = "`saescope prompts check` says what is wrong with each." if none else error.remedy
        raise BadRequest(f"{prompts.name}{where}: {error.message}", remedy) from None


def mean_effects(
    opened: OpenSet,
    pairs: Sequence[Pair],
    method: Method,
    dictionaries: Sequence[Dictionary],
    growing: Growing,
    *,
    grown: Callable[[MeanEffects], None] | None = None,
    steps: int = STEPS,
    budget: int = BUDGET,
    what: str = "effects",
) -> MeanEffects:
    """Mean effect of every feature and of every error on the metric, over all tokens of all pairs.

    Each dictionary is taken alone, so several may read one site. Pairs go through the model sixteen at a time and
    nothing of them is kept, so memory does not grow with their number. In float32, whatever the model is open in.

    Args:
        pairs: with a patch prompt each (the baseline), or none of them (zero; attention sinks keep their clean value).
        method: `attrib` (one gradient), `ig` (`steps` gradients), `exact` (one run a node, at most `budget` of them).
        dictionaries: of `opened`; at least one.
        grown: called after some of the pairs with the means so far, where `growing.is_due`.
        what: named in progress, e.g. the data set.

    Raises:
        BadRequest: no pair can be used, some pairs have a patch prompt and some none, no dictionary or a temporal one.
        Cancelled: the job was cancelled.
    """
    if not dictionaries:
        raise BadRequest("No dictionary is open.", "Open one with --dictionary.")
    examples, skipped = from_pairs(opened, pairs)
    with telling_out_of_memory(), computing_in(opened.model, torch.float32) as dtype:
        bases = [DictionaryBasis(dictionary.in_precision(dtype)) for dictionary in dictionaries]
        sums = _Sums(bases, examples, tuple(skipped))
        pieces = list(_pieces(examples))
        share = max(1, budget // (len(pieces) * len(bases)))
        for piece in pieces:
            growing.rest()

            def progress(done: int, total: int, piece: Sequence[Example] = piece) -> None:
                now = sums.examples + len(piece) * done / max(total, 1)
                growing.progress(f"{method} {what}", round(100 * now / len(examples)), 100)

            progress(0, 1)
            work = _workspace(opened, bases, piece, growing)
            sums.add(work, _effects(work, method, steps, share, progress))
            if grown is not None and growing.is_due and sums.examples < len(examples):
                grown(sums.mean())
    return sums.mean()


def _pieces(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Examples of one length each, a few at a time."""
    for batch in batches(examples):
        for start in range(0, len(batch), _EXAMPLES):
            yield batch[start : start + _EXAMPLES]


def _workspace(
    opened: OpenSet, bases: Sequence[DictionaryBasis], piece: Sequence[Example], growing: Growing
) -> Workspace:
    device = opened.model.device
    patches = [list(e.patch) for e in piece if e.patch is not None]
    against = token_ids([list(e.against) for e in piece], device) if piece[0].against else None
    goal = Goal(
        "difference" if piece[0].against else "logit", token_ids([list(e.targets) for e in piece], device), against
    )
    return workspace(
        opened.model,
        bases,
        token_ids([list(e.ids) for e in piece], device),
        token_ids(patches, device) if patches else None,
        lambda logits: goal,
        "pass-through",
        growing.job,
    )


def _effects(
    work: Workspace, method: Method, steps: int, budget: int, progress: Callable[[int, int], None]
) -> dict[str, SiteEffects]:
    """Effects at every site of one batch; `budget` counts nodes of one site."""
    found = attrib(work)
    if method == "attrib":
        return found
    for number, source in enumerate(work.states):

        def within(done: int, total: int, number: int = number) -> None:
            progress(number * total + done, len(work.states) * total)

        if method == "ig":
            found[source] = integrated(work, source, steps, found[source].gradient, within)
        else:
            found[source] = exact(work, source, found[source], budget, within)
    return found


class _Sums:
    """Sums over the examples read so far, in float64."""

    def __init__(
        self, bases: Sequence[DictionaryBasis], examples: Sequence[Example], skipped: tuple[Skipped, ...]
    ) -> None:
        self._effects = {b.source: torch.zeros(b.d_sae + 1, dtype=torch.float64) for b in bases}
        self._left = {b.source: torch.zeros(b.d_sae + 1, dtype=torch.bool) for b in bases}
        self._order = [b.source for b in bases]
        self._clean = self._patch = 0.0
        self._has_patch = False
        self._kind: MetricKind = "difference" if examples[0].against else "logit"
        self._total, self._skipped = len(examples), skipped
        self._at_sink = sum(e.patch is not None and e.patch[0] != e.ids[0] for e in examples)
        self.examples = 0

    def add(self, work: Workspace, effects: dict[str, SiteEffects]) -> None:
        """One batch more."""
        for source, state in work.states.items():
            table = gathered([(state, effects[source])], "sum", 1)
            keys, values = table.keys.cpu(), table.values.cpu()
            self._effects[source].index_add_(0, keys, values[:, 0].double())
            self._left[source][keys] |= (values[:, 3] > 0) & (values[:, 0] != 0)
        self._clean += float(work.clean.sum())
        if work.patched is not None:
            self._has_patch = True
            self._patch += float(work.patched.sum())
        self.examples += len(work.examples)

    def mean(self) -> MeanEffects:
        n = max(self.examples, 1)
        means = {source: (self._effects[source] / n).float() for source in self._order}
        return MeanEffects(
            self._kind,
            {source: mean[:-1] for source, mean in means.items()},
            {source: float(mean[-1]) for source, mean in means.items()},
            self._clean / n,
            self._patch / n if self._has_patch else None,
            self.examples,
            self._total,
            self._skipped,
            sum(int(left.sum()) for left in self._left.values()),
            self._at_sink,
        )


# --- words ------------------------------------------------------------------------------------------------------------


def metric_notes(means: Sequence[MeanEffects]) -> list[str]:
    """What has to be known of effects: their sign, the metric they are of, and the baseline."""
    notes = [
        "An effect is metric(clean) − metric(feature at its baseline), summed over all tokens: positive where the "
        "feature helps the clean prompt's answer. For pairs with two answers that is also feature-circuits' sign.",
    ]
    kinds = {mean.kind for mean in means}
    if "difference" in kinds:
        notes.append("The metric is logit(answer) − logit(patch answer) at the last token.")
    if "logit" in kinds:
        notes.append("The metric is the answer's logit at the last token where a pair has no second answer.")
    if any(mean.patch is None for mean in means):
        notes.append("Without a patch prompt the baseline is zero; the first token and other sinks keep their value.")
    return notes


def pairs_notes(name: str, mean: MeanEffects) -> list[str]:
    """What has to be known of the means over one data set: pairs still to come or left out, effects not measured."""
    notes = []
    if not mean.finished:
        notes.append(f"{name}: means over the first {mean.examples} of {mean.total} pairs.")
    if mean.unmeasured:
        notes.append(f"{name}: {mean.unmeasured:,} effects are gradients in part: exact measures the strongest.")
    if mean.at_sink:
        notes.append(
            f"{name}: {mean.at_sink} pairs differ in their first token, an attention sink, where features mean "
            "little; with --bos on it is BOS."
        )
    if mean.skipped:
        notes.append(f"{name}: {len(mean.skipped)} pairs left out.")
        notes += [f"{name}: {quoted(s.pair.clean)}: {s.reason}" for s in mean.skipped[:_TOLD]]
    return notes
