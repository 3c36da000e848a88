"""Neighbourhoods, maps and splitting against plain numpy, on dictionaries whose geometry is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import BadRequest, Cancelled
from engine.events import StudyGrown
from engine.headless import Headless
from engine.headless_studies import study_settings
from engine.job import Job
from engine.opening import OpenSet, open_set
from engine.protocol import MeasureStudy, Open
from engine.studies.measure import Growing
from engine.studies.neighbours import nearest as neighbours_nearest
from engine.studies.neighbours.study import measure
from engine.studies.projections import pca, umap
from engine.study_results import StudyResult
from tests import tiny
from tests.engine.study_scene import numbers

SMALL, LARGE = 12, 40


def _save(folder: Path, weights: dict[str, np.ndarray], hook: str) -> Path:
    """A TopK dictionary with these rows."""
    d_sae, d_in = weights["decoder"].shape
    built = tiny.sae("topk", hook=hook, d_in=d_in, d_sae=d_sae, metadata={"prepend_bos": False})
    with torch.no_grad():
        built.W_dec.copy_(torch.from_numpy(weights["decoder"]))
        built.W_enc.copy_(torch.from_numpy(weights["encoder"].T.copy()))
    built.save_model(folder)
    return folder


@pytest.fixture(scope="module")
def weights() -> dict[str, dict[str, np.ndarray]]:
    """`large` is `small` split by hand: feature i in i % 3 parts, the rest at right angles to them all."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    small = basis[:SMALL] * rng.uniform(0.5, 2, size=(SMALL, 1))
    parts = [basis[i] + 0.2 * basis[SMALL + n] for i in range(SMALL) for n in range(i % 3)]
    others = rng.normal(size=(LARGE - len(parts), 10)) @ basis[22:]
    large = np.concatenate([np.array(parts), others]) * rng.uniform(0.5, 2, size=(LARGE, 1))
    rows = {"small": small, "large": large, "far": rng.normal(size=(30, 32))}
    rows |= {"inside": rng.normal(size=(20, 64))}
    return {
        name: {"decoder": found.astype(np.float32), "encoder": rng.normal(size=found.shape).astype(np.float32)}
        for name, found in rows.items()
    }


