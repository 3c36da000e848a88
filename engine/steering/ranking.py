"""Which features of a prompt matter: ranked by activation, by attribution, and by taking each of them out.

Taking a feature out sets it to zero at every token at once; the dictionary's error stays, and attention sinks keep what
they hold unless asked otherwise. Effects have the sign of `engine.circuit_results`: metric(clean) − metric(without).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from engine.circuit_results import Metric, NodeRef
from engine.circuits.basis import DictionaryBasis
from engine.circuits.effects import SiteEffects, attrib
from engine.circuits.examples import Example, from_prompt
from engine.circuits.gather import strongest, summed
from engine.circuits.goal import Goal, token_ids
from engine.circuits.precision import computing_in
from engine.circuits.scrutiny import moved
from engine.circuits.states import SiteState, sink_places
from engine.circuits.workspace import Workspace, workspace
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.job import Job
from engine.memory.use import telling_out_of_memory
from engine.opening import OpenSet
from engine.requests import RankAblations
from engine.results import FeatureRef, Token
from engine.steering_results import AblationResult, AblationRow


@dataclass(frozen=True)
class _Active:
    """Every feature that fires where it can be taken out, all columns [n]; `states` counts dictionaries."""

    states: Tensor
    features: Tensor
    activation: Tensor
    position: Tensor
    attribution: Tensor


@dataclass(frozen=True)
class _Measured:
    """What taking out features did, [m]; `place` is their row among the active ones."""

    place: Tensor
    effect: Tensor
    kl: Tensor


def rank_ablations(opened: OpenSet, request: RankAblations, job: Job) -> AblationResult:
    """Measure what the strongest features contribute to a metric, beside how strong they are.

    Ranks by activation and by attribution count all active features, the rank by ablation those that were taken out:
    at least the top of both others, so that the overlaps of the tops are exact.

    Raises:
        BadRequest: no dictionary, an empty prompt, an answer that is not one token, or a number below one.
        OutOfMemory: not even one row of a batch fits.
    """
    started = time.perf_counter()
    dictionaries = _chosen(opened, request)
    example = from_prompt(opened, request.prompt, None, request.chat, None, request.target, request.against)
    with telling_out_of_memory(), computing_in(opened.model, torch.float32) as dtype:
        job.progress("reading the prompt")
        used = [d.in_precision(dtype) for d in dictionaries]
        ids = token_ids([list(example.ids)], opened.model.device)
        work = workspace(
            opened.model, [DictionaryBasis(d) for d in used], ids, None, lambda logits: _goal(opened, logits, example),
            "pass-through", job, keep_sinks=not request.keep_sinks,
        )  # fmt: skip
        active = _active(work, {d.source: d for d in used}, attrib(work))
        wanted = max(request.candidates, request.top)
        by_activation, by_attribution = ranks(active.activation), ranks(active.attribution.abs())
        candidates = ((by_activation <= wanted) | (by_attribution <= wanted)).nonzero()[:, 0]
        measured = _take_out(work, active, candidates, job)
        rows = _rows(work, active, measured, by_activation, by_attribution)
        provenance = opened.provenance(
            dictionaries,
            {
                "candidates": request.candidates,
                "error": "kept",
                "sinks": "ablated" if request.keep_sinks else "held",
            },
        )
        metric = _metric(opened, work)
        sinks = torch.stack([sink_places(state.x)[0] for state in work.states.values()]).any(0)
    return AblationResult(
        prompt=request.prompt,
        chat=request.chat,
        tokens=_tokens(opened, example, sinks),
        metric=metric,
        top=request.top,
        measured=len(rows),
        rows=rows,
        shared_activation=_shared(rows, request.top, lambda row: row.by_activation),
        shared_attribution=_shared(rows, request.top, lambda row: row.by_attribution),
        correlation_activation=pearson([r.activation for r in rows], [abs(r.ablation) for r in rows]),
        correlation_attribution=pearson([r.attribution for r in rows], [r.ablation for r in rows]),
        provenance=provenance,
        seconds=time.perf_counter() - started,
    )


def _chosen(opened: OpenSet, request: RankAblations) -> list[Dictionary]:
    for name, value in (("top", request.top), ("candidates", request.candidates)):
        if value < 1:
            raise BadRequest(f"{value} is not a number of features for {name}.", "It is at least 1.")
    if not (found := opened.choose(request.sources)):
        raise BadRequest("No dictionary is open.", "Open one.")
    return found


def _goal(opened: OpenSet, logits: Tensor, example: Example) -> Goal:
    """The logit of the targets, or of the likeliest next token; minus that of what it is compared with."""
    targets = list(example.targets) or [int(logits[0].argmax())]
    if set(targets) == set(example.against):
        name = opened.model.tokenizer.token(targets[0]).text
        raise BadRequest(
            f"The likeliest next token is {name!r}, which it would be compared with: the difference is always zero.",
            "Name the token to explain, or another to compare with.",
        )
    device = logits.device
    if not example.against:
        return Goal("logit", token_ids([targets], device))
    return Goal("difference", token_ids([targets], device), token_ids([list(example.against)], device))


# --- activation and attribution ---------------------------------------------------------------------------------------


def _active(work: Workspace, dictionaries: dict[str, Dictionary], effects: dict[str, SiteEffects]) -> _Active:
    columns = [
        _of_state(number, state, dictionaries[source], effects[source])
        for number, (source, state) in enumerate(work.states.items())
    ]
    return _Active(*(torch.cat(column) for column in zip(*columns, strict=True)))


def _of_state(
    number: int, state: SiteState, dictionary: Dictionary, effects: SiteEffects
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The columns of one dictionary: entries at held places neither count for an activation nor have an effect."""
    free = ~state.keep.flatten()[state.rows]
    rows, features = state.rows[free], state.features[free]
    size = _activations(state, dictionary)[free]
    peaks = strongest(features, torch.stack([size, rows.to(size.dtype)], 1))
    total = summed(features, effects.features[free][:, None]).values[:, 0]
    states = torch.full_like(peaks.keys, number)
    return states, peaks.keys, peaks.values[:, 0], peaks.values[:, 1].long(), total


