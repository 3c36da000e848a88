"""Concept coverage against plain loops over every sentence and every token."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from engine.errors import BadRequest
from engine.headless import Headless
from engine.studies.parts import pieces_of
from engine.studies.proxies import characters
from tests.engine.study_scene import open_engine, plain_activations, study, write

SOURCE = "1-res-tiny"
CONCEPTS = ("tin", "the inn", "fin", "of", "zz", "Qx")
TEMPLATES = ("in a {} there", "of the {}.")
TEXT = ("the tin and the fin were in the inn of the end zz", "a tin of things, of the finest and of no Qx at all")


@pytest.fixture(scope="module")
def engine(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Headless:
    return open_engine(llama_folder, *dictionary_folders)


def on_concept(engine: Headless, sentence: str, start: int, length: int) -> torch.Tensor:
    """[d_sae], the largest activation on the characters of a concept."""
    opened = engine.engine.opened
    ids = opened.ids(sentence, False)
    activations, _ = plain_activations(opened, SOURCE, ids)
    pieces = pieces_of(opened, ids)
    _, starts, ends = characters(pieces)
    inside = torch.from_numpy((starts < start + length) & (ends > start))
    inside[0] = False
    return (activations * inside[:, None]).amax(0) if inside.any() else torch.zeros(activations.shape[1])


def own_tokens(engine: Headless, concept: str, rows: list[tuple[torch.Tensor, torch.Tensor]], sinks: float) -> int:
    """Tokens of the text that count and are part of a concept."""
    found = 0
    for (_, norm), line in zip(rows, TEXT, strict=True):
        text, starts, ends = characters(pieces_of(engine.engine.opened, engine.engine.opened.ids(line, False)))
        for match in re.finditer(rf"(?<!\w){re.escape(concept)}(?!\w)", text):
            touched = (starts < match.end()) & (ends > match.start())
            found += sum(bool(on) and place > 0 and float(norm[place]) <= sinks for place, on in enumerate(touched))
    return found


def test_owners_are_those_of_a_plain_loop(engine: Headless, tmp_path: Path) -> None:
    margin, limit = 1.3, 0.05
    text_file = write(tmp_path, "text.jsonl", *(f'{{"text": "{t}"}}' for t in TEXT))
    concepts = (write(tmp_path, "list.txt", *CONCEPTS),)
    result = study(
        engine, "concepts", concepts=concepts, templates=TEMPLATES, margin=margin, elsewhere=limit, sources=(SOURCE,),
        text=(text_file,),
    )  # fmt: skip
    peaks = torch.stack(
        [
            torch.stack([on_concept(engine, t.replace("{}", c), t.index("{}"), len(c)) for t in TEMPLATES])
            for c in CONCEPTS
        ]
    )  # [concepts, templates, d_sae]
    mean, least = peaks.mean(1), peaks.amin(1)
    opened = engine.engine.opened
    rows = [plain_activations(opened, SOURCE, opened.ids(line, False)) for line in TEXT]
    sinks = 4 * torch.cat([norm for _, norm in rows]).median()
    counted = sum(int((norm[1:] <= sinks).sum()) for _, norm in rows)
    covered = 0
    for number, concept in enumerate(CONCEPTS):
        best: tuple[int, int] | None = None
        for feature in range(mean.shape[1]):
            value = float(mean[number, feature])
            others = float(torch.cat([mean[:number, feature], mean[number + 1 :, feature]]).max())
            if float(least[number, feature]) <= 0 or value < margin * others:
                continue
            elsewhere = 0
            for (f, norm), line in zip(rows, TEXT, strict=True):
                ids = opened.ids(line, False)
                pieces = pieces_of(opened, ids)
                text, starts, ends = characters(pieces)
                spans = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(concept)}(?!\w)", text)]
                for place in range(1, len(ids)):
                    own = any(starts[place] < b and ends[place] > a for a, b in spans)
                    elsewhere += (
                        not own and float(norm[place]) <= float(sinks) and float(f[place, feature]) >= value / 2
                    )
            if best is None or elsewhere < best[0]:
                best = (elsewhere, feature)
        row = result.table("concepts").rows[number]
        assert row[0] == concept
        if best is None:
            assert row[2] is None
            continue
        share = best[0] / (counted - own_tokens(engine, concept, rows, float(sinks)))
        own = share <= limit
        covered += own
        assert row[1] == ("yes" if own else "no")
        assert row[6] == pytest.approx(1e6 * share, rel=1e-5)
        index = int(str(row[2]).rpartition(":")[2])
        assert row[3] == pytest.approx(float(mean[number, index]), rel=1e-4)
    assert covered > 0
    assert result.figures["covered"] == covered == len(result.sets[0].members)
    occurrences = dict(zip(CONCEPTS, result.table("concepts").column("occurrences"), strict=True))
    assert occurrences == {"tin": 2, "the inn": 1, "fin": 1, "of": 4, "zz": 1, "Qx": 1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"concepts": ("/nowhere",)}, "cannot be read"),
        ({"concepts": ()}, "has 0 concepts"),
        ({"templates": ("no place",)}, "no place for the concept"),
        ({"templates": ("{} first",)}, "begins with the concept"),
        ({"text": ("SHORT",)}, "no stretch of 16 tokens"),
        ({"sources": ("nowhere",)}, "No open dictionary reads nowhere"),
    ],
)
def test_what_cannot_be_asked_is_said(engine: Headless, given: dict[str, object], message: str, tmp_path: Path) -> None:
    if given.get("text") == ("SHORT",):
        given = {"text": (write(tmp_path, "short.txt", "too short"),)}
    with pytest.raises(BadRequest, match=message):
        study(engine, "concepts", **given)


def test_built_in_lists_are_whole(engine: Headless) -> None:
    from engine.studies.concepts.study import BUILT_IN, concept_list

    for name in BUILT_IN:
        assert len(concept_list((name,))) > 30
