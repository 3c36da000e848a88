"""The token table against a loop over the text, a token at a time."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from engine.corpus.stored import MANIFEST, read_manifest
from engine.corpus.text import contexts_of, documents_of
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.formats.saelens import read_dictionary
from engine.headless_studies import study, study_settings
from engine.job import Job
from engine.loading import open_model
from engine.opening import OpenSet
from engine.protocol import Open
from engine.studies.measure import Growing
from engine.studies.tokens.study import measure
from engine.study_results import StudyResult
from engine.study_settings.index import Index
from engine.study_settings.tokens import TokenTable
from tests import tiny
from tests.engine.study_scene import figure

_TEXT = "in the end of the other thing a man of the sea and the moon in a house by the river"
WORDS = _TEXT.split()
CONTEXT = 40


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    picks = [torch.randint(0, len(WORDS), (25,), generator=generator).tolist() for _ in range(20)]
    file = tmp_path_factory.mktemp("text") / "words.jsonl"
    file.write_text("\n".join(json.dumps({"source": "s", "text": " ".join(WORDS[p] for p in row)}) for row in picks))
    return file


@pytest.fixture(scope="module", params=["topk", "abstopk"])
def opened(request: pytest.FixtureRequest, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenSet:
    folder = tmp_path_factory.mktemp("dictionaries") / "1-res-tiny"
    dictionary = read_dictionary(tiny.save_dictionary(folder, request.param))
    return OpenSet(open_model(llama_folder, "cpu"), {dictionary.source: dictionary}, False, "")


def asked(text: Path, *features: str, **more: Any) -> TokenTable:
    return TokenTable(**{"features": features, "text": (str(text),), "context": CONTEXT, "top": 15, **more})


def measured(opened: OpenSet, settings: TokenTable) -> StudyResult:
    return measure(opened, settings, Growing(Job()))


def rows(result: StudyResult, name: str, feature: str) -> list[dict[str, Any]]:
    table = result.table(name)
    names = [column.name for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.rows if row[0] == feature]


def by_hand(opened: OpenSet, text: Path, feature: int) -> list[tuple[float, int, list[int], list[int]]]:
    """(activation, token, five before, one after) of all tokens that count."""
    (dictionary,) = opened.dictionaries.values()
    contexts = list(contexts_of(opened, documents_of((str(text),)), CONTEXT))
    read = [
        opened.model.capture(torch.tensor([c.ids.tolist()]), [dictionary.site])[dictionary.site][0] for c in contexts
    ]
    found = []
    for start in range(0, len(read), 16):
        # sinks are told by the median norm of a batch
        limit = 4 * torch.cat(read[start : start + 16]).norm(dim=1).median()
        for context, x in zip(contexts[start : start + 16], read[start : start + 16], strict=True):
            activations = dictionary.encode(x)[:, feature].tolist()
            ids = context.ids.tolist()
            for place in range(1, len(ids)):
                if x[place].norm() <= limit:
                    before = ids[max(0, place - 5) : place]
                    found.append((activations[place], ids[place], before, ids[place + 1 : place + 2]))
    return found


def busiest(opened: OpenSet, text: Path) -> int:
    """The feature that fires on most tokens."""
    (dictionary,) = opened.dictionaries.values()
    contexts = contexts_of(opened, documents_of((str(text),)), CONTEXT)
    x = [
        opened.model.capture(torch.tensor([c.ids.tolist()]), [dictionary.site])[dictionary.site][0, 1:]
        for c in contexts
    ]
    return int((dictionary.encode(torch.cat(x)) != 0).sum(0).argmax())


def test_strongest_tokens_and_distinct_ones_are_those_found_by_hand(opened: OpenSet, text: Path) -> None:
    features = (3, busiest(opened, text))
    result = measured(opened, asked(text, *(f"1-res-tiny:{feature}" for feature in features)))
    tokenizer = opened.model.tokenizer
    for feature in features:
        name = f"1-res-tiny:{feature}"
        every = by_hand(opened, text, feature)
        fires = [found for found in every if found[0]]
        assert result.figures[f"{name} frequency"] == pytest.approx(len(fires) / len(every), rel=1e-5)
        shown = rows(result, "tokens", name)
        wanted = sorted(fires, key=lambda found: -abs(found[0]))[:15]
        assert [row["activation"] for row in shown] == pytest.approx([value for value, *_ in wanted], rel=1e-4)
        assert [row["rank"] for row in shown] == list(range(1, len(wanted) + 1))
        for row, (value, token, before, after) in zip(shown, wanted, strict=True):
            ties = [f for f in fires if f[0] == pytest.approx(value, rel=1e-4)]
            if len(ties) == 1:
                assert (row["before"], row["token"], row["after"]) == tuple(
                    map(tokenizer.text, (before, [token], after))
                )
        assert result.figures[f"{name} maximum"] == pytest.approx(wanted[0][0], rel=1e-4)

        activations = defaultdict(list)
        for value, token, *_ in every:
            activations[token].append(abs(value))
        distinct = rows(result, "distinct", name)
        assert [row["mean activation"] for row in distinct] == sorted(
            (row["mean activation"] for row in distinct), reverse=True
        )
        best = max(activations, key=lambda token: sum(activations[token]) / len(activations[token]))
        assert distinct[0]["id"] == best
        for row in distinct:
            values = activations[row["id"]]
            assert row["occurrences"] == len(values)
            assert row["mean activation"] == pytest.approx(sum(values) / len(values), rel=1e-4)
            assert row["share that fires"] == pytest.approx(sum(map(bool, values)) / len(values), rel=1e-5)
            assert row["share of firing"] == pytest.approx(sum(map(bool, values)) / len(fires), rel=1e-5)
            assert row["maximum"] == pytest.approx(max(values), rel=1e-4)
            assert row["token"] == tokenizer.token(row["id"]).text


def test_a_table_is_cut_at_the_top(opened: OpenSet, text: Path) -> None:
    result = measured(opened, asked(text, f"1-res-tiny:{busiest(opened, text)}", top=2))
    assert len(result.table("tokens").rows) == 2
    distinct = result.table("distinct")
    assert len(distinct.rows) == 2
    assert distinct.total is not None
    assert distinct.total > 2
    assert {"frequency", "maximum", "tokens read"} == set(result.figures) == set(result.meanings)


def test_a_feature_that_never_fires_has_no_rows(llama_folder: Path, tmp_path: Path, text: Path) -> None:
    dictionary: Dictionary = read_dictionary(tiny.save_dictionary(tmp_path / "1-res-tiny", "standard"))
    dictionary.b_enc[5] = -1e6
    silent = OpenSet(open_model(llama_folder, "cpu"), {dictionary.source: dictionary}, False, "")
    result = measured(silent, asked(text, "1-res-tiny:5"))
    assert result.table("tokens").rows == result.table("distinct").rows == ()
    assert result.figures["frequency"] == 0
    assert result.figures["maximum"] is None
    assert any("fired on no token" in note for note in result.notes)


def test_from_an_index_the_strongest_are_the_same(opened: OpenSet, text: Path, tmp_path: Path) -> None:
    from engine.studies.index.study import measure as build

    folder = tmp_path / "index"
    settings = Index(text=(str(text),), folder=str(folder), context=CONTEXT)
    build(opened, settings, Growing(Job()))
    name = f"1-res-tiny:{busiest(opened, text)}"
    read = measured(opened, asked(text, name, top=200))
    kept = measured(opened, of_index(folder, name))
    assert kept.figures["frequency"] == pytest.approx(read.figures["frequency"], rel=1e-4)
    best: dict[int, dict[str, Any]] = {}
    for row in rows(read, "tokens", name):  # an index keeps the strongest of each document
        best.setdefault(row["document"], row)
    there = rows(kept, "tokens", name)
    assert len(there) >= 10
    for row, wanted in zip(there, best.values(), strict=False):
        assert abs(row["activation"]) == pytest.approx(abs(wanted["activation"]), rel=1e-2)
        assert (row["before"], row["token"], row["after"]) == (wanted["before"], wanted["token"], wanted["after"])
    other = OpenSet(opened.model, opened.dictionaries, False, "another")
    with pytest.raises(BadRequest, match="another model"):
        measured(other, of_index(folder, "1-res-tiny:3"))
    for changed, match in (
        (replace(opened, folded=True), r"made without --fold.*Leave out --fold"),
        (replace(opened, bos=True), r"made with BOS off.*Add --bos off"),
    ):
        with pytest.raises(BadRequest, match=match):
            measured(changed, of_index(folder, "1-res-tiny:3"))
    manifest = read_manifest(folder)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, dtype="bfloat16")))
    with pytest.raises(BadRequest, match=r"made in bfloat16.*Add --dtype bfloat16"):
        measured(opened, of_index(folder, "1-res-tiny:3"))
    with pytest.raises(BadRequest, match="--index or --text"):
        measured(opened, asked(text, "1-res-tiny:3", index=str(folder)))


def of_index(folder: Path, *features: str) -> TokenTable:
    return TokenTable(features=features, index=str(folder), top=15)


def test_an_index_that_is_not_finished_says_so(opened: OpenSet, text: Path, tmp_path: Path) -> None:
    from engine.studies.index.study import measure as build

    class Stopped(Job):
        def rest(self) -> None:
            raise KeyboardInterrupt

    settings = Index(text=(str(text),), folder=str(tmp_path / "index"), context=CONTEXT, rows=4)
    with pytest.raises(KeyboardInterrupt):
        build(opened, settings, Growing(Stopped()))
    name = f"1-res-tiny:{busiest(opened, text)}"
    half = measured(opened, of_index(tmp_path / "index", name))
    assert any("not finished" in note and f"{half.figures['tokens read']:,} tokens" in note for note in half.notes)
    build(opened, settings, Growing(Job()))
    assert not any("not finished" in note for note in measured(opened, of_index(tmp_path / "index", name)).notes)


def test_what_was_too_short_is_told(opened: OpenSet, text: Path) -> None:
    notes = measured(opened, asked(text, "1-res-tiny:3")).notes
    contexts = contexts_of(opened, documents_of((str(text),)), CONTEXT)
    read = sum(len(c.ids) for c in contexts)
    every = sum(len(opened.model.tokenizer.encode(d.text, bos=False)) for d in documents_of((str(text),)))
    assert any(f"{every - read:,} tokens were left out" in note for note in notes)
    assert every > read


def test_what_may_be_wrong(opened: OpenSet, text: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("the sea")
    for settings, match in (
        (asked(text), "No feature was named"),
        (asked(text, "nonsense"), "nonsense"),
        (asked(text, "9-res:3"), "9-res"),
        (asked(text, "1-res-tiny:999"), "no feature 999"),
        (asked(tmp_path / "missing.txt", "1-res-tiny:3"), "no file"),
        (asked(short, "1-res-tiny:3"), "no stretch of 16"),
        (of_index(tmp_path / "none", "1-res-tiny:3"), "index"),
    ):
        with pytest.raises(BadRequest, match=match) as caught:
            measured(opened, settings)
        assert caught.value.remedy
    with pytest.raises(BadRequest, match="1000"):
        study_settings("tokens", {"features": ("1-res-tiny:3",), "top": 1001})
    assert study_settings("tokens", {"features": ("1-res-tiny:3",), "top": 1000})


@pytest.mark.default_set
def test_on_the_default_set(default_set: Path) -> None:
    settings = study_settings("tokens", {"features": ("4-res-sc:7",), "tokens": 400, "top": 3})
    result = study(Open(id=1), settings, report=lambda *_: None)
    assert result.finished
    assert 400 <= figure(result, "tokens read") < 540
