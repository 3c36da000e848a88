"""Studies of the fake engine: any of them, with tables, one of each kind of plot and a set, grown in steps.

A text among the settings steers it: `/slow N` makes a step last N seconds, `/wait GATE` makes all steps but the first
wait until the file GATE exists, `/fail` refuses it at once, `/fail later` after its first step, `/die later` ends the
process there, `/large` makes tables of some hundred kilobytes.
"""

from __future__ import annotations

import math
import os
import re
import time
import zlib
from collections.abc import Sequence

import msgspec

from engine.errors import BadRequest
from engine.job import Job
from engine.protocol import (
    AnyStudy,
    Bars,
    Column,
    Curve,
    DictionaryInfo,
    FeatureRef,
    FeatureSet,
    Heat,
    Histogram,
    Provenance,
    Scatter,
    SetMember,
    StudyGrown,
    StudyResult,
    Table,
    TextTried,
    Token,
    TryText,
    name_of,
)

_STEPS = 3
_FEATURES, _LARGE = 12, 4000
_BINS, _POINTS = 8, 10


def measure(settings: AnyStudy, job: Job, dictionaries: Sequence[DictionaryInfo], provenance: Provenance) -> None:
    """Answer as `engine.studies.measure.measure_study` does."""
    plain = {key: value for key, value in msgspec.to_builtins(settings).items() if key != "study"}
    orders = " ".join(text for value in plain.values() for text in _texts(value))
    if "/fail" in orders and "/fail later" not in orders:
        raise BadRequest("These settings ask the fake engine to fail.", "Choose others.")
    slow = re.search(r"/slow (\d+(?:\.\d+)?)", orders)
    wait = re.search(r"/wait (\S+)", orders)
    started = time.perf_counter()
    many = _LARGE if "/large" in orders else _FEATURES
    for step in range(1, _STEPS + 1):
        job.progress("studying", step - 1, _STEPS)
        _work(float(slow[1]) if slow else 0.0, job)
        while wait and step > 1 and not os.path.exists(wait[1]):
            _work(0.01, job)
        if step > 1 and "/fail later" in orders:
            raise BadRequest("These settings ask the fake engine to fail on the way.", "Choose others.")
        if step > 1 and "/die later" in orders:
            os._exit(3)
        result = _result(name_of(settings), plain, dictionaries, provenance, many * step // _STEPS)
        seconds = round(time.perf_counter() - started, 3)
        grown = msgspec.structs.replace(result, finished=step == _STEPS, seconds=seconds)
        job.emit(StudyGrown(id=job.id, result=grown))


def try_text(request: TryText, job: Job, words: Sequence[str], values: tuple[float, ...], maximum: float) -> None:
    """One feature on a text, as `engine.trying.try_text` answers; values are those of the feature's row."""
    if "/fail" in request.text:
        raise BadRequest("This text asks the fake engine to fail.", "Type another.")
    tokens = tuple(Token(id=zlib.crc32(w.encode()) % 49152, text=w, sink=i == 0) for i, w in enumerate(words))
    job.emit(TextTried(id=job.id, feature=request.feature, tokens=tokens, values=values, maximum=maximum))


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(part) for part in value] if isinstance(value, list | tuple) else []


def _work(seconds: float, job: Job) -> None:
    end = time.monotonic() + seconds
    while True:
        job.rest()
        if time.monotonic() >= end:
            return
        time.sleep(0.01)


def _share(*key: object) -> float:
    """A number between 0 and 1, always the same for the same key."""
    return zlib.crc32("|".join(map(str, key)).encode()) % 1000 / 1000


def _result(
    name: str, plain: dict[str, object], dictionaries: Sequence[DictionaryInfo], provenance: Provenance, count: int
) -> StudyResult:
    refs = [FeatureRef(dictionaries[n % len(dictionaries)].source, 31 * n) for n in range(count)]
    effects = {ref: round(2 * _share(name, ref) - 0.9, 3) for ref in refs}
    ranked = sorted(refs, key=lambda ref: -effects[ref])
    features = Table(
        "features",
        "Features and their effects",
        (
            Column("feature", "feature", "Which."),
            Column("effect", "signed", "In logits."),
            Column("fires", "share", "On so many tokens."),
            Column("token", "token"),
            Column("x", "number"),
            Column("y", "number"),
            Column("group"),
        ),
        tuple(
            (str(ref), effects[ref], _share("f", ref) / 50, f" word{n % 5}", *_place(ref), ref.source)
            for n, ref in enumerate(ranked)
        ),
        total=3 * count,
    )
    bins = Table(
        "bins",
        "How often features fire",
        (Column("from", "number"), Column("to", "number"), Column("features", "count")),
        tuple((float(n), float(n + 1), int(100 * _share(name, "bin", n))) for n in range(_BINS)),
    )
    points = Table(
        "points",
        "Faithfulness by size",
        (Column("size", "count"), Column("faithfulness", "number"), Column("random", "number")),
        tuple((n + 1, round(1 - math.exp(-n / 3), 4), round(0.1 * _share("r", n), 4)) for n in range(_POINTS)),
    )
    grid = Table(
        "grid",
        "Change by source and token",
        (Column("source", "source"), Column("token", "token"), Column("change", "signed")),
        tuple((d.source, f" word{n}", round(2 * _share(d.source, n) - 1, 3)) for d in dictionaries for n in range(5)),
    )
    pages = {d.source: d.neuronpedia for d in dictionaries}
    members = tuple(SetMember(ref, effects[ref], pages[ref.source]) for ref in ranked[: max(count // 2, 1)])
    return StudyResult(
        study=name,
        title=f"fake {name} of {count} features",
        settings=plain,
        provenance=provenance,
        figures={"features": count, "mean": round(sum(effects.values()) / count, 4), "verdict": "good", "none": None},
        meanings={"features": "How many were studied.", "mean": "Of the effects, in logits.", "none": "Not there."},
        tables=(features, bins, points, grid),
        views=(
            Bars(title="Effects", table="features", label="feature", values=("effect",)),
            Histogram(title="Firing", table="bins", low="from", high="to", counts=("features",)),
            Curve(title="Faithfulness", table="points", x="size", y=("faithfulness", "random")),
            Scatter(title="Map", table="features", x="x", y="y", label="feature", group="group"),
            Heat(title="Changes", table="grid", row="source", column="token", value="change", diverging=True),
        ),
        sets=(FeatureSet("strongest", members, "The half with the largest effects."),),
        notes=("All numbers come from checksums and mean nothing.",),
    )


def _place(ref: FeatureRef) -> tuple[float, float]:
    return round(_share("x", ref), 3), round(_share("y", ref), 3)
