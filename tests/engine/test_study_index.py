"""The study of a corpus index: what it answers, what it leaves on disk, and what it refuses."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.cards import CARDS, CONTEXTS, CORPUS, read_card
from engine.corpus.build import plan_of
from engine.corpus.index import open_index
from engine.corpus.stored import MANIFEST, read_manifest
from engine.corpus.text import identity_of
from engine.errors import BadRequest, Cancelled
from engine.events import Progress
from engine.headless import Headless
from engine.job import Job
from engine.protocol import Event, MeasureStudy, Open, StudyGrown, StudyResult
from engine.studies.index.study import folder_of
from engine.study_settings.index import Index
from tests import tiny
from tests.conftest import ROOT
from tests.engine.corpus_scene import COMMIT, text_file
from tests.engine.study_scene import numbers

COMMON: dict[str, Any] = {"context": 32, "contexts": 4, "rows": 3}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_file(tmp_path / "text", 150)


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    return tiny.save_dictionary(tmp_path / "set" / "1-res-tiny", "topk")


@pytest.fixture
def headless(llama_folder: Path, dictionary: Path) -> Headless:
    made = Headless(lambda *_: None)
    made.ask(Open(id=1, model=str(llama_folder), dictionaries=(str(dictionary),), device="cpu"))
    return made


def ask(headless: Headless, **settings: Any) -> StudyResult:
    found = headless.ask(MeasureStudy(id=2, settings=Index(**COMMON | settings)))
    return [e.result for e in found if isinstance(e, StudyGrown)][-1]


def test_the_study_answers_with_what_the_index_holds(headless: Headless, text: Path, tmp_path: Path) -> None:
    result = ask(headless, text=(str(text),), folder=str(tmp_path / "i"))
    index = open_index(tmp_path / "i")
    assert result.finished
    assert result.figures["tokens"] == index.progress.tokens
    assert result.figures["documents"] == 150
    assert result.figures["never_fired"] == int((index.fired("1-res-tiny") == 0).sum())
    assert set(result.figures) == set(result.meanings)
    features = result.table("features")
    for name, density, maximum, mean in zip(
        *(features.column(c) for c in ("feature", "density", "maximum", "mean")), strict=True
    ):
        at = int(str(name).partition(":")[2])
        assert density == pytest.approx(index.density("1-res-tiny")[at], rel=1e-5)
        assert maximum == pytest.approx(index.maximum("1-res-tiny")[at], rel=1e-5)
        assert mean == (pytest.approx(index.mean("1-res-tiny")[at], rel=1e-5) if density else None)
    densities = result.table("densities")
    alive = int((index.fired("1-res-tiny") > 0).sum())
    assert sum(numbers(densities, "1-res-tiny")) == alive
    for row in result.table("contexts").rows:
        at = int(str(row[0]).partition(":")[2])
        values = [c.value for c in index.contexts("1-res-tiny", at)]
        assert any(row[1] == pytest.approx(v, rel=1e-5) for v in values)


def test_a_second_run_has_nothing_to_read(headless: Headless, text: Path, tmp_path: Path) -> None:
    first = ask(headless, text=(str(text),), folder=str(tmp_path / "i"))
    again = ask(headless, text=(str(text),), folder=str(tmp_path / "i"))
    assert again.figures["tokens_per_second"] is None
    assert again.tables == first.tables


def test_without_a_folder_it_is_kept_in_the_users_place(headless: Headless, text: Path, tmp_path: Path) -> None:
    folder = Path(str(ask(headless, text=(str(text),)).figures["folder"]))
    assert folder.parent == tmp_path / "data" / "indexes"
    other = Path(str(ask(headless, text=(str(text),), tokens=300).figures["folder"]))
    assert other != folder


def test_cards_are_made_from_the_index(headless: Headless, text: Path, dictionary: Path, tmp_path: Path) -> None:
    ask(headless, text=(str(text),), folder=str(tmp_path / "i"), contexts=CONTEXTS, cards=True)
    index = open_index(tmp_path / "i")
    assert (dictionary / CARDS).is_file()
    checked = 0
    for feature in range(tiny.D_SAE):
        card, found = read_card(dictionary, feature), index.contexts("1-res-tiny", feature)
        assert card.density == pytest.approx(index.density("1-res-tiny")[feature])
        assert card.maximum == pytest.approx(index.maximum("1-res-tiny")[feature])
        assert sum(card.histogram) == index.fired("1-res-tiny")[feature]
        assert [c.ids for c in card.contexts] == [c.ids for c in found]
        assert [c.peak for c in card.contexts] == [c.peak for c in found]
        assert [c.origin for c in card.contexts] == [c.origin for c in found]
        for one, other in zip(card.contexts, found, strict=True):
            assert one.values == pytest.approx(other.values, abs=card.maximum / 30)
            checked += 1
    assert checked > 100


def test_a_killed_run_goes_on_and_counts_nothing_twice(
    headless: Headless, llama_folder: Path, dictionary: Path, tmp_path: Path
) -> None:
    text = text_file(tmp_path / "text", 60)
    arguments = [str(llama_folder), str(dictionary), str(text), str(tmp_path / "killed")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.corpus_killed", *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills, *reached = map(int, done.stdout.split())
    assert kills >= 3
    assert reached == sorted(reached)
    assert any(0 < n < reached[-1] for n in reached)
    ask(headless, text=(str(text),), folder=str(tmp_path / "whole"))
    whole, killed = open_index(tmp_path / "whole"), open_index(tmp_path / "killed")
    assert killed.progress.finished
    for name, array in whole._file.arrays().items():
        np.testing.assert_array_equal(array, killed._file.arrays()[name], name)


def test_cards_are_right_or_not_there(
    headless: Headless, text: Path, dictionary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at whatever moment, cards are never read beside the text of others."""
    ask(headless, text=(str(text),), folder=str(tmp_path / "i"), contexts=CONTEXTS, cards=True)
    before = [(dictionary / name).read_bytes() for name in (CARDS, CORPUS)]
    other = Index(**COMMON | {"contexts": CONTEXTS}, folder=str(tmp_path / "o"), cards=True,
                  text=(str(text_file(tmp_path / "other", 60, seed=1)),))  # fmt: skip
    said: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Progress) and "cards" in event.text:
            said.append(event.text)
            if len(said) == stop:
                job.cancel()

    for stop in (1, 2):
        job, said[:] = Job(2, emit), []
        with pytest.raises(Cancelled):
            headless.engine.handle(MeasureStudy(id=2, settings=other), job)
        assert said == ["making cards", "writing cards"][:stop]
        assert [(dictionary / name).read_bytes() for name in (CARDS, CORPUS)] == before
    monkeypatch.setattr("engine.training.feature_cards.write_cards", interrupted)
    with pytest.raises(KeyboardInterrupt):
        headless.engine.handle(MeasureStudy(id=2, settings=other), Job(2))
    assert (dictionary / CORPUS).read_bytes() != before[1]
    assert not (dictionary / CARDS).exists()


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_what_was_too_short_is_told(headless: Headless, text: Path, tmp_path: Path) -> None:
    note = next(
        n
        for n in ask(headless, text=(str(text),), folder=str(tmp_path / "i")).notes
        if "left out" in n and "fewer" in n
    )
    progress = open_index(tmp_path / "i").progress
    assert f"{progress.left_out:,} tokens" in note
    assert f"{progress.left_documents:,} whole documents" in note
    assert progress.left_documents > 10


