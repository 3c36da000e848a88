"""Feature selection: which features cause an answer over a data set of prompts, and where data sets differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations

from engine import selection
from engine.dictionary import Dictionary
from engine.opening import OpenSet, page_of
from engine.prompts.datasets import PromptSet, prompt_sets
from engine.results import FeatureRef
from engine.selection import Effect
from engine.studies.effects import MeanEffects, examples_of, mean_effects, metric_notes, pairs_notes
from engine.studies.measure import Growing
from engine.studies.parts import chosen, result_of
from engine.studies.select.tables import figures_of, tables_of, views_of
from engine.study_results import FeatureSet, SetMember, StudyResult
from engine.study_settings.select import Select

_MOST = 20_000
"""Features of a set: what is larger could not be looked at, and travels as JSON."""


@dataclass
class Selected:
    """One data set: its mean effects, those that are not zero strongest first, and the choice in published order."""

    name: str
    origin: str
    mean: MeanEffects
    effects: list[Effect]
    choice: list[Effect]
    by_feature: dict[tuple[str, int], float] = field(init=False)
    """The effects that are not zero."""

    def __post_init__(self) -> None:
        self.by_feature = {key(e): e.effect for e in self.effects}


def measure(opened: OpenSet, settings: Select, growing: Growing) -> StudyResult:
    """Mean effects of every data set, a choice of features from each, and what the choices share.

    Raises:
        BadRequest: no data set, one of which no pair can be used, or a dictionary that is not open.
    """
    data = prompt_sets(settings.pairs, settings.examples)
    dictionaries = chosen(opened, settings.sources)
    for prompts in data:  # the last is looked at before the first is measured
        examples_of(opened, prompts)
    done: list[Selected] = []

    for number, prompts in enumerate(data):

        def grown(mean: MeanEffects, prompts: PromptSet = prompts) -> None:
            so_far = [*done, _selected(prompts, mean, settings)]
            growing.grown(_result(opened, dictionaries, settings, so_far, len(data)))

        what = f"effects of {prompts.name}{f', {number + 1} of {len(data)}' if len(data) > 1 else ''}"
        mean = mean_effects(opened, prompts.pairs, settings.method, dictionaries, growing, grown=grown, what=what)
        done.append(_selected(prompts, mean, settings))
        if growing.is_due and number + 1 < len(data):
            growing.grown(_result(opened, dictionaries, settings, done, len(data)))
    return _result(opened, dictionaries, settings, done, len(data))


# --- choosing -----------------------------------------------------------------------------------------------------


def effects_of(mean: MeanEffects) -> list[Effect]:
    """The features that have an effect, strongest first; errors are no features and stay out."""
    found = []
    for source, values in mean.features.items():
        indices = values.nonzero()[:, 0]
        found += [Effect(source, i, e) for i, e in zip(indices.tolist(), values[indices].tolist(), strict=True)]
    return selection.ranked(found)


def choose(effects: Sequence[Effect], settings: Select) -> list[Effect]:
    """What the rule of the settings chooses, in the order of published lists."""
    match settings.rule:
        case "threshold":
            return selection.over_threshold(effects, settings.threshold)
        case "per-site":
            return selection.top_per_site(effects, settings.count)
        case "stratified":
            return selection.stratified(effects, settings.count, settings.seed)
        case "random":
            return selection.at_random(effects, settings.count, settings.seed)
        case _:
            return selection.top(effects, settings.count)


def rule_text(settings: Select) -> str:
    """The rule in words."""
    match settings.rule:
        case "threshold":
            return f"|effect| over {settings.threshold:g}"
        case "per-site":
            return f"the {settings.count} with the largest |effect| of every dictionary"
        case "stratified":
            return f"{settings.count} from the lowest, middle and highest third of effects (seed {settings.seed})"
        case "random":
            return f"{settings.count} at random of those with an effect (seed {settings.seed})"
        case _:
            return f"the {settings.count} with the largest |effect|"


def key(effect: Effect) -> tuple[str, int]:
    """Which feature it is."""
    return effect.site, int(effect.index)


def _selected(prompts: PromptSet, mean: MeanEffects, settings: Select) -> Selected:
    effects = effects_of(mean)
    return Selected(prompts.name, prompts.origin, mean, effects, choose(effects, settings))


# --- sets ---------------------------------------------------------------------------------------------------------


def feature_set(name: str, effects: Sequence[Effect], pages: Mapping[str, str | None], rule: str) -> FeatureSet:
    """Features in the order given, with their dictionaries' pages on Neuronpedia; of very many the strongest."""
    if len(effects) > _MOST:
        effects = selection.top(effects, _MOST)
        rule = f"{rule[:-1]}; the {_MOST:,} strongest of them."
    members = (SetMember(FeatureRef(*key(e)), e.effect, pages.get(e.site)) for e in effects)
    return FeatureSet(name, tuple(members), rule)


def _sets(opened: OpenSet, done: Sequence[Selected], settings: Select) -> tuple[FeatureSet, ...]:
    """The choice of every data set, what each has and another has not, and what they share."""
    pages = {d.source: page_of(d) for d in opened.dictionaries.values()}
    rule = rule_text(settings)

    def made(name: str, effects: Sequence[Effect], how: str) -> FeatureSet:
        return feature_set(name, effects, pages, how)

    found = [made(one.name, one.choice, f"{rule[:1].upper()}{rule[1:]} over {one.name}.") for one in done]
    for one, other in permutations(done, 2):
        theirs = set(map(key, other.choice))
        how = f"Chosen over {one.name} and not over {other.name}; effects over {one.name}."
        found.append(made(f"{one.name} − {other.name}", [e for e in one.choice if key(e) not in theirs], how))
    groups = [*combinations(done, 2), *([tuple(done)] if len(done) > 2 else [])]
    for first, *others in groups:
        common = set.intersection(*(set(map(key, other.choice)) for other in others))
        name = " ∩ ".join(one.name for one in (first, *others))
        how = f"Chosen over all of {', '.join(one.name for one in (first, *others))}; effects over {first.name}."
        found.append(made(name, [e for e in first.choice if key(e) in common], how))
    return tuple(found)


# --- the result ---------------------------------------------------------------------------------------------------


def _result(
    opened: OpenSet, dictionaries: Sequence[Dictionary], settings: Select, done: Sequence[Selected], total: int
) -> StudyResult:
    names = ", ".join(one.name for one in done)
    figures, meanings = figures_of(done, settings)
    return result_of(
        opened,
        dictionaries,
        settings,
        f"Features that cause the answer over {names}: {rule_text(settings)}",
        figures=figures,
        meanings=meanings,
        tables=tables_of(opened, dictionaries, done),
        views=views_of(dictionaries, done),
        sets=_sets(opened, done, settings),
        notes=_notes(done, settings, total),
    )


def _notes(done: Sequence[Selected], settings: Select, total: int) -> tuple[str, ...]:
    notes = [
        *metric_notes([one.mean for one in done]),
        "Lists are ordered as published quicklists: by |effect|, grouped by dictionary. Errors are no members.",
    ]
    if settings.rule in {"stratified", "random"}:
        notes.append("Drawn from the features whose effect is not zero, without replacement.")
    notes += [f"{one.name} is the built-in data set." for one in done if not one.origin]
    notes += [note for one in done for note in pairs_notes(one.name, one.mean)]
    if len(done) < total:
        left = total - len(done)
        notes.append(f"{left} data {'set is' if left == 1 else 'sets are'} still to come.")
    return tuple(notes)
