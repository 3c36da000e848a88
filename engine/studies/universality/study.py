"""Two models or two dictionaries side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from engine.corpus.text import name_of_text
from engine.errors import BadRequest
from engine.memory.use import telling_out_of_memory
from engine.opening import OpenSet
from engine.prompts.datasets import prompt_sets
from engine.protocol import FeatureRef
from engine.studies.effects import examples_of
from engine.studies.measure import Growing
from engine.studies.parts import features_of, result_of
from engine.studies.universality import effects
from engine.studies.universality import tables as matching
from engine.studies.universality.matching import Tally
from engine.studies.universality.reading import Pairing, counterparts, fitting_most, read_both, tallied
from engine.studies.universality.sides import Side, two_sides
from engine.study_results import Cell, StudyResult, Table
from engine.study_settings.universality import Universality


def measure(opened: OpenSet, settings: Universality, growing: Growing) -> StudyResult:
    """The same selection on both sides, where pairs are given, and the best match of every feature.

    Pearson's r of activations over the tokens that count on both sides; a second model is open only meanwhile.

    Raises:
        SaescopeError: nothing was named to compare with, it cannot be opened, the text holds nothing to read.
        Cancelled: the job was cancelled.
    """
    data = prompt_sets(settings.pairs, settings.examples) if settings.pairs else []
    for prompts in data:
        examples_of(opened, prompts)
    with two_sides(opened, settings, growing.job) as (first, second):
        refs = features_of(first.opened, settings.features) if settings.features else []
        if elsewhere := [str(ref) for ref in refs if ref.source not in {d.source for d in first.dictionaries}]:
            raise BadRequest(
                f"{elsewhere[0]} is not among what is compared.",
                f"Name features of {', '.join(d.source for d in first.dictionaries)}.",
            )
        comparison = _Comparison(opened, settings, first, second, refs)
        same = first.opened.model.tokenizer.vocabulary_sha256 == second.opened.model.tokenizer.vocabulary_sha256
        if not same and not data:
            raise BadRequest(
                f"{first.name} and {second.name} have different tokenizers: their activations cannot be correlated.",
                "Compare effects with --pairs, or choose models that share a tokenizer.",
            )
        for prompts in data:
            examples_of(second.opened, prompts, f" in {second.name}")
        for prompts in data:
            for side in (first, second):
                comparison.chosen.append(effects.choose(prompts, side, settings, growing))
                if growing.is_due:
                    growing.grown(comparison.result())
        if same:
            with telling_out_of_memory(
                "What the features of both sides have in common does not fit in memory.",
                "Compare fewer dictionaries with --source and --other, or give a smaller --most.",
            ):
                _match(comparison, growing)
        else:
            comparison.notes.append("The tokenizers differ: activations cannot be correlated token by token.")
        return comparison.result()


@dataclass
class _Comparison:
    """What there is so far."""

    opened: OpenSet
    settings: Universality
    first: Side
    second: Side
    refs: Sequence[FeatureRef]
    chosen: list[effects.Chosen] = field(default_factory=list)
    matched: list[matching.Matched] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def result(self) -> StudyResult:
        first, second = self.first, self.second
        figures: dict[str, Cell] = {}
        meanings: dict[str, str] = {}
        more: dict[str, Any] = {"tables": (), "views": (), "notes": tuple(self.notes)}
        every: tuple[Table, ...] = ()  # the longest table comes last
        if self.matched:
            found = matching.figures(self.matched)
            figures, meanings = figures | found[0], meanings | found[1]
            *shown, last = matching.tables(first, second, self.matched, self.refs, self.settings.top)
            more["tables"], every = tuple(shown), (last,)
            more["views"] += matching.views(self.matched)
            if self.refs:
                named = next(t for t in more["tables"] if t.name == "named")
                for ref, r in zip(named.column("feature"), named.column("r"), strict=True):
                    figures[str(ref)], meanings[str(ref)] = r, "Its correlation with its best match."
                seen = set(named.column("feature"))
                more["notes"] += tuple(
                    f"{ref} fires too seldom on this text to be compared, or is not among those that fire most."
                    for ref in self.refs
                    if str(ref) not in seen
                )
        if self.chosen:
            for one in (effects.figures(self.chosen), self._in_both()):
                figures, meanings = figures | one[0], meanings | one[1]
            more["tables"] += effects.tables(self.chosen, (first, second))
            more["views"] += effects.views((first, second))
            more["sets"] = effects.sets(self.opened, self.chosen)
            more["notes"] += effects.notes(self.chosen)
        more["tables"] += every
        same_model = not second.prefix
        dictionaries = [*first.dictionaries, *(second.dictionaries if same_model else ())]
        title = f"{first.name} beside {second.name}"
        result = result_of(
            self.opened, dictionaries, self.settings, title, figures=figures, meanings=meanings, **more
        )  # fmt: skip
        if same_model:
            return result
        other = second.opened.provenance(list(second.dictionaries), {})
        settings = {**result.provenance.settings, "other_side": msgspec.to_builtins(other)}
        provenance = msgspec.structs.replace(result.provenance, settings=settings)
        return msgspec.structs.replace(result, provenance=provenance)

    def _in_both(self) -> tuple[dict[str, Cell], dict[str, str]]:
        """How many features chosen on one side have a best match that was chosen on the other."""
        best: dict[tuple[str, int], tuple[str, int]] = {}
        for one in self.matched:
            (a, b), found = one.pairing, one.matches
            for mine, theirs in zip(found.first.tolist(), found.second[found.best].tolist(), strict=True):
                best[a.source, mine] = (b.source, theirs)
        figures: dict[str, Cell] = {}
        meanings: dict[str, str] = {}
        for name in dict.fromkeys(one.prompts.name for one in self.chosen):
            of_both = [{(e.site, int(e.index)) for e in one.chosen} for one in self.chosen if one.prompts.name == name]
            if len(of_both) == 2 and best:
                figures[f"in both: {name}"] = sum(best.get(feature) in of_both[1] for feature in of_both[0])
                meanings[f"in both: {name}"] = (
                    f"Features chosen in {self.first.name} whose best match was chosen in {self.second.name}."
                )
        return figures, meanings


def _match(comparison: _Comparison, growing: Growing) -> None:
    """Read the text on both sides, and keep the best matches."""
    settings, first, second = comparison.settings, comparison.first, comparison.second
    pairings = counterparts(first, second)
    most = fitting_most(pairings, settings.most)
    tallies = tallied(first, second, pairings, settings, most, growing.job)
    described = _described(comparison, pairings, most)

    def summed_up() -> None:
        found = [tally.matches(settings.fires) for tally in tallies]
        comparison.matched = [
            matching.matched(first, second, pairing, one) for pairing, one in zip(pairings, found, strict=True)
        ]
        comparison.notes[:] = [*described, *_counted(tallies, comparison)]

    for both in read_both(first, second, pairings, settings, growing.job):
        for pairing, tally in zip(pairings, tallies, strict=True):
            tally.add(*both.aligned(pairing))
        done = tallies[0].tokens
        growing.progress("correlating activations", min(done, settings.tokens), settings.tokens)
        growing.rest()
        if growing.is_due:
            summed_up()
            growing.grown(comparison.result())
    if not tallies[0].tokens:
        raise BadRequest("The text holds no stretch of 16 tokens or more.", "Give more or longer text.")
    summed_up()


def _described(comparison: _Comparison, pairings: Sequence[Pairing], most: int) -> list[str]:
    """What is true of every result, finished or not."""
    settings, first, second = comparison.settings, comparison.first, comparison.second
    told = [f"{a.source} is compared with {second.prefix}{b.source}, by depth." for a, b in pairings]
    told = told if len(pairings) > 1 or len(second.dictionaries) > 1 else []
    used = {b.source for _, b in pairings}
    if left := [d.source for d in second.dictionaries if d.source not in used]:
        told.append(f"Compared with none: {', '.join(left)}.")
    crossing = [f"{a.source} with {b.source}" for a, b in pairings if a.site.layer != b.site.layer]
    if crossing and first.opened.model is second.opened.model:
        told.append(f"Different layers are compared: {', '.join(crossing)}.")
    if large := sorted({d.source for pairing in pairings for d in pairing if d.d_sae > most}):
        told.append(f"Of {', '.join(large)} the {most:,} features that fire most on this text are compared.")
    if most < settings.most:
        told.append(f"--most {settings.most} was lowered to {most}: the sums over more pairs do not fit in memory.")
    return told


def _counted(tallies: Sequence[Tally], comparison: _Comparison) -> list[str]:
    settings = comparison.settings
    told = [
        f"Correlated on {tallies[0].tokens:,} tokens of {name_of_text(settings.text)}; first tokens and attention "
        f"sinks are left out, and so are features that fire on fewer than {settings.fires} tokens.",
        "By chance: the same correlations with the other side's tokens moved on by half a batch.",
    ]
    if comparison.matched and all(one.cosine is None for one in comparison.matched):
        told.append("Decoder rows are not compared: they do not write into one space of one model.")
    return told