def test_a_text_that_was_touched_names_the_index_it_leaves(headless: Headless, text: Path) -> None:
    first = ask(headless, text=(str(text),), tokens=300)
    assert not [note for note in first.notes if "changed" in note]
    os.utime(text, (1, 1))
    again = ask(headless, text=(str(text),), tokens=300)
    assert again.figures["folder"] != first.figures["folder"]
    assert [note for note in again.notes if "changed" in note and str(first.figures["folder"]) in note]
    assert not [note for note in ask(headless, text=(str(text),), tokens=300).notes if "changed" in note]
    other = ask(headless, text=(str(text),), tokens=400)
    assert not [note for note in other.notes if "changed" in note]


def test_home_is_found(headless: Headless, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(text.parent))
    there = ask(headless, text=(f"~/{text.name}",), folder=str(tmp_path / "i"), tokens=300)
    assert there.tables == ask(headless, text=(str(text),), folder=str(tmp_path / "i"), tokens=300).tables
    with pytest.raises(BadRequest, match=f"no file {text.parent}/nothing"):
        ask(headless, text=("~/nothing",))


def test_stopping_keeps_what_is_there(headless: Headless, text: Path, tmp_path: Path) -> None:
    """As Ctrl-C does: what was shown last is kept, and the next run goes on."""
    seen: list[int] = []

    class Stopped(Job):
        def rest(self) -> None:
            seen.append(1)
            if len(seen) == 20:
                raise KeyboardInterrupt

    settings = Index(**COMMON, text=(str(text),), folder=str(tmp_path / "i"))
    with pytest.raises(KeyboardInterrupt):
        headless.engine.handle(MeasureStudy(id=2, settings=settings), Stopped(2))
    kept = open_index(tmp_path / "i").progress
    assert kept.contexts > 0
    assert not kept.finished
    ask(headless, text=(str(text),), folder=str(tmp_path / "i"))
    ask(headless, text=(str(text),), folder=str(tmp_path / "whole"))
    for name, array in open_index(tmp_path / "whole")._file.arrays().items():
        np.testing.assert_array_equal(array, open_index(tmp_path / "i")._file.arrays()[name], name)


