"""Data sets of prompts as text and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from engine.prompts.builtin import BUILT_IN, built_in, recipe
from engine.prompts.checking import Finding, PromptCheck
from engine.prompts.words import WORDS
from engine.protocol import Pair
from engine.text import terminal_safe_json, visible

KEYS: dict[str, dict[str, str]] = {
    "feature-circuits": {
        "clean": "clean_prefix", "patch": "patch_prefix", "answer": "clean_answer", "patch_answer": "patch_answer",
    },
    "saescope": {},
}  # fmt: skip
"""Whose names a row's keys can have, and which of ours are others there."""
_SHOWN = 20


class Listed(msgspec.Struct, frozen=True):
    """A built-in data set, with its first row."""

    name: str
    rows: int
    help: str
    template: str
    example: Pair


def listed() -> dict[str, Any]:
    """Built-in data sets and lists of words."""
    data = []
    for name, what in BUILT_IN.items():
        pairs = built_in(name).pairs
        data.append(Listed(name, len(pairs), what, recipe(name)[0].prompt, pairs[0]))
    return {"data_sets": data, "words": WORDS}


def listed_text() -> str:
    """The same to read."""
    found = listed()
    lines = ["Data sets, for --pairs:"]
    width = max(map(len, BUILT_IN))
    for one in found["data_sets"]:
        example = one.example
        lines.append(f"  {one.name:<{width}}  {one.rows} rows. {one.help}")
        lines.append(f"  {'':<{width}}  {example.clean}{example.answer} / {example.patch}{example.patch_answer}")
    lines.append("Lists of words, for templates:")
    width = max(map(len, WORDS))
    lines += [f"  {name:<{width}}  {len(words)}: {', '.join(words[:6])}, …" for name, words in WORDS.items()]
    return "\n".join(lines)


def json_lines(pairs: Iterable[Pair], keys: str) -> str:
    """One row a line, under one of `KEYS`; nothing in it acts on a terminal."""
    renamed = KEYS[keys]
    lines = []
    for pair in pairs:
        row: dict[str, Any] = msgspec.to_builtins(pair)
        row = {renamed.get(key, key): value for key, value in row.items()}
        lines.append(terminal_safe_json(json.dumps(row, ensure_ascii=False)))
    return "\n".join(lines)


def check_text(check: PromptCheck) -> str:
    """What can be used and what cannot, with reasons."""
    lengths = ", ".join(f"{count} of {length}" for length, count in check.lengths.items())
    where = f" ({visible(check.origin)})" if check.origin else " (built in)"
    lines = [f"{visible(check.name)}{where}: {check.usable} of {check.rows} rows can be used with {check.tokenizer}."]
    if lengths:
        lines.append(f"Tokens without BOS: {lengths}.")
    for title, findings in (("Left out", check.dropped), ("Noticed", check.noticed)):
        if findings:
            lines += [f"{title}:", *map(_line, findings[:_SHOWN])]
        if len(findings) > _SHOWN:
            lines.append(f"  … {len(findings) - _SHOWN:,} more")
    return "\n".join(lines)


def _line(finding: Finding) -> str:
    return f"  row {finding.row}, {visible(repr(finding.prompt[:60]))}: {visible(finding.reason)}"
