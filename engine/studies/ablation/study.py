"""Ablation study: what taking groups of features out, or keeping nothing else, does to an answer over pairs.

Faithfulness (m(C) − m(∅)) / (m(M) − m(∅)), completeness (m(rest) − m(∅)) / (m(M) − m(∅)) and bias score
(m(M) − m(rest)) / m(M), of means over the pairs; m is logit(answer) − logit(other answer) after the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import torch

from engine.circuit_results import Method
from engine.circuits.basis import DictionaryBasis
from engine.circuits.examples import Example
from engine.circuits.precision import computing_in
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.memory.use import telling_out_of_memory
from engine.opening import OpenSet
from engine.prompts.datasets import PromptSet, prompt_sets
from engine.results import FeatureRef
from engine.studies.ablation import tables as ablation_tables
from engine.studies.ablation.groups import Group, check_asked, groups_of
from engine.studies.ablation.runs import Runs, To
from engine.studies.ablation.tables import Measured, Whole
from engine.studies.effects import examples_of, mean_effects
from engine.studies.given import features_in, given_sets, set_of
from engine.studies.measure import Growing
from engine.studies.parts import chosen, result_of
from engine.study_results import FeatureSet, StudyResult
from engine.study_settings.ablation import Ablation

_METHOD: Method = "ig"
"""How the strongest are found where no features were given."""


@dataclass(frozen=True)
class _Data:
    """One data set, and which of its pairs can be used."""

    name: str
    examples: list[Example]
    left_out: int

    @property
    def has_patches(self) -> bool:
        return self.examples[0].patch is not None


def measure(opened: OpenSet, settings: Ablation, growing: Growing) -> StudyResult:
    """Ablate every group in every way asked for, over every data set; grows group by group.

    Raises:
        BadRequest: no data set or none of its pairs can be used, a feature is of no dictionary that takes part, several
            dictionaries share a site, resampling without patch prompts, or too many combinations.
        OutOfMemory: the clean run does not fit.
    """
    dictionaries = _one_per_site(chosen(opened, settings.sources))
    check_asked(settings, 0 if settings.features else min(settings.count, sum(d.d_sae for d in dictionaries)))
    prompts = prompt_sets(settings.pairs, settings.examples)
    data = [_data(opened, one) for one in prompts]
    kinds = _kinds(settings, data)
    sets = _sets(opened, settings, prompts, dictionaries, growing)
    groups, notes = groups_of(opened, sets, settings)
    taking_part = {d.source for d in dictionaries}
    for ref in features_in(sets):
        if ref.source not in taking_part:
            raise BadRequest(f"{ref} is not of a dictionary that takes part.", "Leave out --source, or name its too.")
    notes += _notes(settings, data, dictionaries, kinds)
    given = settings if settings.features else _with_features(settings, sets)
    wholes: list[Whole] = []
    found: list[Measured] = []

    def result() -> StudyResult:
        told = ablation_tables.told(opened, wholes, found, [one.name for one in data])
        if not settings.features:
            told["sets"] = (*sets, *told["sets"])
        return result_of(opened, dictionaries, given, _title(sets, data), **told, notes=tuple(notes))

    total = len(data) * len(kinds) * len(groups)
    with telling_out_of_memory(), computing_in(opened.model, torch.float32) as dtype:
        bases = [DictionaryBasis(d.in_precision(dtype)) for d in dictionaries]
        for one in data:
            for to in kinds:
                growing.rest()
                growing.progress(f"reading {one.name}", len(found), total)
                runs = Runs(opened.model, bases, one.examples, to, settings.errors, growing.job)
                whole = Whole(one.name, to, runs.examples, runs.whole, runs.empty())
                wholes.append(whole)
                _ablate(runs, whole, groups, found, total, growing, result)
                del runs
    return result()


def _ablate(
    runs: Runs,
    whole: Whole,
    groups: Sequence[Group],
    found: list[Measured],
    total: int,
    growing: Growing,
    result: Callable[[], StudyResult],
) -> None:
    """Measure every group, the same features once."""
    known: dict[frozenset[FeatureRef], tuple[float, float]] = {}
    for group in groups:
        growing.rest()
        growing.progress(f"ablating to {whole.to}", len(found), total)
        features = frozenset(group.features)
        if features not in known:
            known[features] = runs.kept(features), runs.without(features)
        found.append(Measured(whole, group, *known[features]))
        if growing.is_due and len(found) < total:
            growing.grown(result())


# --- what is ablated --------------------------------------------------------------------------------------------------


def _one_per_site(dictionaries: list[Dictionary]) -> list[Dictionary]:
    if not dictionaries:
        raise BadRequest("No dictionary is open.", "Open one with --dictionary.")
    written = [d.write_site for d in dictionaries]
    if twice := {site.hook for site in written if written.count(site) > 1}:
        raise BadRequest(
            f"Several dictionaries write at {', '.join(sorted(twice))}; keeping features needs one per site.",
            "Choose with --source.",
        )
    return dictionaries


def _data(opened: OpenSet, prompts: PromptSet) -> _Data:
    examples, skipped = examples_of(opened, prompts)
    return _Data(prompts.name, examples, len(skipped))


def _kinds(settings: Ablation, data: Sequence[_Data]) -> tuple[To, ...]:
    """Zero always can be; resampling needs patch prompts."""
    without = [one.name for one in data if not one.has_patches]
    if settings.to == "resample" and without:
        raise BadRequest(
            f"{without[0]} has no patch prompts to resample from.", "Use --to zero, or pairs with a patch."
        )
    if settings.to == "both":
        return ("zero",) if without else ("zero", "resample")
    return (settings.to,)


def _sets(
    opened: OpenSet,
    settings: Ablation,
    prompts: Sequence[PromptSet],
    dictionaries: Sequence[Dictionary],
    growing: Growing,
) -> list[FeatureSet]:
    """Those given; otherwise the strongest in any data set, for what helps in one may hinder in another."""
    if settings.features:
        return given_sets(opened, settings.features)
    means = [
        mean_effects(opened, one.pairs, _METHOD, dictionaries, growing, what=f"of all features over {one.name}")
        for one in prompts
    ]
    effects: dict[FeatureRef, float] = {}
    for source in means[0].features:
        each = torch.stack([mean.features[source] for mean in means])
        largest = each.gather(0, each.abs().argmax(0, keepdim=True))[0]
        top = largest.abs().topk(min(settings.count, len(largest))).indices.tolist()
        effects |= {FeatureRef(source, index): float(largest[index]) for index in top}
    order = sorted((ref for ref, effect in effects.items() if effect), key=lambda ref: -abs(effects[ref]))
    if not order:
        raise BadRequest("No feature has an effect on these answers.", "Name the features to ablate.")
    over = " or ".join(f"the {mean.examples} pairs of {one.name}" for one, mean in zip(prompts, means, strict=True))
    rule = f"The {settings.count} of the largest mean |effect| ({_METHOD}) over {over}."
    return [set_of(opened, "strongest", order[: settings.count], rule, effects)]


def _with_features(settings: Ablation, sets: Sequence[FeatureSet]) -> Ablation:
    """The settings with the features that were taken written out."""
    return msgspec.structs.replace(settings, features=tuple(map(str, features_in(sets))))


# --- words ------------------------------------------------------------------------------------------------------------


def _title(sets: Sequence[FeatureSet], data: Sequence[_Data]) -> str:
    count = len(features_in(sets))
    return f"Ablation of {count} feature{'' if count == 1 else 's'} over {', '.join(one.name for one in data)}"


def _notes(
    settings: Ablation, data: Sequence[_Data], dictionaries: Sequence[Dictionary], kinds: Sequence[To]
) -> list[str]:
    sites = ", ".join(d.source for d in dictionaries)
    notes = []
    for one in data:
        metric = "logit(answer) − logit(other answer)" if one.examples[0].against else "the answer's logit"
        notes.append(f"m of {one.name} is the mean of {metric} over {len(one.examples)} prompts.")
        if one.left_out:
            notes.append(f"{one.left_out} pairs of {one.name} cannot be used; `saescope prompts` says why.")
    notes.append(f"Nothing kept (∅) means every feature of {sites} ablated at every token; the model else is whole.")
    if "zero" in kinds:
        notes.append("Against zero, first tokens and other attention sinks keep what they hold.")
    if "resample" in kinds:
        notes.append("Resampled features have their value at the same token of the pair's own patch prompt.")
    elif settings.to == "both":
        notes.append("Some pairs have no patch prompt: features were ablated to zero only.")
    if settings.errors == "keep":
        notes.append("What the dictionaries do not explain is kept in every run.")
    else:
        become = " or ".join({"zero": "zero", "resample": "that of the patch prompt"}[to] for to in kinds)
        notes.append(f"What the dictionaries do not explain becomes {become} in every run but m(M).")
    return notes