def _activations(state: SiteState, dictionary: Dictionary) -> Tensor:
    """Raw activations of a state's entries: their coefficients are what a decoder row is multiplied by."""
    value = state.clean
    if dictionary.normalisation != "none" and not dictionary.is_transcoder:
        value = value / dictionary.gain(state.read.flatten(0, 1))[state.rows, 0]
    return value * dictionary.decoder_norm[state.features] if dictionary.rescale_by_decoder_norm else value


# --- ablation ---------------------------------------------------------------------------------------------------------


def _take_out(work: Workspace, active: _Active, candidates: Tensor, job: Job) -> _Measured:
    """Run on from each candidate's site without it, one row of a batch each."""
    effect = torch.zeros(len(candidates), dtype=torch.float64, device=candidates.device)
    kl = torch.zeros_like(effect)
    before = log_softmax(work.run.logits[0].double(), 0)
    done = 0
    job.progress("taking features out", 0, len(candidates))
    for number, state in enumerate(work.states.values()):
        mine = (active.states[candidates] == number).nonzero()[:, 0]
        features = active.features[candidates[mine]].tolist()

        def piece(part: slice, state: SiteState = state, mine: Tensor = mine, features: list[int] = features) -> None:
            shifts = [moved(state, NodeRef(state.basis.source, feature)) for feature in features[part]]
            examples = torch.zeros(len(shifts), dtype=torch.long, device=candidates.device)
            with torch.no_grad():
                logits = work.run.from_site(state.basis.write_site, state.x + torch.cat(shifts), examples)
            effect[mine[part]] = (work.clean - work.goal(logits, examples)).double()
            after = log_softmax(logits.double(), 1)
            kl[mine[part]] = (before.exp() * (before - after)).sum(1).clamp(min=0)

        blocks = work.blocks_after(state.basis.write_site)
        for finished in work.in_pieces(len(features), work.run.length, blocks, piece, grad=False):
            job.progress("taking features out", done + finished, len(candidates))
        done += len(features)
    return _Measured(candidates, effect, kl)


def _rows(
    work: Workspace, active: _Active, measured: _Measured, by_activation: Tensor, by_attribution: Tensor
) -> tuple[AblationRow, ...]:
    sources = list(work.states)
    columns = [
        column[measured.place].tolist()
        for column in (active.states, active.features, active.activation, active.position, active.attribution)
    ]
    others = [measured.effect, measured.kl, by_activation[measured.place], by_attribution[measured.place]]
    columns += [column.tolist() for column in (*others, ranks(measured.effect.abs()))]
    rows = [
        AblationRow(FeatureRef(sources[state], feature), *figures)
        for state, feature, *figures in zip(*columns, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: row.by_ablation))


# --- comparing --------------------------------------------------------------------------------------------------------


def ranks(sizes: Tensor) -> Tensor:
    """From 1 for the largest of `sizes` [n]; of equal ones the first comes first."""
    order = sizes.argsort(descending=True, stable=True)
    found = torch.empty_like(order)
    found[order] = torch.arange(1, len(order) + 1, device=order.device)
    return found


def pearson(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's correlation; None for fewer than two values, or where one side does not vary."""
    pair = torch.tensor([list(a), list(b)], dtype=torch.float64)
    if pair.shape[1] < 2:
        return None
    pair = pair - pair.mean(1, keepdim=True)
    spread = pair.norm(dim=1).prod()
    return float((pair[0] @ pair[1] / spread).clamp(-1, 1)) if spread > 0 else None


def _shared(rows: Sequence[AblationRow], top: int, rank: Callable[[AblationRow], int]) -> int:
    """Of the top by ablation, how many are in the top by another rank."""
    return sum(row.by_ablation <= top and rank(row) <= top for row in rows)


def _metric(opened: OpenSet, work: Workspace) -> Metric:
    token, goal = opened.model.tokenizer.token, work.goal
    targets = goal.targets[0].tolist() if goal.targets is not None else []
    against = goal.against[0].tolist() if goal.against is not None else []
    return Metric(
        goal.kind,
        tuple(map(token, targets)),
        tuple(map(token, against)),
        clean=float(work.clean[0]),
        probability=float(work.run.logits[0].softmax(0)[targets].sum()),
    )


def _tokens(opened: OpenSet, example: Example, sinks: Tensor) -> tuple[Token, ...]:
    """The prompt's tokens, marked where one of the sites has an attention sink."""
    token = opened.model.tokenizer.token
    marked = zip(example.ids, sinks.tolist(), strict=True)
    return tuple(msgspec.structs.replace(token(i), sink=sink) for i, sink in marked)