@pytest.fixture(scope="module")
def opened(
    llama_folder: Path, weights: dict[str, dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> OpenSet:
    root = tmp_path_factory.mktemp("neighbours")
    hooks = {"small": "blocks.1.hook_resid_post", "large": "blocks.1.hook_resid_post"}
    hooks |= {"far": "blocks.3.hook_resid_pre", "inside": "blocks.2.mlp.hook_post"}
    places = tuple(str(_save(root / name, weights[name], hook)) for name, hook in hooks.items())
    return open_set(Open(id=1, model=str(llama_folder), dictionaries=places, device="cpu", dtype="float32"), Job())


def _study(opened: OpenSet, growing: Growing | None = None, **asked: Any) -> StudyResult:
    settings: Any = study_settings("neighbours", asked)
    return measure(opened, settings, growing or Growing(Job()))


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _all_cosines(weights: Any, by: str, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Every cosine there is, and the names of rows."""
    rows = _unit(np.concatenate([weights[name][by] for name in names]))
    return [f"{name}:{i}" for name in names for i in range(len(weights[name][by]))], rows @ rows.T


@pytest.mark.parametrize("by", ["decoder", "encoder"])
def test_neighbours_are_those_of_every_cosine(
    opened: OpenSet, weights: Any, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours_nearest, "_BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(neighbours_nearest, "_SMALLEST_BLOCK", 7)  # several blocks a dictionary, the last one shorter
    result = _study(opened, features=("large:3", "far:7"), by=by, top=9)
    names, cosines = _all_cosines(weights, by, ("small", "large", "far"))
    rows = result.table("neighbours").rows
    for feature in ("large:3", "far:7"):
        at = names.index(feature)
        order = [n for n in np.argsort(-cosines[at], kind="stable") if n != at][:9]
        found = [row for row in rows if row[0] == feature]
        assert [row[2] for row in found] == [names[n] for n in order]
        np.testing.assert_allclose([row[3] for row in found], cosines[at, order], atol=2e-6)
    assert "inside (mlp_post of layer 2, 64 numbers)" in " ".join(result.notes)
    assert "crosses layers" in result.notes[0]


def test_every_point_has_its_nearest_and_pairs_come_once(opened: OpenSet, weights: Any) -> None:
    result = _study(opened, top=5)
    names, cosines = _all_cosines(weights, "decoder", ("small", "large", "far"))
    np.fill_diagonal(cosines, -2)
    points = result.table("points")
    assert points.column("feature") == tuple(names)
    nearest = [names.index(str(name)) for name in points.column("nearest")]  # twins are equally near: either will do
    np.testing.assert_allclose(cosines[range(len(names)), nearest], cosines.max(1), atol=2e-6)
    np.testing.assert_allclose(np.array(points.column("cosine"), float), cosines.max(1), atol=2e-6)
    pairs = {tuple(sorted(pair)) for pair in enumerate(nearest)}
    best = sorted((cosines[pair] for pair in pairs), reverse=True)
    np.testing.assert_allclose(np.array(result.table("pairs").column("cosine"), float), best[:5], atol=2e-6)
    assert result.table("pairs").total == len(pairs)
    elsewhere = sum(names[n].split(":")[0] != names[m].split(":")[0] for n, m in enumerate(nearest))
    assert result.figures["nearest elsewhere"] == pytest.approx(elsewhere / len(names))
    counts = result.table("cosines")
    assert sum(numbers(counts, "another dictionary")) == elsewhere
    assert sum(numbers(counts, "same dictionary")) == len(names) - elsewhere


def test_a_sample_has_what_was_named_and_is_the_same_for_a_seed(opened: OpenSet) -> None:
    asked = {"features": ("far:7",), "points": 20, "top": 4}
    result = _study(opened, **asked, seed=3)
    points = result.table("points")
    assert len(points.rows) == 20
    assert points.total == SMALL + LARGE + 30
    near = result.table("neighbours").column("neighbour")
    groups = dict(zip(points.column("feature"), points.column("group"), strict=True))
    assert groups["far:7"] == "far:7"
    assert {feature for feature, group in groups.items() if group == "neighbour of far:7"} == set(near)
    assert set(groups.values()) - {"far:7", "neighbour of far:7"} <= {"small", "large", "far"}
    assert _study(opened, **asked, seed=3).table("points") == points
    assert _study(opened, **asked, seed=4).table("points") != points


def test_the_map_is_that_of_a_singular_value_decomposition(opened: OpenSet, weights: Any) -> None:
    result = _study(opened)
    rows = _unit(np.concatenate([weights[name]["decoder"] for name in ("small", "large", "far")]))
    centred = rows - rows.mean(0)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :3] * values[:3] * np.sign(right[range(3), np.abs(right[:3]).argmax(1)])
    points = result.table("points")
    found = np.array([points.column(axis) for axis in "xyz"], float).T
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert result.figures["x explains"] == pytest.approx(values[0] ** 2 / (values**2).sum())
    flat = _study(opened, dimensions=2)
    assert [column.name for column in flat.table("points").columns[:4]] == ["feature", "x", "y", "group"]


@pytest.mark.parametrize("shape", [(900, 600), (600, 900)])
@pytest.mark.parametrize("spectrum", ["flat", "steep"])
def test_large_rows_are_projected_on_the_same_components(shape: tuple[int, int], spectrum: str) -> None:
    """Beside numpy's singular value decomposition, the whole of it."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=shape)
    if spectrum == "steep":
        rows = rows @ np.diag(0.95 ** np.arange(shape[1]))
    centred = rows - rows.mean(0)
    _, sizes, right = np.linalg.svd(centred, full_matrices=False)
    components = right[:3].T
    components = components * np.sign(components[np.abs(components).argmax(0), range(3)])
    rested: list[int] = []
    found = pca(torch.from_numpy(rows), 3, lambda: rested.append(1))
    np.testing.assert_allclose(found.coordinates.numpy(), centred @ components, atol=1e-5)
    np.testing.assert_allclose(found.explained, sizes[:3] ** 2 / (sizes**2).sum(), rtol=1e-9)
    assert torch.equal(found.coordinates, pca(torch.from_numpy(rows), 3).coordinates), "the same map again"
    assert len(rested) >= 8


def test_a_large_map_can_be_stopped_and_may_have_no_width() -> None:
    def stop() -> None:
        raise Cancelled

    rows = torch.randn(600, 600, generator=torch.Generator().manual_seed(0))
    with pytest.raises(Cancelled):
        pca(rows, 2, stop)
    line = pca(rows[:, :1] * torch.ones(600), 3)
    assert line.explained[0] == pytest.approx(1)
    assert line.coordinates[:, 1:].abs().max() < 1e-4
    same = pca(torch.ones(600, 600), 3)
    assert same.explained == (0, 0, 0)
    assert not same.coordinates.any()


def test_one_feature_has_no_neighbour_and_no_cosine(opened: OpenSet) -> None:
    small = opened.dictionaries["small"]
    one = replace(small, source="one", decoder=small.decoder[:1], encoder=small.encoder[:1], b_enc=small.b_enc[:1])
    result = _study(OpenSet(opened.model, {"one": one}, None, ""))
    assert result.figures["median cosine"] is None
    assert all(isinstance(value, int | str | None) or np.isfinite(value) for value in result.figures.values())


def test_totals_are_told_only_of_tables_that_lack_rows(opened: OpenSet) -> None:
    result = _study(opened, sources=("small", "large"), splitting=True, top=3)
    totals = {table.name: (len(table.rows), table.total) for table in result.tables}
    assert totals["pairs"][0] == 3 < (totals["pairs"][1] or 0)
    assert totals["points"] == (SMALL + LARGE, None)
    assert totals["splitting"] == (SMALL, None)
    assert totals["parts"][1] is None
    few = _study(opened, sources=("small", "large"), points=5)
    assert (len(few.table("points").rows), few.table("points").total) == (5, SMALL + LARGE)
    assert all(float(f"{v:.6g}") == v for v in result.figures.values() if isinstance(v, float)), "six digits"


def test_few_rows_of_many_numbers_are_projected_alike() -> None:
    rows = torch.randn(6, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wide = torch.cat([rows, rows, rows, rows, rows, rows, rows, rows, rows, rows])  # d <= n: the other way round
    torch.testing.assert_close(pca(rows, 3).coordinates, pca(wide, 3).coordinates[:6])
    assert pca(rows[:1], 3).coordinates.tolist() == [[0, 0, 0]]
    assert pca(rows[:, :2], 3).coordinates.shape == (6, 3)


def test_a_dictionary_split_by_hand_has_these_parts(opened: OpenSet) -> None:
    result = _study(opened, splitting=True, sources=("small", "large"), map="none", similar=0.9, top=3)
    table = result.table("splitting")
    assert dict(zip(table.column("feature"), table.column("parts"), strict=True)) == {
        f"small:{i}": i % 3 for i in range(SMALL)
    }
    assert result.figures["with one part"] == pytest.approx(4 / SMALL)
    assert result.figures["split"] == pytest.approx(4 / SMALL)
    assert result.figures["without a part"] == pytest.approx(4 / SMALL)
    assert result.figures["parts of a split one"] == 2
    assert result.figures["new in the large"] == pytest.approx((LARGE - 12) / LARGE)
    assert result.table("numbers of parts").rows == ((0, 1, 4), (1, 2, 4), (2, 3, 4))
    parts = result.table("parts")
    assert [row[0] for row in parts.rows] == ["small:2", "small:2", "small:5", "small:5", "small:8", "small:8"]
    assert [row[2] for row in parts.rows[:2]] in ([f"large:{a}", f"large:{b}"] for a, b in ((1, 2), (2, 1)))
    assert parts.rows[0][3] == pytest.approx(1 / np.sqrt(1.04), abs=1e-5)


def test_splitting_equals_the_obvious_matching(opened: OpenSet, weights: Any) -> None:
    result = _study(opened, splitting=True, sources=("small", "far"), map="none", similar=0.1)
    cosines = _unit(weights["far"]["decoder"]) @ _unit(weights["small"]["decoder"]).T
    best = cosines.argmax(1)
    expected = [sum(best[row] == i and cosines[row, i] >= 0.1 for row in range(30)) for i in range(SMALL)]
    table = result.table("splitting")
    found = dict(zip(table.column("feature"), table.column("parts"), strict=True))
    assert [found[f"small:{i}"] for i in range(SMALL)] == expected
    nearest = dict(zip(table.column("feature"), table.column("cosine"), strict=True))
    np.testing.assert_allclose([nearest[f"small:{i}"] for i in range(SMALL)], cosines.max(0), atol=2e-6)


@pytest.mark.parametrize(
    ("asked", "cause"),
    [
        ({"features": ("large:40",)}, "has no feature 40"),
        ({"features": ("large",)}, "not a feature"),
        ({"features": ("large:1", "inside:1")}, "different spaces"),
        ({"sources": ("nowhere",)}, "No open dictionary"),
        ({"splitting": True, "sources": ("large",)}, "needs two"),
        ({"points": 1}, "points"),
        ({"similar": 1.5}, "similar"),
        ({"map": "tsne"}, "map"),
    ],
)
def test_what_makes_no_sense_is_said(opened: OpenSet, asked: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadRequest) as refused:
        _study(opened, **asked)
    assert cause in refused.value.message
    assert refused.value.remedy


def test_three_of_one_size_name_no_small_one(opened: OpenSet) -> None:
    same = OpenSet(opened.model, {}, None, "")
    for name in ("a", "b", "c"):
        same.dictionaries[name] = replace(opened.dictionaries["small"], source=name)
    with pytest.raises(BadRequest, match="none is the small one"):
        _study(same, splitting=True)
    two = _study(same, splitting=True, sources=("b", "c"), map="none")
    assert two.figures["with one part"] == 1  # each is its own twin
    assert "one size" in " ".join(two.notes)


def test_what_is_there_so_far_is_shown(opened: OpenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.studies.measure._APART", -1.0)
    events: list[Any] = []
    growing = Growing(Job(1, events.append))
    _study(opened, growing, features=("large:3",), splitting=True, sources=("small", "large"))
    seen = [[table.name for table in e.result.tables] for e in events if isinstance(e, StudyGrown)]
    assert ["neighbours"] in seen
    assert ["neighbours", "pairs", "cosines", "points"] in seen


def test_umap_keeps_clusters_together_and_repeats_itself() -> None:
    pytest.importorskip("umap")
    rng = np.random.default_rng(1)
    centres = np.eye(3, 20)
    group = np.repeat(np.arange(3), 20)
    rows = torch.from_numpy(_unit(centres[group] + 0.05 * rng.normal(size=(60, 20))))
    found = umap(rows, 3, seed=0).coordinates
    assert found.shape == (60, 3)
    assert torch.equal(found, umap(rows, 3, seed=0).coordinates)
    assert found.var(0).diff().max() <= 0  # widest first
    distances = torch.cdist(found, found).numpy() + np.eye(60) * 1e9
    assert (group[distances.argmin(1)] == group).all()
    with pytest.raises(BadRequest, match="too few"):
        umap(rows[:9], 2, 0)


def test_without_umap_the_extra_is_named(opened: OpenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadRequest) as refused:
        _study(opened, map="umap")
    assert 'pip install "saescope[umap]"' in refused.value.remedy


@pytest.mark.default_set
def test_the_default_set_s_priest_has_its_neighbours_at_other_layers(default_set: Path) -> None:
    headless = Headless(lambda *_: None)
    headless.ask(Open(id=1, model=None))
    settings = study_settings("neighbours", {"features": ("13-res-sc:3467",), "points": 64, "top": 3})
    events = headless.ask(MeasureStudy(id=2, settings=settings))
    result = next(e.result for e in reversed(events) if isinstance(e, StudyGrown))
    opened = headless.engine.opened
    mine = opened.dictionaries["13-res-sc"].decoder[3467]
    every = {
        f"{source}:{i}": float(c)
        for source, d in opened.dictionaries.items()
        for i, c in enumerate(torch.nn.functional.cosine_similarity(d.decoder, mine[None]))
    }
    best = sorted(every, key=lambda name: -every[name])[1:4]
    assert list(result.table("neighbours").column("neighbour")) == best
    assert result.finished
