"""Files of labels as they are found: Neuronpedia's exports, annotations, our own; whole, dirty and cut off."""

from __future__ import annotations

import gzip
import json
import os
import random
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadRequest
from engine.labels import lines as reading
from engine.labels.exports import Tally, explanations
from engine.labels.imports import Imported, form_of, import_labels
from engine.labels.names import component_map
from engine.labels.rows import Row
from engine.labels.store import LabelStore
from engine.results import Label

GPT = ("gpt2-small", "7-res-jb")
PYTHIA = "pythia-70m-deduped"
SAMPLES = Path(os.environ.get("SAESCOPE_SAMPLES") or "missing")
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="SAESCOPE_SAMPLES names no folder")


def explanation(index: Any, description: Any = "names of cities", **more: Any) -> dict[str, Any]:
    """A row as Neuronpedia's export has it."""
    return {
        "id": f"cl{index}x", "modelId": "gpt2-small", "layer": "7-res-jb", "index": str(index), "authorId": "clk0",
        "description": description, "embedding": None, "typeName": "oai_token-act-pair",
        "explanationModelName": "gpt-4o-mini", "umap_x": 0.5, "umap_y": 0, "umap_cluster": 0,
        "umap_log_feature_sparsity": 0, **more,
    }  # fmt: skip


def written(file: Path, rows: Iterable[Any]) -> Path:
    """JSON lines, packed where the name says so; what is a text already stays as it is."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    data = text.encode("utf-8", "surrogatepass")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


def imported(path: Path, **how: Any) -> Imported:
    (result,) = import_labels(LabelStore(), path, **how)
    return result


def texts(index: int, place: tuple[str, str] = GPT) -> list[str]:
    return [label.text for label in LabelStore().labels(*place, index)]


def resident() -> int:
    """Bytes of memory this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- Neuronpedia's exports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["batch-0.jsonl.gz", "batch-0.jsonl", "anything"])
def test_an_export_whatever_its_order_and_name(tmp_path: Path, name: str) -> None:
    """Indices are text and sorted as text; the file's name says nothing."""
    file = written(tmp_path / name, [explanation(i, f"label {i}") for i in (0, 1, 10, 100, 2, 24_575)])
    result = imported(file)
    assert (result.form, result.labels, result.places, result.notes) == ("explanations", 6, (GPT,), ())
    assert LabelStore().labels(*GPT, 100) == (Label("label 100", "gpt-4o-mini", "oai_token-act-pair"),)
    assert texts(24_575) == ["label 24575"]


def test_packed_whatever_its_name_says(tmp_path: Path) -> None:
    file = tmp_path / "batch-0.jsonl"
    file.write_bytes(gzip.compress(json.dumps(explanation(1)).encode()))
    assert imported(file).labels == 1


@pytest.mark.parametrize("as_text", [True, False])
def test_embeddings_as_text_and_as_list(tmp_path: Path, as_text: bool) -> None:
    numbers = random.Random(0)
    vectors = [[numbers.gauss(0, 0.06) for _ in range(256)] for _ in range(20)]
    rows = [
        explanation(i, embedding="[" + ",".join(map(str, v)) + "]" if as_text else v) for i, v in enumerate(vectors)
    ]
    imported(written(tmp_path / "batch-0.jsonl.gz", rows))
    query, hits, total = LabelStore().like(*GPT, 0, top=3)
    matrix = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = matrix[1:] @ matrix[0]
    assert [hit.index for hit in hits] == (np.argsort(-cosines)[:3] + 1).tolist()
    assert [hit.score for hit in hits] == pytest.approx(np.sort(cosines)[::-1][:3].tolist(), abs=1e-3)
    assert (query, total) == ("names of cities", 19)


@pytest.mark.parametrize(
    "embedding",
    ["", "[", "[1, 2", "null", '["a", "b"]', [1, "x"], [True, False], {"a": 1}, 5, "[" * 9999, [10**400, 1]],
)
def test_a_damaged_embedding_costs_no_label(tmp_path: Path, embedding: Any) -> None:
    result = imported(written(tmp_path / "b.jsonl", [explanation(1, embedding=embedding)]))
    assert texts(1) == ["names of cities"]
    assert LabelStore().counts()[0].embeddings == 0
    said = () if embedding == "" else ("1 damaged embedding left out, the label kept",)
    assert result.notes == said


