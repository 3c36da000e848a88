"""The data sets that come with the program: those of the thesis on gender bias in kind, with our own words.

Fifty rows each: fifty verbs, one pair of names or professions a row. `…_female` has clean and patch exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.prompts.templates import Built, Contrast, Length, Template, build, swapped
from engine.prompts.words import WORDS, WordList

ROWS = 50


@dataclass(frozen=True)
class BuiltIn:
    """A data set as a template and the lists that fill it."""

    template: Template
    field: str
    clean: str
    patch: str
    help: str
    """What it asks, in one line."""


_NAMES = "{name} {verb} because"
_WORK = "The {profession} {verb} because"
_PLAIN = {
    "names": BuiltIn(
        Template(_NAMES, " he", " she"), "name", "male_names", "female_names",
        "Does a man's name call for “he”, against a woman's?",
    ),
    "baseline_names": BuiltIn(
        Template(_NAMES, " {name}"), "name", "male_names", "female_names",
        "Control: the answer is the name itself, against a woman's.",
    ),
    "prof_stereo": BuiltIn(
        Template(_WORK, " he", " she"), "profession", "he_professions", "she_professions",
        "Does a profession taken to be men's call for “he”, against one taken to be women's?",
    ),
    "prof_anti": BuiltIn(
        Template(_WORK, " he", " she"), "profession", "she_professions", "he_professions",
        "The same against the stereotype: “he” after a profession taken to be women's.",
    ),
}  # fmt: skip
_SWAPPED = "_female"

BUILT_IN: dict[str, str] = {
    name + end: f"{one.help}{' Clean and patch exchanged.' if end else ''}"
    for name, one in _PLAIN.items()
    for end in ("", _SWAPPED)
}
"""Name → what it asks."""


def recipe(name: str) -> tuple[Template, Contrast, dict[str, WordList]]:
    """What a built-in data set is made of, before clean and patch are exchanged. KeyError where there is none."""
    one = _PLAIN[name.removesuffix(_SWAPPED)]
    contrast = Contrast(one.field, WordList(one.clean, WORDS[one.clean]), WordList(one.patch, WORDS[one.patch]))
    return one.template, contrast, {"verb": WordList("verbs", WORDS["verbs"])}


def built_in(name: str, *, count: int | None = ROWS, seed: int | None = None, length: Length | None = None) -> Built:
    """A built-in data set; arguments as those of `build`. KeyError where there is none."""
    made = build(*recipe(name), count=count, seed=seed, length=length)
    return Built(tuple(map(swapped, made.pairs)), made.dropped) if name.endswith(_SWAPPED) else made
