"""Random walks: steps of exact length, and what dictionary and model make of them beside plain hooks and loops."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from engine.errors import BadRequest, PromptTooLong
from engine.job import Job
from engine.opening import OpenSet
from engine.protocol import Event, StudyGrown
from engine.studies.measure import Growing
from engine.studies.walk.passes import Passes
from engine.studies.walk.steps import WAYS, Start, Way, walker
from engine.studies.walk.study import measure
from engine.study_results import StudyResult
from engine.study_settings.walk import Walk
from tests.circuit_scene import FAMILIES, Scene, made_scene
from tests.circuit_truth import PLACES, Part
from tests.engine.study_scene import figure

PROMPT = "in the end of the bag"
SITES: Any = (
    ("1-res", "topk", {}),
    ("1-mlp", "standard", {}),
    ("2-res", "topk", {"rescale_acts_by_decoder_norm": True}),
    ("2-mlp", "transcoder", {"read": "2-mid"}),
    ("3-res", "standard", {"normalize_activations": "layer_norm"}),
)
SOURCES = ("1-res-topk", "1-mlp-standard", "2-res-topk", "3-res-standard")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return made_scene("llama", tmp_path_factory.mktemp("walk"), SITES)


@pytest.fixture(scope="module")
def opened(scene: Scene) -> OpenSet:
    return _opened(scene)


def _opened(scene: Scene) -> OpenSet:
    return OpenSet(scene.model, {b.source: b.dictionary for b in scene.bases}, False, "")


def _asked(opened: OpenSet, **settings: Any) -> StudyResult:
    return measure(opened, Walk(**{"prompt": PROMPT, "steps": 4, "walks": 3, **settings}), Growing(Job()))


def _rows(result: StudyResult, name: str) -> list[dict[str, Any]]:
    table = result.table(name)
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    return [dict(zip(names, row, strict=True)) for row in table.rows]


# --- steps ------------------------------------------------------------------------------------------------------------


def _start(scene: Scene, source: str) -> tuple[Part, Start]:
    part = next(part for part in scene.parts if part.source == source)
    dictionary = next(b.dictionary for b in scene.bases if b.source == source)
    x = _held(scene, part.read)[2:5]
    return part, Start(dictionary, x, dictionary.encode(x))


def _held(scene: Scene, place: str, added: Tensor | None = None, ids: list[int] | None = None) -> Tensor:
    """What a place holds [T, d]; with `added` [T, d], the logits of the next token instead."""
    layer, kind = place.split("-")
    module = scene.model.hf.get_submodule(PLACES[scene.family][kind].format(layer))
    seen: list[Tensor] = []

    def after(_: Any, __: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        seen.append(x[0])
        if added is None:
            return None
        new = x.clone()
        new[0, : len(added)] += added
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module.register_forward_hook(after)
    ids = scene.model.tokenizer.encode(PROMPT, bos=False) if ids is None else ids
    with torch.no_grad():
        logits = scene.model.hf(torch.tensor([ids])).logits[0, -1]
    handle.remove()
    return seen[0] if added is None else logits


@pytest.mark.parametrize("measured", ["activations", "features"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_step_has_exactly_its_length(scene: Scene, source: str, way: Way, measured: str) -> None:
    part, start = _start(scene, source)
    steps = walker(start, way, 4, 0.3, measured, seed=5)
    norms = (start.x if measured == "activations" or way == "activation" else part.sae.encode(start.x)).norm(dim=1)
    before = steps.moved()
    assert not before.any()
    for _ in range(6):
        told = steps.step()
        after = steps.moved()
        taken = (after - before).norm(dim=2)
        torch.testing.assert_close(told[0], taken)
        by = told[1] if measured == "features" and way != "activation" else taken
        assert by is not None
        torch.testing.assert_close(by, (0.3 * norms).expand(4, -1), rtol=1e-9, atol=0)
        before = after


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_walks_the_same_way(scene: Scene, way: Way) -> None:
    _, start = _start(scene, "1-res-topk")
    ends = []
    for seed in (1, 1, 2):
        steps = walker(start, way, 3, 0.2, "activations", seed)
        for _ in range(5):
            steps.step()
        ends.append(steps.moved())
    assert ends[0].equal(ends[1])
    assert (ends[0] - ends[2]).norm(dim=2).min() > 0.1 * start.x.norm(dim=1).min()
    assert (ends[0][0] - ends[0][1]).norm() > 0, "the walks of one seed differ"


@pytest.mark.parametrize("source", ["1-res-topk", "2-res-topk"])
def test_a_sparse_walk_never_activates_a_silent_feature(scene: Scene, source: str) -> None:
    """K decoder rows of d > K numbers: what was walked in them follows from where the walk is."""
    part, start = _start(scene, source)
    steps = walker(start, "sparse", 4, 0.5, "activations", seed=0)
    for _ in range(12):
        steps.step()
        for walk in steps.moved():
            for moved, x in zip(walk, start.x, strict=True):
                f = part.sae.encode(x[None])[0]
                active = f.nonzero()[:, 0]
                rows = part.sae.W_dec[active]
                if "2-" in source:
                    rows = rows / rows.norm(dim=1, keepdim=True)
                change = torch.linalg.lstsq(rows.T, moved).solution
                torch.testing.assert_close(change @ rows, moved)
                assert (f[active] + change).min() > -1e-9, "and none falls below zero"


def test_a_decoder_step_is_along_one_row(scene: Scene) -> None:
    part, start = _start(scene, "1-res-topk")
    steps = walker(start, "decoder", 16, 0.2, "activations", seed=0)
    steps.step()
    rows = part.sae.W_dec / part.sae.W_dec.norm(dim=1, keepdim=True)
    cosines = (steps.moved() / steps.moved().norm(dim=2, keepdim=True)) @ rows.T
    closest = cosines.abs().amax(2)
    torch.testing.assert_close(closest, torch.ones_like(closest))
    drawn = cosines.abs().argmax(2)
    assert len(drawn.unique()) > 16, "rows are drawn from all"
    silent = part.sae.encode(start.x).expand(16, -1, -1).gather(2, drawn[..., None]) == 0
    signs = cosines.gather(2, drawn[..., None])[silent]
    assert len(signs) > 16
    assert bool((signs > 0).all()), "a silent feature can only rise"


def test_a_plain_walk_turns_features_on_and_none_below_zero(scene: Scene) -> None:
    """One step by hand: from f, along the seed's direction, what is negative is cut."""
    part, start = _start(scene, "1-res-topk")
    steps = walker(start, "plain", 1, 0.2, "features", seed=3)
    steps.step()
    f = part.sae.encode(start.x)
    walked = steps.walked()
    assert walked is not None
    torch.testing.assert_close(walked[0], 0.2 * f.norm(dim=1))
    mean_row = part.sae.W_dec.mean(0)
    risen = walker(start, "plain", 400, 0.2, "features", seed=3)
    risen.step()
    along = (risen.moved().mean((0, 1)) @ mean_row) / mean_row.norm()
    assert along > 0, "silent features can only rise, so that walks drift along the mean decoder row"


