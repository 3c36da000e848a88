"""From prompts and answers as text to batches of token ids of one length each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.errors import BadRequest, PromptTooLong
from engine.opening import OpenSet
from engine.prompts.checking import one_token
from engine.protocol import Pair

_BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Example:
    """One prompt, cut where the metric is read, with what it is compared with."""

    ids: tuple[int, ...]
    patch: tuple[int, ...] | None
    targets: tuple[int, ...]
    against: tuple[int, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A pair that cannot be used, and why."""

    pair: Pair
    reason: str


def answer_id(opened: OpenSet, text: str) -> int:
    """The one token that is `text`.

    Raises:
        BadRequest: it is none, or several.
    """
    tokenizer = opened.model.tokenizer
    if (answer := one_token(tokenizer, text)) is not None:
        return answer
    ids = tokenizer.encode(text, bos=False) if text else []
    pieces = " + ".join([*(repr(tokenizer.token(i).text) for i in ids[:6]), *(["…"] if len(ids) > 6 else [])])
    raise BadRequest(
        f"{text!r} is {len(ids)} tokens, not one{': ' + pieces if ids else ''}.",
        "An answer must be one token; mind the leading space.",
    )


def from_prompt(
    opened: OpenSet,
    prompt: str,
    patch: str | None,
    chat: bool,
    position: int | None,
    targets: Sequence[str],
    against: Sequence[str],
) -> Example:
    """One prompt, up to the token at `position` (the last where None).

    Raises:
        BadRequest: the position is outside, the patch has another length, or an answer is not one token.
    """
    ids = opened.checked_ids(prompt, chat)
    if position is not None and not -len(ids) <= position < len(ids):
        raise BadRequest(f"The prompt has no token {position}.", f"Its tokens are 0 to {len(ids) - 1}.")
    end = len(ids) if position is None else position % len(ids) + 1
    patched: tuple[int, ...] | None = None
    if patch == "":
        raise BadRequest("The patch prompt is empty.", "Leave it out for a baseline of zero.")
    if patch is not None:
        other = opened.checked_ids(patch, chat)
        if len(other) != len(ids):
            raise BadRequest(
                f"The patch prompt has {len(other)} token{'' if len(other) == 1 else 's'}, the prompt {len(ids)}.",
                "They must have the same number, so that positions correspond.",
            )
        patched = tuple(other[:end])
    wanted, others = (tuple(answer_id(opened, text) for text in texts) for texts in (targets, against))
    if wanted and set(wanted) == set(others):
        name = opened.model.tokenizer.token(wanted[0]).text
        raise BadRequest(f"{name!r} is compared with itself: the difference is always zero.", "Give two answers.")
    return Example(tuple(ids[:end]), patched, wanted, others)


def from_pairs(opened: OpenSet, pairs: Iterable[Pair]) -> tuple[list[Example], list[Skipped]]:
    """The pairs that can be used: one-token answers, prompts of equal length. The others with the reason.

    Raises:
        BadRequest: none can be used.
    """
    examples: list[Example] = []
    skipped: list[Skipped] = []
    for pair in pairs:
        try:
            against = () if pair.patch_answer is None else (pair.patch_answer,)
            examples.append(from_prompt(opened, pair.clean, pair.patch, False, None, (pair.answer,), against))
        except (BadRequest, PromptTooLong) as error:
            skipped.append(Skipped(pair, error.message))
    if not examples:
        reason = f" The first: {skipped[0].reason}" if skipped else ""
        raise BadRequest(f"None of the {len(skipped)} pairs can be used.{reason}", "See `saescope circuit --help`.")
    if len({(e.patch is None, len(e.against)) for e in examples}) > 1:
        raise BadRequest("Some pairs have a patch prompt or a second answer and some have none.", "Split the file.")
    return examples, skipped


def batches(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples of one length together, at most about a thousand tokens each, in order of first appearance."""
    by_length: defaultdict[int, list[Example]] = defaultdict(list)
    for example in examples:
        by_length[len(example.ids)].append(example)
    found = []
    for length, group in by_length.items():
        size = max(1, _BATCH_TOKENS // length)
        found += [group[start : start + size] for start in range(0, len(group), size)]
    return found