def test_what_is_damaged_is_left_out_and_told(tmp_path: Path) -> None:
    rows = [
        explanation(1), "{", "[1]", "5", "", explanation("x"), explanation(-1), explanation("9" * 30),
        explanation(True), explanation(2, None), explanation(3, "  "), explanation(4, 7), explanation(5, modelId=None),
        explanation(6, layer=7), "[" * 100_000, explanation(7, "nul \0 and half \ud800"), explanation(8, "again"),
        explanation(8, "the last"), explanation(9, explanationModelName=None, typeName=None),
    ]  # fmt: skip
    result = imported(written(tmp_path / "b.jsonl.gz", rows))
    assert result.labels == 4
    assert result.notes == (
        "11 damaged lines left out (line 2, 3, 4, 5, 6, …)",
        "2 explanations without text left out",
        "1 duplicate, of which the last counts",
    )
    assert texts(7) == ["nul ␀ and half ?"]
    assert texts(8) == ["the last"]
    assert LabelStore().labels(*GPT, 9) == (Label("names of cities", "Neuronpedia"),)


@pytest.mark.parametrize(("times", "said"), [(1, ()), (2, ("1 duplicate",)), (4, ("3 duplicates",))])
def test_duplicates_are_counted(tmp_path: Path, times: int, said: tuple[str, ...]) -> None:
    result = imported(written(tmp_path / "b.jsonl", [explanation(1)] * times))
    assert (result.labels, result.notes) == (1, tuple(f"{each}, of which the last counts" for each in said))


@given(
    st.lists(
        st.binary(max_size=80)
        | st.dictionaries(st.text(max_size=9), st.integers()).map(lambda d: json.dumps(d).encode())
    )
)
@settings(deadline=None)
def test_any_lines_are_read(tmp_path_factory: pytest.TempPathFactory, rows: list[bytes]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(b"\n".join([json.dumps(explanation(1)).encode(), *rows]))
    assert [row.index for row in explanations(file, Tally())] == [1]


def test_a_file_that_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    file = written(
        tmp_path / "batch-3.jsonl.gz", [explanation(i, f"label {i} {os.urandom(99).hex()}") for i in range(3000)]
    )
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-6], whole[:5000] + os.urandom(500) + whole[5500:]):
        file.write_bytes(damaged)
        with pytest.raises(BadRequest, match=r"batch-3\.jsonl\.gz is cut off or damaged .* nothing of it was kept"):
            import_labels(LabelStore(), file)
        assert LabelStore().counts() == []


def test_a_bomb_is_not_unpacked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_NO_BOMB", 1 << 20)
    file = tmp_path / "b.jsonl.gz"
    with gzip.open(file, "wb") as out:
        out.write(json.dumps(explanation(1)).encode() + b"\n")
        for _ in range(60_000):
            out.write(b'{"a": "' + b"x" * 1000 + b'"}\n')
    with pytest.raises(BadRequest, match="unpacks to over 200 times its size"):
        import_labels(LabelStore(), file)
    assert LabelStore().counts() == []


