"""Specificity and sensitivity against plain loops over one text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import BadRequest
from engine.headless import Headless
from engine.studies.parts import pieces_of
from engine.studies.proxies import kind_of
from tests.engine.study_scene import numbers, open_engine, plain_activations, study, write

TEXT = (
    "in the end of the bag 1984 there was a thing of 12 and of 7",
    "the inner part of the tin is 33 or 44 in the end of 55",
    "a cat and a hat and 9 of the bats in 1066",
)
SOURCE = "1-res-tiny"


@pytest.fixture(scope="module")
def engine(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Headless:
    return open_engine(llama_folder, *dictionary_folders)


@pytest.fixture
def text(tmp_path: Path) -> str:
    return write(tmp_path, "text.jsonl", *(f'{{"text": "{line}"}}' for line in TEXT))


def truth(engine: Headless, pattern: str) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """All activations on tokens that count [n, d_sae], their proxies and whether they are of the kind."""
    opened = engine.engine.opened
    ids = [opened.ids(line, False) for line in TEXT]
    pieces = [pieces_of(opened, row) for row in ids]
    kind = kind_of(f"regex:{pattern}")
    kind.learn(pieces)
    rows = [plain_activations(opened, SOURCE, row) for row in ids]
    norms = torch.cat([norm for _, norm in rows])
    limit = 4 * norms.median()
    counts = torch.cat([torch.arange(len(norm)) > 0 for _, norm in rows]) & (norms <= limit)
    proxies = np.concatenate([kind.proxy(row) for row in pieces])[counts.numpy()]
    return torch.cat([f for f, _ in rows])[counts], proxies, kind.group(proxies) == 1


def test_figures_are_those_of_a_plain_loop(engine: Headless, text: str) -> None:
    activations, proxies, of_kind = truth(engine, r"\d+")
    correlations = [
        np.corrcoef(activations[:, f].double().numpy(), proxies)[0, 1] if activations[:, f].std() else 0.0
        for f in range(activations.shape[1])
    ]
    best = int(np.argmax(correlations))
    result = study(engine, "specificity", features=(f"{SOURCE}:{best}",), kind=r"regex:\d+", text=(text,))
    mine = activations[:, best].double().numpy()
    fires = mine > 0
    assert 0 < of_kind.sum() < len(of_kind)
    assert result.figures["tokens"] == len(mine)
    assert result.figures["of_kind"] == of_kind.sum()
    assert result.figures["sensitivity"] == pytest.approx(correlations[best], abs=1e-4)
    assert result.figures["firing_of_kind"] == pytest.approx(of_kind[fires].mean(), abs=1e-5)
    assert result.figures["activation_of_kind"] == pytest.approx(mine[of_kind].sum() / mine.sum(), abs=1e-5)
    assert result.figures["kind_fired_on"] == pytest.approx(fires[of_kind].mean(), abs=1e-5)
    assert result.figures["density"] == pytest.approx(fires.mean(), abs=1e-5)

    table = result.table("intervals")
    assert sum(numbers(table, "regex:\\d+")) == (fires & of_kind).sum()
    assert sum(numbers(table, "other")) == (fires & ~of_kind).sum()
    expected = sum(numbers(table, "expected regex:\\d+"))
    assert expected == pytest.approx(mine[of_kind].sum() / len(mine), rel=1e-4)
    edges = numbers(table, "high")
    assert len(edges) == 11
    assert edges[-1] == pytest.approx(mine.max(), rel=1e-4)


def test_without_features_the_most_sensitive_are_found(engine: Headless, text: str) -> None:
    activations, proxies, _ = truth(engine, r"\d+")
    result = study(engine, "specificity", kind=r"regex:\d+", text=(text,), sources=(SOURCE,), found=4)
    spread = activations.double().std(0) > 0
    found = [
        float(np.corrcoef(activations[:, f].double().numpy(), proxies)[0, 1]) if spread[f] else -1.0
        for f in range(activations.shape[1])
    ]
    best = sorted(range(len(found)), key=lambda f: -found[f])[:4]
    assert list(result.table("features").column("feature")) == [f"{SOURCE}:{f}" for f in best]
    shown = numbers(result.table("features"), "sensitivity")
    assert shown == pytest.approx([found[f] for f in best], abs=1e-4)


def test_categories_are_read_sentence_by_sentence(engine: Headless, text: str, tmp_path: Path) -> None:
    lines = ("the end of the tin", "a thing in a bag of the thin")
    file = write(tmp_path, "kitchen.txt", *lines)
    result = study(
        engine, "specificity", features=(f"{SOURCE}:3", f"{SOURCE}:5"), kind="arabic", text=(text,), categories=(file,)
    )
    opened = engine.engine.opened
    rows = [plain_activations(opened, SOURCE, opened.ids(line, False)) for line in lines]
    limit = 4 * torch.cat([norm for _, norm in rows]).median()
    for feature in (3, 5):
        values = torch.cat([f[1:, feature][norm[1:] <= limit] for f, norm in rows])
        row = next(r for r in result.table("categories").rows if r[0] == f"{SOURCE}:{feature}")
        assert row[1] == "kitchen"
        assert row[2] == pytest.approx(float(values.mean()), rel=1e-4, abs=1e-7)
        assert row[3] == pytest.approx(float(values.max()), rel=1e-4, abs=1e-7)
        assert row[6] == len(values)
    assert any("say little" in note for note in result.notes)
    assert result.figures["of_kind"] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"features": ("9-nowhere:1",)}, "No dictionary called 9-nowhere"),
        ({"features": (f"{SOURCE}:64",)}, "has no feature 64"),
        ({"kind": "klingon"}, "is not a kind of text"),
        ({"text": ("/nowhere.txt",)}, "no file /nowhere.txt"),
        ({"kind": "arabic", "features": ()}, "holds nothing of the kind arabic"),
    ],
)
def test_what_cannot_be_asked_is_said(engine: Headless, text: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        study(engine, "specificity", **{"kind": r"regex:\d", "text": (text,), **given})