def test_shards_are_read_one_by_one_and_then_merged(headless: Headless, text: Path, tmp_path: Path) -> None:
    where = {"text": (str(text),), "folder": str(tmp_path / "i"), "shards": 3}
    one = ask(headless, **where, shard=1)
    assert any("Only shard 1 of 3" in note for note in one.notes)
    with pytest.raises(BadRequest, match="not whole"):
        open_index(tmp_path / "i")
    ask(headless, **where, shard=0)
    ask(headless, **where, shard=2)
    whole = ask(headless, text=(str(text),), folder=str(tmp_path / "whole"))
    merged = ask(headless, **where)
    assert merged.figures["tokens"] == whole.figures["tokens"]
    assert merged.table("contexts") == whole.table("contexts")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text": ("/nowhere.txt",)}, "no file /nowhere.txt"),
        ({"text": (" ",)}, "has no name"),
        ({"text": ("hf://",)}, "names no data set"),
        ({"text": ("hf://a/b?colour=red",)}, "'colour' is no setting"),
        ({"shard": 0}, "no number of --shards"),
        ({"shards": 2, "shard": 2}, "there is none 2"),
        ({"workers": 2}, "--ray"),
        ({"ray": "local", "shards": 1}, "nothing to spread"),
        ({"sources": ("9-res",)}, "reads 9-res"),
    ],
)
def test_what_cannot_be_done_is_refused(headless: Headless, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        ask(headless, **settings)


def test_text_that_is_too_short_is_told(headless: Headless, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("ab")
    with pytest.raises(BadRequest, match="16 tokens"):
        ask(headless, text=(str(tmp_path / "short.txt"),), folder=str(tmp_path / "i"))


def test_a_folder_of_something_else_is_left_alone(headless: Headless, text: Path) -> None:
    with pytest.raises(BadRequest, match="other things"):
        ask(headless, text=(str(text),), folder=str(text.parent))
    assert [f.name for f in text.parent.iterdir()] == ["text.jsonl"]


def test_a_finished_index_of_a_data_set_needs_no_network(
    headless: Headless, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    folder = Path(str(ask(headless, text=(str(text),), tokens=300).figures["folder"]))
    manifest = open_index(folder).manifest
    identity = identity_of((f"hf://owner/name?revision={COMMIT}",))
    (folder / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, text=identity)))
    shown = ask(headless, text=("hf://owner/name",), tokens=300, folder=str(folder))
    assert shown.figures["tokens"] == open_index(folder).progress.tokens
    assert any(COMMIT in note for note in shown.notes)
    with pytest.raises(BadRequest, match=rf"other text.*Add \?revision={COMMIT}"):
        ask(headless, text=(f"hf://owner/name?revision={'f' * 40}",), tokens=300, folder=str(folder))
    plan = plan_of(headless.engine.opened, list(headless.engine.opened.dictionaries.values()), ("hf://owner/name",),
                   tokens=300, **COMMON)  # fmt: skip
    folder.rename(folder_of(plan))  # found without being named, too
    assert ask(headless, text=("hf://owner/name",), tokens=300).figures["folder"] == str(folder_of(plan))


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_remedy_is_told(headless: Headless, text: Path) -> None:
    with pytest.raises(BadRequest, match=r"saescope\[ray\]"):
        ask(headless, text=(str(text),), ray="local")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_workers_of_ray_give_what_one_run_gives(headless: Headless, text: Path, tmp_path: Path) -> None:
    one = ask(headless, text=(str(text),), folder=str(tmp_path / "one"))
    many = ask(headless, text=(str(text),), folder=str(tmp_path / "many"), ray="local", workers=1, shards=2)
    assert many.figures["tokens"] == one.figures["tokens"]
    whole, spread = open_index(tmp_path / "one"), open_index(tmp_path / "many")
    for name, array in whole._file.arrays().items():
        np.testing.assert_allclose(array, spread._file.arrays()[name], rtol=1e-12, err_msg=name)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_workers_of_ray_can_be_left_before_a_shard_is_done(headless: Headless, text: Path, tmp_path: Path) -> None:
    """As soon as it rests for the first time, which is while the workers are being made."""
    settings = Index(**COMMON, text=(str(text),), folder=str(tmp_path / "i"), ray="local", workers=1, shards=2)

    def cancel() -> None:
        job.cancel()

    job = Job(2, meanwhile=cancel)
    with pytest.raises(Cancelled):
        headless.engine.handle(MeasureStudy(id=2, settings=settings), job)
    assert not list((tmp_path / "i").glob("shards/*/state.safetensors"))
    assert read_manifest(tmp_path / "i").shards == 2
