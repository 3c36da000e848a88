"""Annotation files with their dirt: labels come out, and what was dirty is said.

`SAESCOPE_SAMPLES` names a folder with the published files; without it their tests are skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.circuit_results import NodeRef
from engine.errors import BadRequest
from sessions.annotations import (
    Annotation,
    Dirt,
    circuit_labels,
    component_of,
    label_of,
    read_annotations,
)
from tests.nasty import NASTY
from tests.sessions.test_circuit_quicklist import circuit_of

SAMPLES = Path(os.environ.get("SAESCOPE_SAMPLES") or "missing")
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="SAESCOPE_SAMPLES names no folder")
HEADER = {"Component": "Component", "Layer": "", "Feature": "", "Name": "Name", "Annotation": "Annotation"}


def written(folder: Path, *rows: Any) -> Path:
    file = folder / "annotations.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return file


def row(name: str, annotation: str | None = "plural nouns", **more: Any) -> dict[str, Any]:
    return {"Name": name, **({} if annotation is None else {"Annotation": annotation}), **more}


@needs_samples
def test_the_published_file_of_pythia() -> None:
    read = read_annotations(SAMPLES / "annotations" / "pythia-70m-deduped.jsonl")
    assert read.dirt == Dirt(rows=278, headers=1, duplicates=1, name_only=67)
    assert len(read.labels) == 276
    assert read.labels["resid", 5, 3036] == Annotation("promotes singular verb forms", 'Active on "that" and "and"')
    assert read.labels["embed", 0, 946] == Annotation("'his'")
    assert read.labels["resid", 4, 30220] == Annotation("promotes male pronouns")


@needs_samples
def test_the_published_file_of_gemma() -> None:
    """26 rows have no annotation, and 7 have the "0" of an empty cell."""
    read = read_annotations(SAMPLES / "annotations" / "gemma-2-2b.jsonl")
    assert read.dirt == Dirt(rows=470, headers=1, duplicates=244, without_annotation=33)
    assert len(read.labels) == 210
    assert read.labels["resid", 0, 3974].text == "plural nouns"
    assert ("embed", 0, 1425) not in read.labels


def test_the_last_of_two_wins_and_an_empty_one_erases_nothing(tmp_path: Path) -> None:
    names = [row("mlp_3/7", "a"), row("mlp_3/7", "b"), row("mlp_3/7", None), row("mlp_3/7", " "), row("mlp_3/7", "0")]
    read = read_annotations(written(tmp_path, *names))
    assert read.labels == {("mlp", 3, 7): Annotation("b")}
    assert read.dirt == Dirt(rows=5, duplicates=4, without_annotation=3, name_only=5)


def test_notes_in_any_case(tmp_path: Path) -> None:
    rows = [row("embed/1", notes="x"), row("attn_0/2", Notes=" y "), row("resid_25/3", NOTES=None)]
    read = read_annotations(written(tmp_path, *rows))
    assert read.labels == {
        ("embed", 0, 1): Annotation("plural nouns", "x"),
        ("attn", 0, 2): Annotation("plural nouns", "y"),
        ("resid", 25, 3): Annotation("plural nouns"),
    }


def test_a_row_without_name_is_named_by_its_fields(tmp_path: Path) -> None:
    rows = [
        {"Component": "resid", "Layer": 5, "Feature": "12", "Annotation": "a"},
        {"Component": "embed", "Layer": "", "Feature": 3, "Annotation": "b"},
    ]
    read = read_annotations(written(tmp_path, *rows))
    assert read.labels == {("resid", 5, 12): Annotation("a"), ("embed", 0, 3): Annotation("b")}


def test_what_is_broken_is_counted_by_line(tmp_path: Path) -> None:
    rows = [
        HEADER, row("mlp_3/7"), '{"Name": ', "[1]", "5", "", row("nonsense"), row("mlp_3/x"), {}, "[" * 100_000,
        {"Name": 5, "Component": "mlp", "Layer": "1"}, {"Name": "mlp_1/" + "9" * 30}, row("mlp_1/1", 5),
    ]  # fmt: skip
    read = read_annotations(written(tmp_path, *rows))
    assert set(read.labels) == {("mlp", 3, 7)}
    assert read.dirt.broken == (3, 4, 5, 10)
    assert read.dirt.unnamed == (7, 8, 9, 11, 12)
    assert str(read.dirt) == (
        "8 rows: 1 header row, 1 without annotation, no feature in lines 7, 8, 9, 11, 12, not JSON: lines 3, 4, 5, 10"
    )


def test_a_clean_file_is_said_to_be_clean(tmp_path: Path) -> None:
    assert str(read_annotations(written(tmp_path, row("mlp_3/7"))).dirt) == "1 row: all clean"


@pytest.mark.parametrize("text", [text for text in NASTY if text.strip()])
def test_labels_are_safe_to_show(tmp_path: Path, text: str) -> None:
    label = read_annotations(written(tmp_path, row("mlp_3/7", "a" + text + "b", notes=text))).labels["mlp", 3, 7]
    for shown in (label.text, label.notes):
        assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066\u200b" for c in shown)


@given(st.lists(st.one_of(st.text(), st.dictionaries(st.text(max_size=4), st.integers() | st.text()).map(json.dumps))))
def test_any_lines_are_read(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    whole = "\n".join([json.dumps(row("mlp_3/7")), *lines])
    file.write_text(whole, encoding="utf-8", errors="replace", newline="")
    assert read_annotations(file).labels["mlp", 3, 7]


def test_files_without_annotations(tmp_path: Path) -> None:
    for file in (written(tmp_path, ""), written(tmp_path, HEADER), written(tmp_path, row("mlp_3/7", None))):
        with pytest.raises(BadRequest, match="holds no annotations"):
            read_annotations(file)
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(BadRequest, match="cannot be read"):
            read_annotations(missing)


@pytest.mark.parametrize(
    ("hook", "component"),
    [
        ("hook_embed", ("embed", 0)),
        ("blocks.0.hook_resid_pre", ("embed", 0)),
        ("blocks.7.hook_resid_pre", ("resid", 6)),
        ("blocks.7.hook_resid_post", ("resid", 7)),
        ("blocks.7.hook_attn_out", ("attn", 7)),
        ("blocks.7.attn.hook_z", ("attn", 7)),
        ("blocks.7.hook_mlp_out", ("mlp", 7)),
        ("blocks.7.mlp.hook_post", None),
        ("blocks.7.hook_resid_mid", None),
        ("nonsense", None),
    ],
)
def test_components(hook: str, component: tuple[str, int] | None) -> None:
    assert component_of(hook) == component


def test_labels_of_a_dictionary_and_of_a_circuit() -> None:
    labels = {("resid", 3, 5): Annotation("plural"), ("attn", 4, 5): Annotation("other")}
    assert label_of(labels, "blocks.3.hook_resid_post", 5) == Annotation("plural")
    assert label_of(labels, "blocks.4.hook_resid_pre", 5) == Annotation("plural")
    assert label_of(labels, "blocks.3.hook_resid_post", 6) is None
    assert label_of(labels, "blocks.3.mlp.hook_post", 5) is None
    circuit = circuit_of([("resid_3", 5, 0, 1.0), ("resid_3", -1, 0, 2.0), ("resid_3", 6, 1, 1.0), ("gone", 5, 0, 1.0)])
    assert circuit_labels(circuit, labels) == {NodeRef("resid_3", 5, 0): "plural"}
