"""Random walks where no feature is active, and how many points of long walks are kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from engine.errors import BadRequest
from engine.job import Job
from engine.opening import OpenSet
from engine.protocol import Event, StudyGrown
from engine.studies.measure import Growing
from engine.studies.walk import tables as walk_tables
from engine.studies.walk.study import measure
from engine.study_results import StudyResult
from engine.study_settings.walk import Walk
from tests.circuit_scene import Scene, made_scene
from tests.engine.test_study_walk import PROMPT, _rows

SOURCE = "1-res-jumprelu"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return made_scene("llama", tmp_path_factory.mktemp("silent"), (("1-res", "jumprelu", {}),))


def _opened(scene: Scene, threshold: float | None) -> OpenSet:
    """With all features silent below a threshold, or with the thresholds as they are."""
    dictionary = scene.bases[0].dictionary
    if threshold is not None:
        assert dictionary.threshold is not None
        dictionary = replace(dictionary, threshold=torch.full_like(dictionary.threshold, threshold))
    return OpenSet(scene.model, {SOURCE: dictionary}, False, "")


def _some_silent(scene: Scene) -> OpenSet:
    """Features are active at one token after the first only: that with the largest activation."""
    plain = _opened(scene, None)
    ids = torch.tensor([plain.model.tokenizer.encode(PROMPT, bos=False)])
    dictionary = plain.dictionaries[SOURCE]
    x = plain.model.capture(ids, [dictionary.site])[dictionary.site][0].to(dictionary.precision)
    tops = dictionary.encode(x)[1:].amax(1).sort().values
    return _opened(scene, float(tops[-2:].mean()))


def _asked(opened: OpenSet, events: list[Event] | None = None, **settings: Any) -> StudyResult:
    job = Job() if events is None else Job(1, events.append)
    return measure(opened, Walk(**{"prompt": PROMPT, "steps": 3, "walks": 2, "tokens": 0, **settings}), Growing(job))


def test_where_nothing_is_active_the_other_ways_are_walked_and_it_is_said(scene: Scene) -> None:
    result = _asked(_opened(scene, 1e6))
    rows = _rows(result, "steps")
    assert list(dict.fromkeys(row["way"] for row in rows)) == ["plain", "decoder", "activation"]
    assert all(row["distance"] > 0 for row in rows if row["step"])
    assert f"No feature of {SOURCE} is active where the walk begins: there are no sparse walks." in result.notes


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ways": ("plain", "sparse")}, "nothing to walk along"),
        ({"measured": "features"}, "no length"),
        ({"measured": "features", "ways": ("plain",)}, "no length"),
        ({"measured": "features", "ways": ("decoder",)}, "no length"),
    ],
)
def test_what_was_asked_for_and_cannot_be_is_refused_at_once(scene: Scene, settings: Any, said: str) -> None:
    events: list[Event] = []
    with pytest.raises(
        BadRequest, match=f"No feature of {SOURCE} is active where the walk begins: .*{said}"
    ) as refused:
        _asked(_opened(scene, 1e6), events, **settings)
    assert refused.value.remedy
    assert not any(isinstance(event, StudyGrown) for event in events)


def test_activation_walks_need_no_features(scene: Scene) -> None:
    rows = _rows(_asked(_opened(scene, 1e6), ways=("activation",), measured="features"), "steps")
    assert [row["kept"] for row in rows] == [None] * 4, "there is nothing to keep"
    assert rows[-1]["distance"] > 0


def test_tokens_without_active_features_are_left_out_of_what_is_kept(scene: Scene) -> None:
    opened = _some_silent(scene)
    result = _asked(opened, positions="all", ways=("plain", "activation"), length=1e-4)
    for row in _rows(result, "steps"):
        assert row["kept"] == 1, "so short a walk loses nothing"
    left = _asked(opened, positions="all")
    count = len(opened.model.tokenizer.encode(PROMPT, bos=False)) - 1
    said = f"is active at {count - 1} of the {count} tokens where walks begin: there are no sparse walks."
    assert any(said in note for note in left.notes)


def test_of_long_walks_some_steps_are_drawn_and_no_other_points_are_kept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk_tables, "_POINTS", 40)
    kept: list[int] = []
    whole = walk_tables.result

    def told(opened: Any, dictionary: Any, settings: Any, found: walk_tables.Found) -> StudyResult:
        kept.append(sum(0 if w.points is None else len(w.points) for w in found.walked))
        assert all(w.figures.untyped_storage().nbytes() <= 8 * 13 * found.drawn.walks for w in found.walked)
        return whole(opened, dictionary, settings, found)

    monkeypatch.setattr("engine.studies.walk.study.result", told)
    opened = _opened(scene, None)
    table = _asked(opened, ways=("plain", "activation"), steps=60, walks=5).table("points")
    assert (len(table.rows), table.total, kept[-1]) == (40, 2 * 61 * 5, 40)
    steps = [
        int(step or 0) for step, way in zip(table.column("step"), table.column("way"), strict=True) if way == "plain"
    ]
    assert (steps[0], steps[-1], len(steps)) == (0, 60, 20)
    assert steps == sorted(set(steps))
    assert max(b - a for a, b in pairwise(steps)) <= 4, "evenly"
    every = _asked(opened, ways=("plain",), steps=3, walks=2).table("points")
    assert (len(every.rows), every.total) == (8, None)


@pytest.mark.parametrize(
    ("way", "said", "unsaid"),
    [
        ("plain", "turns more and more features on", "along a decoder row"),
        ("sparse", "stop at zero", "turns more and more"),
        ("decoder", "along a decoder row goes up", "stop at zero"),
        ("activation", "Distances", "negative"),
    ],
)
def test_notes_are_those_of_the_ways_walked(scene: Scene, way: str, said: str, unsaid: str) -> None:
    notes = " ".join(_asked(_opened(scene, None), ways=(way,), steps=1).notes)
    assert said in notes
    assert unsaid not in notes
