"""Steering study: the smallest strength of every feature that flips an answer, over prompts.

What is added is strength · decoder row, by default at every token of the prompt, the last one included, and at every
generated token; what the dictionary does not explain stays. Strengths are tried from small to large and bisected
between the last that does not flip and the first that does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from engine.circuits.examples import Example
from engine.errors import BadRequest
from engine.memory.use import telling_out_of_memory
from engine.opening import OpenSet
from engine.prompts.datasets import prompt_sets
from engine.protocol import Pair
from engine.results import FeatureRef
from engine.steering.values import STRONGEST, largest_activation
from engine.steering_results import Positions, parse_positions
from engine.studies.effects import examples_of
from engine.studies.given import features_in, given_sets
from engine.studies.measure import Growing
from engine.studies.parts import result_of
from engine.studies.steering import tables as steering_tables
from engine.studies.steering.flips import Asked, Prompt, Sign, Vector, cannot_act
from engine.studies.steering.tables import Case, Found
from engine.study_results import StudyResult
from engine.study_settings.steering import Steering

_SIGNS: dict[str, tuple[Sign, ...]] = {
    "positive": ("positive",), "negative": ("negative",), "both": ("positive", "negative"),
}  # fmt: skip


@dataclass(frozen=True)
class _Task:
    """One prompt of a data set, and what it is called in plots."""

    pairs: str
    label: str
    text: str
    example: Example


def measure(opened: OpenSet, settings: Steering, growing: Growing) -> StudyResult:
    """Seek the flip of every feature on every prompt; grows prompt by prompt.

    Raises:
        BadRequest: no data set, a pair set without a second answer, no feature or one that is not open, a maximum that
            is not known, positions or a strength without meaning.
        PromptTooLong: a prompt and the tokens generated exceed the model's context.
    """
    asked = Asked(_positions(settings), settings.strongest, _SIGNS[settings.sign], settings.tokens)
    features = features_in(given_sets(opened, settings.features))
    vectors = [Vector(ref, _unit(opened, ref, settings)) for ref in features]
    tasks, notes = _tasks(opened, settings)
    notes = [*_notes(settings), *notes, *_silent(opened, features, asked, tasks)]
    dictionaries = opened.choose(tuple({ref.source for ref in features}))
    count = f"{len(features)} feature{'' if len(features) == 1 else 's'}"
    title = f"Strengths of {count} that flip answers of {', '.join(dict.fromkeys(t.pairs for t in tasks))}"
    found: list[Found] = []

    def result() -> StudyResult:
        told = steering_tables.told(opened, settings, found)
        return result_of(opened, dictionaries, settings, title, **told, notes=tuple(notes))

    with telling_out_of_memory():
        for number, task in enumerate(tasks):
            growing.rest()
            prompt = _prompt(opened, task, asked, growing)
            case = _case(opened, task, prompt)
            for place, vector in enumerate(vectors):
                done = number * len(vectors) + place
                growing.progress("seeking flips", done, len(tasks) * len(vectors))
                growing.rest()
                found.append(Found(case, vector, prompt.flips(vector, control=settings.control)))
                if growing.is_due and done + 1 < len(tasks) * len(vectors):
                    growing.grown(result())
    return result()


def _prompt(opened: OpenSet, task: _Task, asked: Asked, growing: Growing) -> Prompt:
    example = task.example
    return Prompt(opened, example.ids, example.against[0], example.targets[0], asked, growing.job)


def _case(opened: OpenSet, task: _Task, prompt: Prompt) -> Case:
    token = opened.model.tokenizer.token
    answer, sought = token(task.example.targets[0]).text, token(task.example.against[0]).text
    return Case(task.pairs, task.label, task.text, answer, sought, prompt.margin)


# --- what was asked for -----------------------------------------------------------------------------------------------


def _positions(settings: Steering) -> Positions:
    if not math.isfinite(settings.strongest) or settings.strongest >= STRONGEST:
        raise BadRequest(f"{settings.strongest:g} is not a strength.", "Use a number such as 10.")
    return parse_positions(settings.positions)


def _unit(opened: OpenSet, ref: FeatureRef, settings: Steering) -> float:
    if settings.unit == "raw":
        return 1.0
    try:
        return largest_activation(opened.dictionaries[ref.source], ref.index)
    except BadRequest as error:
        raise BadRequest(error.message, "Use --unit raw, or leave the feature out.") from None


def _tasks(opened: OpenSet, settings: Steering) -> tuple[list[_Task], list[str]]:
    """The prompts of all data sets, and sentences about pairs that cannot be used."""
    tasks: list[_Task] = []
    notes = []
    sets = prompt_sets(settings.pairs, settings.examples)
    for one in sets:
        alone = replace(one, pairs=tuple(msgspec.structs.replace(pair, patch=None) for pair in one.pairs))
        examples, skipped = examples_of(opened, alone)
        if not examples[0].against:
            raise BadRequest(f"{one.name} has no second answers to flip to.", "Give each pair a patch_answer.")
        if skipped:
            notes.append(f"{len(skipped)} pairs of {one.name} cannot be used; `saescope prompts` says why.")
        left_out = {id(s.pair) for s in skipped}
        used = [(n, pair) for n, pair in enumerate(alone.pairs, 1) if id(pair) not in left_out]
        tasks += _named(opened, one.name if len(sets) > 1 else "", one.name, used, examples, settings.tokens)
    return tasks, notes


def _named(
    opened: OpenSet,
    prefix: str,
    name: str,
    pairs: Sequence[tuple[int, Pair]],
    examples: Sequence[Example],
    tokens: int,
) -> Iterator[_Task]:
    """Tasks of pairs and their numbers in the data set, so that one finds them there."""
    for (number, pair), example in zip(pairs, examples, strict=True):
        opened.checked_ids(pair.clean, False, tokens)
        yield _Task(name, f"{prefix} {number}".strip(), pair.clean, example)


# --- words ------------------------------------------------------------------------------------------------------------


def _notes(settings: Steering) -> list[str]:
    everywhere = "every token of the prompt, the last one included, and every generated one"
    where = everywhere if settings.positions == "all" else f"positions {settings.positions} only"
    if settings.tokens == 1:
        how = "An answer is flipped where the other answer's logit is the larger one after the prompt."
    else:
        how = f"An answer is flipped where greedy text of {settings.tokens} tokens says the other answer first."
    notes = [
        how,
        f"Steering adds strength · decoder row at {where}.",
        "A flip that comes and goes between two strengths that were tried is not seen.",
    ]
    if settings.control:
        notes.append("Random directions have the length of the decoder row, one for each feature.")
    return notes


def _silent(opened: OpenSet, features: Sequence[FeatureRef], asked: Asked, tasks: Sequence[_Task]) -> list[str]:
    """Why features cannot act, each reason once."""
    lengths = dict.fromkeys(len(task.example.ids) for task in tasks)
    reasons = (cannot_act(opened, ref, asked.positions, n, asked.tokens) for ref in features for n in lengths)
    found = list(dict.fromkeys(reason for reason in reasons if reason is not None))
    return found[:20] + ([f"… and {len(found) - 20} more reasons why features cannot act."] if len(found) > 20 else [])