# --- in the model -----------------------------------------------------------------------------------------------------


def _slow_text(scene: Scene, place: str, added: Tensor, tokens: int) -> str:
    ids = scene.model.tokenizer.encode(PROMPT, bos=False)
    new: list[int] = []
    for _ in range(tokens):
        new.append(int(_held(scene, place, added, ids + new).argmax()))
        if new[-1] in scene.model.end_ids:
            new.pop()
            break
    return scene.model.tokenizer.text(new)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_added_gives_the_logits_and_the_text_of_plain_hooks(family: str, tmp_path: Path) -> None:
    scene = made_scene(family, tmp_path, SITES[:2])
    ids = scene.model.tokenizer.encode(PROMPT, bos=False)
    for number, part in enumerate(scene.parts):
        site = next(b.read_site for b in scene.bases if b.source == part.source)
        for places in ([len(ids) - 1], [1, 3, 4]):
            x = _held(scene, part.read)
            drawn = torch.randn(2, len(places), x.shape[1], generator=torch.Generator().manual_seed(number)).double()
            passes = Passes(scene.model, ids, site, torch.tensor(places), Job())
            found, texts = passes.next_token(drawn * 3), passes.texts(drawn * 3, 5)
            for row in range(2):
                added = torch.zeros_like(x)
                added[places] = drawn[row] * 3
                expected = _held(scene, part.read, added)
                torch.testing.assert_close(found[row], expected.double().log_softmax(0), rtol=1e-4, atol=1e-4)
                assert texts[row] == _slow_text(scene, part.read, added, 5)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("errors", ["keep", "remove"])