def test_a_line_without_end_does_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_LINE", 100_000)
    file = written(tmp_path / "b.jsonl", [explanation(1), "x" * 5_000_000, explanation(2)])
    tracemalloc.start()
    found = list(reading.lines(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line is None for line in found] == [False, True, False]
    assert peak < 1_000_000


def test_a_large_export_is_a_stream(tmp_path: Path) -> None:
    """50,000 rows, 30 MB unpacked and more as objects, pass through in a few megabytes."""
    numbers = random.Random(0)
    vector = "[" + ",".join(f"{numbers.gauss(0, 0.06):.6f}" for _ in range(256)) + "]"
    file = tmp_path / "big.jsonl.gz"
    with gzip.open(file, "wt", compresslevel=1) as out:
        for i in range(50_000):
            row = explanation(i, f"label {i}", embedding=vector if i % 10 == 0 else None)
            out.write(json.dumps(row) + "\n")
    passed: list[int] = []
    store = LabelStore()
    tally = Tally()

    def watched() -> Iterable[Row]:
        for number, row in enumerate(explanations(file, tally)):
            if number % 10_000 == 0:
                passed.append(resident())
            yield row

    with store.filling("big") as filling:
        filling.add(watched())
    assert (filling.labels, tally.embeddings) == (50_000, 5_000)
    assert len(passed) == 5
    assert max(passed) - passed[0] < 16_000_000
    assert store.search("49999")[1] == 1


def test_other_names_for_model_and_source(tmp_path: Path) -> None:
    file = written(tmp_path / "b.jsonl", [explanation(1)])
    imported(file, model="gpt2", source="7-res-own")
    assert texts(1, ("gpt2", "7-res-own")) == ["names of cities"]
    written(file, [explanation(1), explanation(2, layer="8-res-jb")])
    with pytest.raises(BadRequest, match="several sources: 7-res-jb, 8-res-jb"):
        import_labels(LabelStore(), file, source="7-res-own")
    assert imported(file, model="gpt2").places == (("gpt2", "7-res-jb"), ("gpt2", "8-res-jb"))
    assert texts(1, ("gpt2", "7-res-own")) == []


def test_a_folder_of_everything(tmp_path: Path) -> None:
    """The tree of the bucket: explanations are read, the rest is known and left out, one cut file costs itself only."""
    tree = tmp_path / "v1" / "gpt2-small" / "7-res-jb"
    for batch in range(3):
        written(tree / "explanations" / f"batch-{batch}.jsonl.gz", [explanation(batch * 10 + i) for i in range(10)])
    cut = tree / "explanations" / "batch-1.jsonl.gz"
    cut.write_bytes(cut.read_bytes()[:-20])
    feature = {"modelId": "gpt2-small", "layer": "7-res-jb", "index": "5", "maxActApprox": 3.5, "pos_str": ["a"]}
    activation = {"modelId": "gpt2-small", "layer": "7-res-jb", "index": "5", "tokens": ["a\0"], "values": [1.0]}
    written(tree / "features" / "batch-0.jsonl.gz", [feature])
    written(tree / "activations" / "batch-0.jsonl.gz", [activation])
    written(tree / "source.jsonl", [{"modelId": "gpt2-small", "id": "7-res-jb"}])
    (tree / "README.txt").write_text("hello")
    results = {Path(each.file).relative_to(tree).as_posix(): each for each in import_labels(LabelStore(), tmp_path)}
    assert {name: (each.form, each.labels) for name, each in results.items()} == {
        "activations/batch-0.jsonl.gz": ("activations", 0),
        "explanations/batch-0.jsonl.gz": ("explanations", 10),
        "explanations/batch-1.jsonl.gz": ("unknown", 0),
        "explanations/batch-2.jsonl.gz": ("explanations", 10),
        "features/batch-0.jsonl.gz": ("features", 0),
        "source.jsonl": ("unknown", 0),
    }
    assert "cut off" in results["explanations/batch-1.jsonl.gz"].refused
    assert results["features/batch-0.jsonl.gz"].notes == (
        "Neuronpedia's features were left out: only explanations are labels",
    )
    assert LabelStore().counts()[0].features == 20
    import_labels(LabelStore(), tmp_path)
    assert LabelStore().counts()[0].labels == 20


def test_what_has_no_labels_is_refused(tmp_path: Path) -> None:
    activations = written(tmp_path / "a" / "b.jsonl", [{"tokens": [], "values": []}])
    with pytest.raises(BadRequest, match="Neuronpedia's activations were left out"):
        import_labels(LabelStore(), activations)
    with pytest.raises(BadRequest, match="has no file with labels"):
        import_labels(LabelStore(), activations.parent)
    with pytest.raises(BadRequest, match="cannot be read"):
        import_labels(LabelStore(), tmp_path / "missing")
    with pytest.raises(BadRequest, match="has no explanations: 1 explanation without text"):
        import_labels(LabelStore(), written(tmp_path / "e.jsonl", [explanation(1, "")]))
    with pytest.raises(BadRequest, match="no rows of a form that is known"):
        import_labels(LabelStore(), written(tmp_path / "n.jsonl", ["nothing", "{}"]))
    assert LabelStore().counts() == []


# --- annotations --------------------------------------------------------------------------------------------------


def test_annotations_with_their_dirt(tmp_path: Path) -> None:
    rows = [
        {"Component": "Component", "Layer": "", "Feature": "", "Name": "Name", "Annotation": "Annotation"},
        {"Component": "resid", "Layer": "5", "Feature": "3036", "Name": "resid_5/3036", "Annotation": "verbs",
         "Notes": "that"},
        {"Name": "attn_3/7", "Annotation": "old"}, {"Name": "attn_3/7", "Annotation": "new", "notes": "0"},
        {"Name": "embed/9", "Annotation": "his"}, {"Name": "mlp_1/2"}, {"Name": "mlp_1/3", "Annotation": "x"}, "{",
    ]  # fmt: skip
    file = written(tmp_path / "annotations.jsonl", rows)
    result = imported(file, model=PYTHIA, sets=component_map(["resid=res-sm", "attn=att-sm"]))
    assert result.form == "annotations"
    assert result.labels == 4
    assert result.notes == (
        "7 rows: 1 header row, 1 without annotation, 1 duplicate (the last counts), not JSON: line 8",
        "1 of components that --map does not name left out",
    )
    assert LabelStore().labels(PYTHIA, "5-res-sm", 3036) == (
        Label("verbs", "annotations.jsonl", "annotation"),
        Label("that", "annotations.jsonl", "notes"),
    )
    assert texts(7, (PYTHIA, "3-att-sm")) == ["new"]
    assert texts(9, (PYTHIA, "e-res-sm")) == ["his"]


def test_what_annotations_do_not_say_is_asked_for(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [{"Name": "resid_5/1", "Annotation": "x"}])
    with pytest.raises(BadRequest, match="does not say which model"):
        import_labels(LabelStore(), file)
    with pytest.raises(BadRequest, match="which dictionaries of gemma-2-2b"):
        import_labels(LabelStore(), file, model="gemma-2-2b")
    with pytest.raises(BadRequest, match="is about mlp"):
        import_labels(LabelStore(), file, model=PYTHIA, sets={"mlp": "mlp-sm"})
    imported(file, model=PYTHIA)
    assert texts(1, (PYTHIA, "5-res-sm")) == ["x"]
    imported(file, model="mine", sets={"resid": "resid_out_layer{}"})
    assert texts(1, ("mine", "resid_out_layer5")) == ["x"]


@needs_samples
def test_the_published_annotations() -> None:
    result = imported(SAMPLES / "annotations" / f"{PYTHIA}.jsonl", model=PYTHIA)
    assert texts(3036, (PYTHIA, "5-res-sm")) == ["promotes singular verb forms", 'Active on "that" and "and"']
    assert sum(each.features for each in LabelStore().counts()) == 276
    assert result.labels > 276


# --- the user's own -----------------------------------------------------------------------------------------------


def test_own_labels_go_out_and_come_back(tmp_path: Path) -> None:
    store = LabelStore()
    for index, text in enumerate(("towns", 'with "quotes" and \\', "漢字 \u202e", "later regretted")):
        store.set_user(*GPT, index, text)
    store.set_user(*GPT, 3, "")
    exported = store.export_user()
    file = tmp_path / "mine.jsonl"
    file.write_text(exported + "{\n", encoding="utf-8")
    other = LabelStore(tmp_path / "elsewhere" / "labels.db")
    other.set_user(*GPT, 0, "before")
    (result,) = import_labels(other, file)
    assert (result.form, result.labels, result.notes) == ("own labels", 3, ("1 damaged line left out",))
    assert other.export_user() == exported
    journal = store.file.with_name("own-labels.jsonl")
    assert form_of(journal) == "own labels"
    import_labels(LabelStore(tmp_path / "third" / "labels.db"), journal)
    assert LabelStore(tmp_path / "third" / "labels.db").export_user() == exported
