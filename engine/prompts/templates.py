"""Prompts from a template: a list of words against another gives clean and patch prompts that differ in one word.

In "{name} {verb} because" with men's names against women's, every pair has one name of each list and the same verb.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import lcm, prod

from engine.errors import BadRequest
from engine.prompts.words import WordList
from engine.protocol import Pair

Length = Callable[[str], int]
"""How many tokens a text is."""

MOST = 100_000
"""Rows that are made at once."""


@dataclass(frozen=True)
class Template:
    """A prompt and its answers, with fields in braces; `{{` and `}}` are braces."""

    prompt: str
    answer: str
    patch_answer: str | None = None


@dataclass(frozen=True)
class Built:
    """The rows of a data set, and what did not become one: a sentence each."""

    pairs: tuple[Pair, ...]
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contrast:
    """Words of the clean prompts against words of the patch prompts, in one field."""

    field: str
    clean: WordList
    patch: WordList


def build(
    template: Template,
    contrast: Contrast | None,
    shared: Mapping[str, WordList],
    *,
    count: int | None = None,
    seed: int | None = None,
    length: Length | None = None,
) -> Built:
    """At most `count` different rows; as many as the longest list has words otherwise.

    Words go round: row by row the next pair of contrasted words and the next of every other list, until all
    combinations are used up. Without a seed in the order of the lists, with one shuffled. With `length` only words are
    contrasted whose prompts have as many tokens; without, the words at the same place of both lists.

    Raises:
        BadRequest: a field has no words, words have no field, braces do not match, or nothing can be made.
    """
    given = {*shared, *([contrast.field] if contrast else [])}
    _check(template, given, contrast)
    draw = random.Random(seed) if seed is not None else None
    pairs, dropped = _contrasted(template, contrast, shared, draw, length) if contrast else ([("", "")], [])
    lists = [words.words for words in shared.values()]
    combinations = prod(map(len, lists))
    most = min(len(pairs) * combinations, MOST)
    wanted = min(max(len(pairs), *map(len, lists)) if lists else len(pairs), most) if count is None else count
    if wanted > most:
        why = f"these words make {most:,}" if most < MOST else f"at most {MOST:,} are made at once"
        dropped.append(f"{wanted:,} rows were asked for; {why}.")
        wanted = most
    order = draw.sample(range(combinations), min(combinations, wanted)) if draw else range(combinations)
    # all combinations come up once: after every common multiple of both lengths one side moves on by one
    block = lcm(len(pairs), len(order))
    rows: dict[Pair, None] = {}
    for number in range(min(wanted, len(pairs) * len(order))):
        clean, patch = pairs[number % len(pairs)]
        words = _combination(order[(number + number // block) % len(order)], list(shared), lists)
        rows[_row(template, contrast, words, clean, patch)] = None
    return Built(tuple(rows), tuple(dropped))


def swapped(pair: Pair) -> Pair:
    """The same pair with clean and patch exchanged.

    Raises:
        BadRequest: it has no patch prompt or no second answer.
    """
    if pair.patch is None or pair.patch_answer is None:
        raise BadRequest("Clean and patch cannot be exchanged where one is missing.", "Give both, and both answers.")
    return Pair(pair.patch, pair.patch_answer, pair.clean, pair.answer, pair.case)


def fields_of(text: str) -> list[str]:
    """The fields of a template in their order.

    Raises:
        BadRequest: braces do not match, or a field is no plain name.
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise BadRequest(
            f"The template {text!r} has unmatched braces: {error}.", "Write {{ and }} for braces."
        ) from None
    fields = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise BadRequest(
                f"The template {text!r} has a field that is no name.", 'Write names in braces, e.g. "{name} {verb}".'
            )
        fields.append(name)
    return fields


def _check(template: Template, given: set[str], contrast: Contrast | None) -> None:
    needed = fields_of(template.prompt)
    answers = [text for text in (template.answer, template.patch_answer) if text is not None]
    if not template.prompt or not all(answers):
        raise BadRequest("The prompt or an answer of the template is empty.", "Write both.")
    for name in dict.fromkeys([*needed, *(field for text in answers for field in fields_of(text))]):
        if name not in given:
            raise BadRequest(f"No words are given for {{{name}}}.", f"Give a list: --words {name}=LIST.")
    if unused := sorted(given - set(needed)):
        raise BadRequest(f"The prompt has no field {{{unused[0]}}}.", f"Write {{{unused[0]}}} into it.")
    if contrast is not None and template.patch_answer is None and contrast.field not in fields_of(template.answer):
        raise BadRequest("Clean and patch prompts would have the same answer.", "Give --patch-answer.")


def _contrasted(
    template: Template,
    contrast: Contrast,
    shared: Mapping[str, WordList],
    draw: random.Random | None,
    length: Length | None,
) -> tuple[list[tuple[str, str]], list[str]]:
    """Words against words, each used once, and why the others are not."""
    clean, patch = list(contrast.clean.words), list(contrast.patch.words)
    dropped = []
    for word in sorted(set(clean) & set(patch)):
        dropped.append(f"{word!r} is in {contrast.clean.name} and in {contrast.patch.name}: it contrasts with nothing.")
        clean.remove(word)
        patch.remove(word)
    if draw is not None:
        draw.shuffle(clean)
        draw.shuffle(patch)
    if length is None:
        pairs = list(zip(clean, patch, strict=False))
        left = [*clean[len(pairs) :], *patch[len(pairs) :]]
        dropped += [f"{word!r} has no counterpart: the other list is shorter." for word in left]
    else:
        others = {name: words.words[0] for name, words in shared.items()}
        sizes = {word: length(template.prompt.format(**others, **{contrast.field: word})) for word in {*clean, *patch}}
        pairs, free = [], list(patch)
        for word in clean:
            partner = next((other for other in free if sizes[other] == sizes[word]), None)
            if partner is None:
                dropped.append(
                    f"{word!r} makes prompts of {sizes[word]} tokens; no word of the other list that is left does."
                )
            else:
                free.remove(partner)
                pairs.append((word, partner))
        dropped += [
            f"{word!r} makes prompts of {sizes[word]} tokens; no word of the other list that is left does."
            for word in free
        ]
    if not pairs:
        reason = f" {dropped[0]}" if dropped else ""
        raise BadRequest(f"No word of one list goes with one of the other.{reason}", "Give other lists.")
    return pairs, dropped


def _combination(number: int, names: Sequence[str], lists: Sequence[Sequence[str]]) -> dict[str, str]:
    """The combination of this number, the first list changing fastest."""
    found = {}
    for name, words in zip(names, lists, strict=True):
        number, place = divmod(number, len(words))
        found[name] = words[place]
    return found


def _row(template: Template, contrast: Contrast | None, words: dict[str, str], clean: str, patch: str) -> Pair:
    if contrast is None:
        answer = template.patch_answer
        return Pair(
            template.prompt.format(**words),
            template.answer.format(**words),
            None,
            answer.format(**words) if answer is not None else None,
        )
    here, there = ({**words, contrast.field: word} for word in (clean, patch))
    other = template.patch_answer if template.patch_answer is not None else template.answer
    return Pair(
        template.prompt.format(**here),
        template.answer.format(**here),
        template.prompt.format(**there),
        other.format(**there),
    )
