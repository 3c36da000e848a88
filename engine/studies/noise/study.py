"""Ablation and noise on reconstructions: what changing one feature does to all others and to the next token."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, log_softmax

from engine.circuits.examples import from_prompt
from engine.circuits.passes import CleanRun
from engine.circuits.precision import computing_in
from engine.circuits.states import sink_places
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.memory.use import telling_out_of_memory
from engine.model import Visitor
from engine.opening import OpenSet
from engine.requests import RankAblations
from engine.results import FeatureRef
from engine.sites import Site
from engine.steering.ranking import rank_ablations
from engine.studies.measure import Growing
from engine.studies.noise.changes import Change, Read, changes_of
from engine.studies.noise.others import Comparison, Others
from engine.studies.noise.tables import Found, Rebuilt, result
from engine.studies.parts import chosen, features_of
from engine.study_results import StudyResult
from engine.study_settings.noise import Noise

_TOKENS = 640
_ELEMENTS = 1 << 24


def measure(opened: OpenSet, settings: Noise, growing: Growing) -> StudyResult:
    """Change each feature at every token on which it fires, and compare reconstructions and all other features.

    The changed activation is read again by the same dictionary and, running on, by all later ones. Computed in float32,
    or the model's float64.

    Raises:
        BadRequest: an empty prompt, no such feature, none that fires, or a noise that is no positive number.
        OutOfMemory: a pass over the prompt does not fit.
    """
    sizes = _sizes(settings.noise)
    measured = chosen(opened, settings.sources)
    named = features_of(opened, settings.features) if settings.features else []
    measured += [d for s, d in opened.dictionaries.items() if d not in measured and s in {ref.source for ref in named}]
    ids = list(from_prompt(opened, settings.prompt, None, False, None, settings.target, settings.against).ids)
    with telling_out_of_memory():
        with computing_in(opened.model, torch.float32) as dtype:
            growing.progress("reading the prompt")
            study = _Study(opened, settings, [d.in_precision(dtype) for d in measured], ids, growing)
            study.change(study.select(named), sizes)
        if growing.is_due:
            growing.grown(study.so_far())
        growing.rest()
        study.found.ranking = rank_ablations(
            opened,
            RankAblations(
                id=growing.job.id, prompt=settings.prompt, target=settings.target, against=settings.against,
                top=settings.count, sources=tuple(d.source for d in measured),
            ),
            growing.job,
        )  # fmt: skip
    return study.so_far()


def _sizes(given: Sequence[str]) -> list[float]:
    sizes = []
    for text in given:
        try:
            size = float(text)
        except ValueError:
            size = math.nan
        if not 0 < size <= 1e6:
            raise BadRequest(f"{text!r} is not a size of noise.", "Use shares of the activation such as 0.1 or 1.")
        sizes.append(size)
    return sorted(set(sizes))


class _Study:
    """One prompt, read once; features are changed one at a time, many rows in a pass."""

    def __init__(
        self, opened: OpenSet, settings: Noise, dictionaries: Sequence[Dictionary], ids: list[int], growing: Growing
    ) -> None:
        self._opened, self._settings, self._growing = opened, settings, growing
        self._dictionaries = dictionaries
        sites = {site for d in dictionaries for site in (d.site, d.write_site)}
        self._run = CleanRun(opened.model, torch.tensor([ids], device=opened.model.device), sites, growing.job)
        self._reads = {d.source: self._read(d) for d in dictionaries}
        self.found = Found(settings.prompt, tuple(opened.model.tokenizer.token(i).text for i in ids))

    @torch.inference_mode()
    def _read(self, dictionary: Dictionary) -> Read:
        x, written = (
            self._run.x[site][0].to(dictionary.precision) for site in (dictionary.site, dictionary.write_site)
        )
        sinks = sink_places(written[None])[0]
        sinks[0] = True
        features = dictionary.encode(x)
        rebuilt = dictionary.decode(features, x)
        keep = self._settings.errors == "keep"
        reference = written if keep else torch.where(sinks[:, None], written, rebuilt)
        return Read(dictionary, x, written, features, ~sinks, reference)

    def so_far(self) -> StudyResult:
        return result(self._opened, self._dictionaries, self._settings, self.found)

    def select(self, named: Sequence[FeatureRef]) -> list[FeatureRef]:
        """Those that were named and fire, else the strongest of each dictionary in turn.

        Raises:
            BadRequest: none fires.
        """
        if named:
            fire = [ref for ref in named if bool(self._reads[ref.source].fires(ref.index).any())]
            self.found.silent = tuple(str(ref) for ref in named if ref not in fire)
            if not fire:
                raise BadRequest(
                    f"{self.found.silent[0]} does not fire on this prompt, the first token and sinks aside.",
                    "Name a feature that does, or none for the strongest.",
                )
            return fire
        lists = []
        for source, read in self._reads.items():
            peaks = (read.features.abs() * read.counted[:, None]).amax(0)
            order = peaks.topk(min(self._settings.count, len(peaks)))
            pairs = zip(order.indices.tolist(), order.values.tolist(), strict=True)
            lists.append([FeatureRef(source, index) for index, value in pairs if value > 0])
        turns = [ref for place in range(self._settings.count) for found in lists for ref in found[place : place + 1]]
        if not turns:
            raise BadRequest("No feature fires on this prompt, the first token and sinks aside.", "Use a longer one.")
        return turns[: self._settings.count]

    # --- changing -----------------------------------------------------------------------------------------------

    def change(self, refs: Sequence[FeatureRef], sizes: Sequence[float]) -> None:
        """Measure all changes of these features, one dictionary after another."""
        self.found.features = tuple(refs)
        by_source: defaultdict[str, list[FeatureRef]] = defaultdict(list)
        for ref in refs:
            by_source[ref.source].append(ref)
        done, total = 0, len(refs)
        for source, mine in by_source.items():
            read = self._reads[source]
            reference, plain = self._pass(read, read.reference[None], {})
            self._growing.rest()
            p = log_softmax(plain[0].double(), 0)
            for ref in mine:
                self._growing.progress("changing features", done, total)
                changes = changes_of(read, ref, sizes, self._settings.draws, self._settings.seed)
                self._measure(read, ref, changes, reference, p)
                done += 1
                if self._growing.is_due:
                    self._growing.grown(self.so_far())

    def _measure(
        self, read: Read, ref: FeatureRef, changes: list[Change], reference: dict[str, Tensor], plain: Tensor
    ) -> None:
        piece = max(1, min(_TOKENS // self._run.length, _ELEMENTS // read.written.numel()))
        fires = read.fires(ref.index)
        self.found.activations[ref] = (int(fires.sum()), float(read.features[fires, ref.index].mean()))
        for start in range(0, len(changes), piece):
            part = changes[start : start + piece]
            others: list[dict[str, Others]] = [{} for _ in part]
            with torch.inference_mode():
                x = read.reference + torch.stack([change.added for change in part])
            compare = self._comparing(read, ref, fires, reference, others)
            _, logits = self._pass(read, x, compare)
            for change, compared, after in zip(part, others, logits, strict=True):
                q = log_softmax(after.double(), 0)
                kl = float((plain.exp() * (plain - q)).sum().clamp(min=0))
                self.found.add(change, self._rebuilt(read, fires, change.added, kl), compared)
            self._growing.rest()

    def _pass(self, read: Read, x: Tensor, visitors: dict[Site, Visitor]) -> tuple[dict[str, Tensor], Tensor]:
        """Run on with `x` [R, T, d] where the dictionary writes: what later ones read of row 0, and logits [R, V]."""
        seen: dict[str, Tensor] = {}

        def keep(site: Site) -> Visitor:
            def visit(held: Tensor) -> None:
                for dictionary in self._later(read):
                    if dictionary.site == site:
                        seen[dictionary.source] = held[0].reshape(held.shape[1], -1).to(dictionary.precision)

            return visit

        visitors = visitors or {dictionary.site: keep(dictionary.site) for dictionary in self._later(read)}
        examples = torch.zeros(len(x), dtype=torch.long, device=x.device)
        with torch.no_grad():
            logits = self._run.from_site(read.dictionary.write_site, x.to(self._opened.model.dtype), examples, visitors)
        return seen, logits

    def _later(self, read: Read) -> list[Dictionary]:
        """The dictionaries that can see a change: those that read where it is made, or after."""
        return [d for d in self._dictionaries if d.site.depth >= read.dictionary.write_site.depth]

    def _comparing(
        self, read: Read, ref: FeatureRef, fires: Tensor, reference: dict[str, Tensor], found: list[dict[str, Others]]
    ) -> dict[Site, Visitor]:
        """Visitors that compare each row: where the change is made at its tokens, later from the first of them on."""
        first = int(fires.nonzero()[0])

        def visitor(site: Site) -> Visitor:
            def visit(held: Tensor) -> None:
                here = site == read.dictionary.write_site
                for dictionary in self._later(read):
                    if dictionary.site != site:
                        continue
                    source, own = dictionary.source, self._reads[dictionary.source]
                    where = fires if here else own.counted & (torch.arange(len(fires), device=fires.device) >= first)
                    if not bool(where.any()):
                        continue
                    before = reference[source][where]
                    features = dictionary.encode(before)
                    skip = ref.index if source == ref.source else None
                    for row, x in enumerate(held):
                        self._growing.job.check()
                        after = x.reshape(len(fires), -1)[where]
                        comparison = Comparison(dictionary, skip, self._settings.changed)
                        found[row][source] = comparison.of(features, before, after)

            return visit

        return {dictionary.site: visitor(dictionary.site) for dictionary in self._later(read)}

    @torch.inference_mode()
    def _rebuilt(self, read: Read, fires: Tensor, added: Tensor, kl: float) -> Rebuilt:
        """The dictionary's reconstruction with the change beside the one without, at the feature's tokens."""
        original = read.dictionary.decode(read.features[fires], read.x[fires]).double()
        moved = added[fires].double()
        return Rebuilt(
            cosine=float(cosine_similarity(original, original + moved, dim=1).mean()),
            mse=float(moved.square().mean()),
            relative=float((moved.square().sum(1) / original.square().sum(1)).mean()),
            kl=kl,
        )
