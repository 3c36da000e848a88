"""What interventions do to all other features of a prompt, beside random directions of the same norm.

The prompt is read three times in passes of one shape, plain, steered and with the control, so that a site before every
intervention holds the same numbers to the last bit in all of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from engine.circuits.passes import joined
from engine.circuits.states import sink_places
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.job import Job
from engine.memory.use import telling_out_of_memory
from engine.model import Visitor
from engine.opening import OpenSet
from engine.requests import MeasureImpact
from engine.results import FeatureRef, Token
from engine.sites import Site
from engine.steering.interventions import Cursor, Program, compile_program, visitors
from engine.steering_results import FeatureChange, ImpactArm, ImpactResult, SiteImpact

_BLOCK_ELEMENTS = 1 << 24
_TOLERANCE = 1e-3
"""Of the site's largest activation: what changes by less does not count as changed."""


def measure_impact(opened: OpenSet, request: MeasureImpact, job: Job) -> ImpactResult:
    """Compare every open dictionary's features with and without the interventions, and with the control.

    Raises:
        BadRequest: no intervention, an empty prompt, or an intervention that has no meaning here.
        OutOfMemory: a pass over the prompt does not fit.
    """
    started = time.perf_counter()
    if not request.interventions:
        raise BadRequest("No intervention was given.", "Name a feature and what to do to it.")
    if request.top < 1:
        raise BadRequest(f"{request.top} is not a number of changes to list.", "It is at least 1.")
    ids = opened.checked_ids(request.prompt, request.chat)
    with telling_out_of_memory():
        steered, control = (
            compile_program(
                opened, request.interventions, ids, chat=request.chat, keep_error=request.keep_error,
                random_directions=seed, job=job,
            )
            for seed in (None, request.seed)
        )  # fmt: skip
        batch = torch.tensor([ids], device=opened.model.device)
        job.progress("reading the prompt", 0, 3)
        plain = _Plain(opened, batch, job)
        arms = []
        for number, program in enumerate((steered, control), 1):
            job.rest()
            job.progress(
                "reading it with the interventions" if number == 1 else "reading it with the control", number, 3
            )
            arms.append(_arm(opened, request, plain, program, job))
    return ImpactResult(
        prompt=request.prompt,
        chat=request.chat,
        tokens=_tokens(opened, ids, plain),
        interventions=request.interventions,
        steered=arms[0],
        control=arms[1],
        provenance=opened.provenance(
            list(opened.dictionaries.values()),
            {
                "seed": request.seed,
                "error": "kept" if request.keep_error else "dropped",
                "tolerance": _TOLERANCE,
                "sinks": "left out",
            },
        ),
        seconds=time.perf_counter() - started,
        warnings=steered.warnings,
    )


class _Plain:
    """The pass without interventions: what every dictionary reads, and the next token's distribution."""

    def __init__(self, opened: OpenSet, batch: Tensor, job: Job) -> None:
        self.batch = batch
        self.x: dict[Site, Tensor] = {}
        """What each site holds, [T, d]."""

        def keep(site: Site) -> Visitor:
            def visit(x: Tensor) -> None:
                self.x[site] = x[0].reshape(x.shape[1], -1)

            return visit

        sites = {dictionary.site for dictionary in opened.dictionaries.values()}
        self.next = _next_token(opened, batch, {site: keep(site) for site in sites}, job)

    def sinks(self, site: Site) -> Tensor:
        """bool [T]: the first token, and those with a norm over four times the median; none of a single token."""
        x = self.x[site]
        found = sink_places(x[None])[0] & (len(x) > 1)
        found[0] = len(x) > 1
        return found


def _next_token(opened: OpenSet, batch: Tensor, hooked: Mapping[Site, Visitor], job: Job) -> Tensor:
    """Log-probabilities [V] after one pass over `batch` [1, T] with these visitors."""
    model = opened.model
    with model.visiting(hooked, job), torch.inference_mode():
        return log_softmax(model.logits(model.hidden(batch)[:, -1])[0].double(), 0)


def _arm(opened: OpenSet, request: MeasureImpact, plain: _Plain, program: Program, job: Job) -> ImpactArm:
    found: dict[str, _Compared] = {}
    by_site: defaultdict[Site, list[Dictionary]] = defaultdict(list)
    for dictionary in opened.dictionaries.values():
        by_site[dictionary.site].append(dictionary)

    def compare(site: Site) -> Visitor:
        def visit(x: Tensor) -> None:
            for dictionary in by_site[site]:
                job.check()
                steered = [i.feature.index for i in request.interventions if i.feature.source == dictionary.source]
                after = x[0].reshape(x.shape[1], -1)
                found[dictionary.source] = _Compared(dictionary, plain.x[site], after, plain.sinks(site), steered)

        return visit

    acting = visitors([program], Cursor())
    after = _next_token(opened, plain.batch, joined([acting, {site: compare(site) for site in by_site}]), job)
    ordered = [found[source] for source in opened.dictionaries]
    changes = [change for one in ordered for change in one.changes(request.top)]
    changes.sort(key=lambda change: abs(change.after - change.before), reverse=True)
    kl = float((plain.next.exp() * (plain.next - after)).sum().clamp(min=0))
    return ImpactArm(tuple(one.impact() for one in ordered), tuple(changes[: request.top]), kl)


