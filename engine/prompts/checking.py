"""Whether a data set of prompts fits a tokenizer: what can be used, what cannot and why, and what looks like a slip.

The rules are those by which circuits take pairs (`engine.circuits.examples`), without a model: answers of one token,
clean and patch prompts of as many tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from engine.protocol import Pair
from engine.tokenizer import TextTokenizer


class Finding(msgspec.Struct, frozen=True):
    """Something about one row."""

    row: int
    """Counted from 1."""
    prompt: str
    reason: str


class PromptCheck(msgspec.Struct, frozen=True):
    """A data set beside a tokenizer."""

    name: str
    origin: str
    """The file; "" for a built-in data set."""
    tokenizer: str
    rows: int
    usable: int
    lengths: dict[str, int]
    """Tokens of a prompt, without BOS → usable rows of that length."""
    dropped: tuple[Finding, ...]
    """Rows that cannot be used; studies leave them out with the same reason."""
    noticed: tuple[Finding, ...]
    """Rows that can be used and look like a slip."""


def one_token(tokenizer: TextTokenizer, text: str) -> int | None:
    """The one token that `text` is, or is after a space where it begins without one; None where it is neither."""
    for form in (text, *(() if text.startswith(" ") else (" " + text,))):
        if text and len(ids := tokenizer.encode(form, bos=False)) == 1:
            return ids[0]
    return None


def check_pairs(
    tokenizer: TextTokenizer, pairs: Iterable[Pair], *, name: str, origin: str, tokenizer_name: str
) -> PromptCheck:
    """Check every row; token counts leave BOS out, which clean and patch have alike."""
    rows = list(pairs)
    dropped: list[Finding] = []
    noticed: list[Finding] = []
    lengths: Counter[int] = Counter()
    first: dict[Pair, int] = {}
    for number, pair in enumerate(rows, 1):
        if (reason := unusable(tokenizer, pair)) is not None:
            dropped.append(Finding(number, pair.clean, reason))
            continue
        lengths[len(tokenizer.encode(pair.clean, bos=False))] += 1
        plain = msgspec.structs.replace(pair, case="")
        if (earlier := first.setdefault(plain, number)) != number:
            noticed.append(Finding(number, pair.clean, f"It is the same as row {earlier}."))
        noticed += [Finding(number, pair.clean, reason) for reason in slips(tokenizer, pair)]
    counts = {str(length): lengths[length] for length in sorted(lengths)}
    return PromptCheck(
        name, origin, tokenizer_name, len(rows), len(rows) - len(dropped), counts, tuple(dropped), tuple(noticed)
    )


def unusable(tokenizer: TextTokenizer, pair: Pair) -> str | None:
    """Why a pair cannot be used, in one sentence; None where it can."""
    clean = tokenizer.encode(pair.clean, bos=False)
    if not clean:
        return "The prompt is empty."
    if pair.patch is not None:
        patch = tokenizer.encode(pair.patch, bos=False)
        if len(patch) != len(clean):
            tokens = f"{len(patch)} token{'' if len(patch) == 1 else 's'}"
            return f"The patch prompt has {tokens}, the prompt {len(clean)}."
    answers = [pair.answer] if pair.patch_answer is None else [pair.answer, pair.patch_answer]
    for text in answers:
        if one_token(tokenizer, text) is None:
            return _not_one(tokenizer, text)
    if len({one_token(tokenizer, text) for text in answers}) < len(answers):
        return f"{pair.answer!r} is compared with itself: the difference is always zero."
    return None


def slips(tokenizer: TextTokenizer, pair: Pair) -> list[str]:
    """What looks like a slip in a pair that can be used: a sentence each."""
    found = []
    if pair.clean == pair.patch:
        found.append("Clean and patch prompt are the same, so every effect is zero.")
    prompts = (pair.clean, pair.patch)
    if any(prompt is not None and prompt[-1:].isspace() for prompt in prompts):
        found.append("The prompt ends with a space, which usually belongs to the token that follows.")
    for text, prompt in zip((pair.answer, pair.patch_answer), prompts, strict=True):
        if text is None or text[:1].isspace() or (prompt or pair.clean)[-1:].isspace():
            continue
        after_space = tokenizer.encode(" " + text, bos=False)
        if text[:1].isalnum() and len(after_space) == 1 and after_space[0] != one_token(tokenizer, text):
            found.append(f"{text!r} has no leading space; after this prompt the model's next word is {' ' + text!r}.")
    return found


def _not_one(tokenizer: TextTokenizer, text: str) -> str:
    ids = tokenizer.encode(text, bos=False) if text else []
    pieces = " + ".join([*(repr(tokenizer.token(i).text) for i in ids[:6]), *(["…"] if len(ids) > 6 else [])])
    return f"{text!r} is {len(ids)} tokens, not one{': ' + pieces if ids else ''}."