def test_figures_along_the_way_equal_a_slow_loop(scene: Scene, opened: OpenSet, source: str, errors: str) -> None:
    """The walk is made again from its seed; dictionary and model are asked one point after another."""
    result = _asked(opened, source=source, errors=errors, positions="all", seed=2, tokens=4, texts=2)
    part = next(part for part in scene.parts if part.source == source)
    dictionary = opened.dictionaries[source]
    held = _held(scene, part.read)
    norms = held.norm(dim=1)
    places = [t for t in range(1, len(held)) if norms[t] <= 4 * norms.median()]
    x = held[places]
    base = x if errors == "keep" else part.sae(x)
    plain = _held(scene, part.read, torch.zeros_like(held)).log_softmax(0)
    rows = {(row["way"], row["step"]): row for row in _rows(result, "steps")}
    texts = {(row["way"], row["step"]): row["text"] for row in _rows(result, "texts")}
    assert len(rows) == 4 * 5
    f0 = part.sae.encode(base)
    for way in WAYS:
        steps = walker(Start(dictionary, x, dictionary.encode(x)), way, 3, 0.2, "activations", 2)
        for step in range(5):
            if step:
                steps.step()
            sums: dict[str, float] = {}
            for walk, moved in enumerate(steps.moved()):
                added = torch.zeros_like(held)
                added[places] = base + moved - x
                after = _held(scene, part.read, added).log_softmax(0)
                point = base + moved
                f = part.sae.encode(point)
                rebuilt = part.sae.decode(f)
                slow = {
                    "distance": float(moved.norm(dim=1).mean()),
                    "cosine": float(torch.cosine_similarity(point, base).mean()),
                    "feature cosine": float(torch.cosine_similarity(f, f0).mean()),
                    "kept": float(((f != 0) & (f0 != 0)).sum(1).div((f0 != 0).sum(1)).mean()),
                    "l0": float((f != 0).sum(1).double().mean()),
                    "mse": float((rebuilt - point).square().mean()),
                    "kl": float((plain.exp() * (plain - after)).sum()),
                    "loss": float(-after[plain.argmax()]),
                    "same": float(after.argmax() == plain.argmax()),
                }
                for name, value in slow.items():
                    sums[name] = sums.get(name, 0.0) + value / 3
                key = ("start" if not step else way, step)
                if walk == 0 and key in texts:
                    assert texts[key] == _slow_text(scene, part.read, added, 4)
            for name, value in sums.items():
                assert rows[way, step][name] == pytest.approx(value, rel=2e-4, abs=2e-6), (way, step, name)


def test_a_walk_begins_at_the_plain_model(scene: Scene, opened: OpenSet) -> None:
    result = _asked(opened)
    plain = _held(scene, "2-res", torch.zeros(1, 32, dtype=torch.float64)).log_softmax(0)
    for row in _rows(result, "steps"):
        if row["step"] == 0:
            assert (row["kl"], row["distance"], row["cosine"], row["same"]) == (0, 0, 1, 1)
            assert row["loss"] == pytest.approx(-float(plain.max()), rel=1e-5)
            assert row["step length"] is None
        else:
            assert row["kl"] > 0
    assert [row["step"] for row in _rows(result, "texts") if row["way"] == "sparse"] == [1, 2, 3, 4]
    assert [row["way"] for row in _rows(result, "texts")].count("start") == 1