class _Compared:
    """One dictionary on two passes over the same tokens, block by block; sinks and steered features do not count."""

    def __init__(
        self, dictionary: Dictionary, before: Tensor, after: Tensor, sinks: Tensor, steered: Sequence[int]
    ) -> None:
        nothing = torch.zeros(dictionary.d_sae, device=before.device, dtype=dictionary.precision)
        self.dictionary = dictionary
        self.counted = ~sinks
        self.fires_before, self.fires_after = nothing.bool(), nothing.bool()
        self.largest = 0.0
        """The largest plain activation."""
        self.most = nothing.clone()
        """By how much each feature changes where it changes most, [d_sae]."""
        self.place = nothing.long()
        self.from_, self.to = nothing.clone(), nothing.clone()
        self.cosine = self.squares = 0.0
        step = max(1, _BLOCK_ELEMENTS // dictionary.d_sae)
        for start in range(0, len(before), step):
            self._add(before[start : start + step], after[start : start + step], start)
        self.most[list(steered)] = 0
        self.fires_before[list(steered)] = self.fires_after[list(steered)] = False

    def _add(self, before: Tensor, after: Tensor, start: int) -> None:
        """Take the next tokens, as they were and as they are, [n, d_in]."""
        counted = self.counted[start : start + len(before)]
        if not counted.any():
            return
        old, new = self.dictionary.encode(before)[counted], self.dictionary.encode(after)[counted]
        self._reconstructions(old, before[counted], new, after[counted])
        self.fires_before |= (old != 0).any(0)
        self.fires_after |= (new != 0).any(0)
        self.largest = max(self.largest, float(old.abs().max()))
        most, row = (new - old).abs().max(0)
        more = most > self.most
        everyone = torch.arange(len(most), device=most.device)
        places = counted.nonzero()[:, 0] + start
        self.place = torch.where(more, places[row], self.place)
        self.from_ = torch.where(more, old[row, everyone], self.from_)
        self.to = torch.where(more, new[row, everyone], self.to)
        self.most = torch.where(more, most, self.most)

    def _reconstructions(self, old: Tensor, before: Tensor, new: Tensor, after: Tensor) -> None:
        dictionary = self.dictionary
        decode = dictionary.decode_active if old.device.type == "cpu" else dictionary.decode
        a, b = decode(old, before).double(), decode(new, after).double()
        lengths = a.norm(dim=1) * b.norm(dim=1)
        cosine = torch.where(lengths > 0, (a * b).sum(1) / lengths, 0.0)
        self.cosine += float(torch.where((a == b).all(1), 1.0, cosine).sum())
        self.squares += float((a - b).square().mean(1).sum())

    # --- answers ------------------------------------------------------------------------------------------------

    @property
    def changed(self) -> Tensor:
        """bool [d_sae]: features that change by more than the tolerance on some token."""
        return self.most > _TOLERANCE * self.largest

    def impact(self) -> SiteImpact:
        before, after, changed = self.fires_before, self.fires_after, self.changed
        tokens = int(self.counted.sum())
        return SiteImpact(
            source=self.dictionary.source,
            hook=self.dictionary.site.hook,
            active=int((before | after).sum()),
            changed=int(changed.sum()),
            silenced=int((before & ~after).sum()),
            woken=int((after & ~before).sum()),
            small=int((changed & (self.most < 1)).sum()),
            cosine=self.cosine / tokens if tokens else 1.0,
            mse=self.squares / max(tokens, 1),
        )

    def changes(self, top: int) -> list[FeatureChange]:
        """The changed features that change most, each at the token where it does."""
        sizes = torch.where(self.changed, self.most, 0.0)
        order = sizes.argsort(descending=True, stable=True)[: min(top, int(self.changed.sum()))]
        columns = [column[order].tolist() for column in (self.place, self.from_, self.to)]
        source = self.dictionary.source
        return [
            FeatureChange(FeatureRef(source, index), *figures)
            for index, *figures in zip(order.tolist(), *columns, strict=True)
        ]


def _tokens(opened: OpenSet, ids: Sequence[int], plain: _Plain) -> tuple[Token, ...]:
    """The prompt's tokens, marked where one of the sites has an attention sink."""
    token = opened.model.tokenizer.token
    sinks = torch.stack([sink_places(x[None])[0] for x in plain.x.values()]).any(0).tolist()
    return tuple(msgspec.structs.replace(token(i), sink=sink) for i, sink in zip(ids, sinks, strict=True))