def test_activation_walks_go_as_the_square_root(opened: OpenSet) -> None:
    """The expected squared distance after n steps of length L is n·L²."""
    rows = _rows(_asked(opened, ways=("activation",), walks=200, steps=9, tokens=0, length=0.1), "steps")
    for row in rows[1:]:
        assert row["distance"] == pytest.approx(rows[1]["distance"] * row["step"] ** 0.5, rel=0.05)


def test_points_are_where_the_walks_are_as_far_as_two_axes_show(opened: OpenSet) -> None:
    result = _asked(opened, ways=("plain", "sparse"), walks=2, length=0.5)
    points = _rows(result, "points")
    assert len(points) == 2 * 2 * 5
    starts = [(row["x"], row["y"]) for row in points if row["step"] == 0]
    assert all(start == pytest.approx(starts[0], abs=1e-4) for start in starts)
    for a, b in pairwise(points):
        if a["walk"] == b["walk"]:
            apart = ((a["x"] - b["x"]) ** 2 + (a["y"] - b["y"]) ** 2) ** 0.5
            assert apart <= _rows(result, "steps")[1]["step length"] * (1 + 1e-4), "a step is never longer than it is"
    assert 0 < figure(result, "variance drawn") <= 1


def test_of_many_walks_only_some_points_are_drawn(opened: OpenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.studies.walk.tables._POINTS", 20)
    table = _asked(opened, ways=("plain",), walks=7, tokens=0).table("points")
    assert (len(table.rows), table.total) == (20, 35)


def test_what_is_there_is_shown_on_the_way(opened: OpenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.studies.measure._APART", 0.0)
    events: list[Event] = []
    measure(opened, Walk(prompt=PROMPT, steps=3, walks=64), Growing(Job(1, events.append)))
    grown = [len(_rows(e.result, "steps")) for e in events if isinstance(e, StudyGrown)]
    assert grown[:4] == [1, 2, 3, 4]


def test_the_middle_dictionary_that_can_be_walked_in_is_taken(opened: OpenSet) -> None:
    assert _asked(opened, tokens=0).title == f"Random walks in 1-res-topk from “{PROMPT}”"
    assert "3-res-standard" in _asked(opened, tokens=0, source="blocks.3.hook_resid_post").title


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": "a"}, "one token"),
        ({"ways": ("home",)}, "'home' is not a way"),
        ({"source": "9-res"}, "9-res"),
        ({"source": "2-mlp-transcoder"}, "writes elsewhere"),
    ],
)
def test_what_cannot_be_asked_is_refused(opened: OpenSet, settings: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadRequest, match=cause):
        _asked(opened, **settings)


def test_there_must_be_room_for_the_text(opened: OpenSet) -> None:
    with pytest.raises(PromptTooLong):
        _asked(opened, prompt="the end of " * 30, tokens=100)


@pytest.mark.default_set
def test_the_command_on_the_default_set(default_set: Path) -> None:
    from main import app

    asked = [
        "The most important thing in my life is my",
        "--steps",
        "6",
        "--walks",
        "2",
        "--texts",
        "1",
        "--tokens",
        "3",
        "--json",
    ]
    ran = CliRunner().invoke(app, ["study", "walk", *asked])
    assert ran.exit_code == 0, ran.output
    tables = {table["name"]: table for table in json.loads(ran.stdout)["tables"]}
    names = [column["name"] for column in tables["steps"]["columns"]]
    rows = [dict(zip(names, row, strict=True)) for row in tables["steps"]["rows"]]
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        assert mine[0]["kl"] == 0 < mine[2]["kl"] < mine[6]["kl"]
        assert 1 == mine[0]["cosine"] > mine[2]["cosine"] > mine[6]["cosine"]
    last = {row["way"]: row for row in rows if row["step"] == 6}
    assert last["sparse"]["unexplained"] < last["activation"]["unexplained"], "what it writes is what it reads again"
    texts = {(row[0], row[1]): row[-1] for row in tables["texts"]["rows"]}
    assert texts["start", 0].startswith(" family")
