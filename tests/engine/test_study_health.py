"""Dictionary health against plain torch, a context at a time, and what a kill in the middle leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from engine.corpus.text import contexts_of, documents_of
from engine.dictionary import Dictionary
from engine.encoding.identity import neurons
from engine.errors import BadRequest, Cancelled
from engine.events import Progress, StudyGrown
from engine.formats.saelens import read_dictionary
from engine.headless_studies import study, study_settings
from engine.job import Job
from engine.loading import open_model
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.protocol import Event, Open
from engine.sites import Site
from engine.studies import health
from engine.studies.health import measure
from engine.studies.health_state import Spread
from engine.studies.health_weights import excess_kurtosis, rare_cosines
from engine.studies.measure import Growing
from engine.study_results import StudyResult
from engine.study_settings.health import Health
from engine.training.corpus import Context
from tests import tiny
from tests.conftest import ROOT

_TEXT = "in the end of the other thing a man of the sea and the moon in a house by the river"
WORDS = _TEXT.split()
RARE = 0.05


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> LanguageModel:
    return open_model(llama_folder, "cpu")


def write_text(file: Path, seed: int = 0, documents: int = 40) -> Path:
    generator = torch.Generator().manual_seed(seed)
    picks = [torch.randint(0, len(WORDS), (30,), generator=generator).tolist() for _ in range(documents)]
    file.write_text("\n".join(json.dumps({"text": " ".join(WORDS[p] for p in row)}) for row in picks))
    return file


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "words.jsonl")


def made(folder: Path, architecture: str, **settings: Any) -> Dictionary:
    return read_dictionary(tiny.save_dictionary(folder / "1-res-tiny", architecture, **settings))


def opening(model: LanguageModel, *dictionaries: Dictionary) -> OpenSet:
    return OpenSet(model, {d.source: d for d in dictionaries}, False, "")


def settings_for(text: Path, **more: Any) -> Health:
    return Health(**{"text": (str(text),), "context": 40, "rare": RARE, "loss_tokens": 0, **more})


def measured(opened: OpenSet, settings: Health) -> StudyResult:
    return measure(opened, settings, Growing(Job()))


def row_of(result: StudyResult, name: str, key: str) -> dict[str, Any]:
    table = result.table(name)
    names = [column.name for column in table.columns]
    return next(dict(zip(names, row, strict=True)) for row in table.rows if row[0] == key)


def plain_contexts(opened: OpenSet, settings: Health) -> list[list[int]]:
    stream = contexts_of(opened, documents_of(settings.text), settings.context, settings.tokens)
    return [context.ids.tolist() for context in stream]


def seen(opened: OpenSet, dictionary: Dictionary, settings: Health) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, what was to be rebuilt and what was, on all tokens that count, a context at a time."""
    sites = {dictionary.site, dictionary.write_site}
    read = [opened.model.capture(torch.tensor([ids]), sites) for ids in plain_contexts(opened, settings)]
    found = []
    for start in range(0, len(read), health.ROWS):  # the median that sinks are told by is that of a batch
        part = read[start : start + health.ROWS]
        limit = 4 * torch.cat([c[dictionary.site][0, 1:].norm(dim=1) for c in part]).median()
        for caught in part:
            x, target = caught[dictionary.site][0], caught[dictionary.write_site][0]
            acts = dictionary.encode(x, whole=True)
            keep = (x.norm(dim=1) <= limit) & (torch.arange(len(x)) > 0)
            found.append((acts[keep], target[keep], dictionary.decode(acts, x)[keep]))
    activations, target, rebuilt = (torch.cat(part) for part in zip(*found, strict=True))
    return activations, target, rebuilt


KINDS: dict[str, dict[str, Any]] = {
    "topk": {},
    "standard": {},
    "jumprelu": {},
    "gated": {},
    "abstopk": {},
    "matching_pursuit": {"residual_threshold": 0.5, "max_iterations": 6},
    "temporal": {},
    "transcoder": {
        "hook": "blocks.1.ln2.hook_normalized",
        "metadata": {"prepend_bos": False, "hook_name_out": "blocks.1.hook_mlp_out"},
    },
    "neurons": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_counted_as_by_hand(kind: str, tmp_path: Path, model: LanguageModel, text: Path) -> None:
    if kind == "neurons":
        dictionary = neurons(Site("mlp_post", 1), 64, source="1-neurons", folder=tmp_path)
    else:
        dictionary = made(tmp_path, kind, **KINDS[kind])
    opened, settings = opening(model, dictionary), settings_for(text)
    result = measured(opened, settings)
    activations, target, rebuilt = seen(opened, dictionary, settings)
    fires = activations != 0
    counted = len(activations)
    own = row_of(result, "dictionaries", dictionary.source)
    assert own["tokens"] == counted > 500
    assert own["L0"] == pytest.approx(float(fires.sum() / counted), rel=1e-5)
    error = (target - rebuilt).square().sum() / (target - target.mean(0)).square().sum()
    assert own["explained variance"] == pytest.approx(float(1 - error), rel=1e-3, abs=1e-4)
    assert own["dead"] == int((~fires.any(0)).sum())
    rare = fires.double().mean(0) < RARE
    assert own["rare"] == int(rare.sum())
    bins = result.table("frequencies").column(dictionary.source)
    logs = (fires.double().mean(0) + 10**-6.5).log10()
    assert sum(map(int, bins)) == dictionary.d_sae  # type: ignore[arg-type]
    assert bins[-1] == int((logs >= -0.25).sum())
    for index in (0, 7, 30):
        feature = row_of(result, "features", f"{dictionary.source}:{index}")
        values = activations[:, index].abs()
        assert feature["frequency"] == pytest.approx(float(fires[:, index].float().mean()), rel=1e-5)
        assert feature["maximum"] == pytest.approx(float(values.max()), rel=1e-4)
        if fires[:, index].any():
            assert feature["mean"] == pytest.approx(float(values[values != 0].mean()), rel=1e-4)
        else:
            assert feature["mean"] is None
        if kind in {"neurons", "transcoder", "matching_pursuit"}:
            assert feature["encoder–decoder"] is None
        else:
            e, d = dictionary.encoder[index], dictionary.decoder[index]
            assert feature["encoder–decoder"] == pytest.approx(float(e @ d / e.norm() / d.norm()), abs=1e-5)
        if kind not in {"neurons", "matching_pursuit"} and rare.any():
            mean = torch.stack([row for row, is_rare in zip(dictionary.encoder, rare, strict=True) if is_rare]).mean(0)
            e = dictionary.encoder[index]
            assert feature["rare cosine"] == pytest.approx(float(e @ mean / e.norm() / mean.norm()), abs=1e-5)


def test_losses_follow_their_definition(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    dictionary = made(tmp_path, "topk")
    opened, settings = opening(model, dictionary), settings_for(text, tokens=600, loss_tokens=100_000)
    result = measured(opened, settings)
    contexts = plain_contexts(opened, settings)
    _, target, _ = seen(opened, dictionary, settings)

    def loss(change: Any) -> float:
        def hook(_module: object, _args: object, out: Tensor) -> Tensor:
            return out if change is None else torch.cat([out[:, :1], change(out[0, 1:])[None]], dim=1)

        handle = model.hf.model.layers[1].register_forward_hook(hook)
        losses = []
        with torch.no_grad():
            for ids in contexts:
                logits = model.hf(torch.tensor([ids])).logits[0, :-1]
                losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none"))
        handle.remove()
        return float(torch.cat(losses).mean())

    plain, zero = loss(None), loss(torch.zeros_like)
    rebuilt = loss(lambda x: dictionary.decode(dictionary.encode(x), x))
    mean = loss(lambda x: target.mean(0).expand_as(x))
    expected = {"plain loss": plain, "reconstructed": rebuilt, "zero-ablated": zero, "mean-ablated": mean}
    for name, value in expected.items():
        assert result.figures[name] == pytest.approx(value, rel=1e-4), name
    assert result.figures["score"] == pytest.approx((zero - rebuilt) / (zero - plain), rel=1e-2)
    assert result.figures["tokens for losses"] == sum(len(ids) - 1 for ids in contexts)
    assert set(result.meanings) == set(result.figures)


def test_views_name_columns_that_are_there(model: LanguageModel, text: Path, tmp_path: Path) -> None:
    pair = [replace(made(tmp_path / str(n), "topk", seed=n), source=f"{n}-res") for n in (1, 2)]
    result = measured(opening(model, *pair), settings_for(text, top=3))
    assert len(result.table("dictionaries").rows) == 2
    for view in result.views:
        names = {column.name for column in result.table(view.table).columns}
        used = [getattr(view, key) for key in ("low", "high", "x", "y", "label", "group") if hasattr(view, key)]
        assert names >= {*used, *getattr(view, "counts", ())}
    assert [chosen.name for chosen in result.sets] == ["rare of 1-res", "rare of 2-res"]
    for chosen in result.sets:
        shares = [row_of(result, "features", str(m.feature))["frequency"] for m in chosen.members]
        assert shares == sorted(shares)
        assert 0 < len(shares) <= 3
        assert all(0 < share < RARE for share in shares)


def test_kurtosis_and_the_rare_direction() -> None:
    one_hot = torch.zeros(1, 100)
    one_hot[0, 3] = 2.0
    # of 100 entries one is not zero: p = 1/100, kurtosis (1 − 3p(1 − p)) / (p(1 − p)) − 3
    p = 0.01
    assert float(excess_kurtosis(one_hot)) == pytest.approx((1 - 3 * p * (1 - p)) / (p * (1 - p)) - 3, rel=1e-5)
    assert float(excess_kurtosis(torch.tensor([[1.0, -1.0, 1.0, -1.0]]))) == pytest.approx(-2)
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    site = Site("resid_post", 0)
    made_up = Dictionary("x", site, site, "standard", "standard", rows, rows, rows[:, 0], rows[0], Path("."), "")
    cosines = rare_cosines(made_up, torch.tensor([True, True, False]))  # their mean is (2, 2)
    assert cosines is not None
    assert cosines.tolist() == pytest.approx([0.5**0.5, 7 / 5 * 0.5**0.5, 0.5**0.5], rel=1e-5)
    assert rare_cosines(made_up, torch.zeros(3, dtype=torch.bool)) is None


def test_contexts_for_losses_lie_evenly_over_the_whole_text() -> None:
    spread = Spread(limit=100)
    ids = torch.arange(10).int().numpy()
    for number in range(95):
        spread.offer(number, Context("", number, ids))
        assert sum(len(c.ids) for c in spread.contexts) <= 100
    assert [context.document for context in spread.contexts] == list(range(0, 95, 16))


# --- going on -------------------------------------------------------------------------------------------------------


def without_resume(result: StudyResult) -> Any:
    plain = msgspec.to_builtins(result)
    notes = [note for note in plain.get("notes", ()) if "had been read before" not in note]
    return {**{k: v for k, v in plain.items() if k not in ("settings", "provenance")}, "notes": notes}


def stopped_after(batches: int) -> Job:
    def emit(event: Event) -> None:
        nonlocal batches
        if isinstance(event, Progress) and event.text == "reading text":
            batches -= 1
            if batches == 0:
                job.cancel()

    job = Job(1, emit)
    return job


def test_what_was_cancelled_goes_on_and_counts_nothing_twice(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    opened, file = opening(model, made(tmp_path, "topk")), tmp_path / "state"
    whole = measured(opened, settings_for(text, loss_tokens=400))
    asked = settings_for(text, loss_tokens=400, resume=str(file))
    for _ in range(2):
        with pytest.raises(Cancelled):
            measure(opened, asked, Growing(stopped_after(2)))
    again = measured(opened, asked)
    assert without_resume(again) == without_resume(whole)
    assert any("had been read before" in note for note in again.notes)
    passes: list[str] = []
    job = Job(1, lambda event: passes.append(event.text) if isinstance(event, Progress) else None)
    assert without_resume(measure(opened, asked, Growing(job))) == without_resume(whole)
    assert not [said for said in passes if "reading text" in said or "loss" in said]  # all of it was kept


def test_finding_the_place_again_can_be_stopped(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    opened, file = opening(model, made(tmp_path, "topk")), tmp_path / "state"
    asked = settings_for(text, resume=str(file))
    measured(opened, asked)
    kept, said = file.read_bytes(), []
    rests: list[int] = []

    def emit(event: Event) -> None:
        assert isinstance(event, Progress)
        said.append((event.text, event.done))
        if event.done:
            job.cancel()

    job = Job(1, emit, lambda: rests.append(len(said)))
    with pytest.raises(Cancelled):
        measure(opened, asked, Growing(job))
    assert {text for text, _ in said} == {"finding the place in the text"}
    assert len(rests) >= 2
    assert file.read_bytes() == kept


def test_what_was_too_short_is_told_of_all_the_text(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    opened = opening(model, made(tmp_path, "topk"))
    asked = settings_for(text, resume=str(tmp_path / "state"))
    every = sum(len(model.tokenizer.encode(d.text, bos=False)) for d in documents_of((str(text),)))
    read = sum(map(len, plain_contexts(opened, asked)))
    assert every > read
    for _ in range(2):  # the second time all of it was read before
        assert any(f"{every - read:,} tokens were left out" in note for note in measured(opened, asked).notes)


def test_the_state_can_be_kept_at_home(tmp_path: Path, model: LanguageModel, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip  # noqa: E501
    monkeypatch.setenv("HOME", str(tmp_path))
    measured(opening(model, made(tmp_path, "topk")), settings_for(text, tokens=100, resume="~/state"))
    assert (tmp_path / "state").is_file()


_KILLED = """
import os, signal, sys
from pathlib import Path
from engine.events import Progress
from engine.formats.saelens import read_dictionary
from engine.job import Job
from engine.loading import open_model
from engine.opening import OpenSet
from engine.studies import health
from engine.studies.measure import Growing
from engine.study_settings.health import Health

folder, dictionary, text, state = sys.argv[1:]
health.SAVE_EVERY = 0
seen = []

def emit(event):
    if isinstance(event, Progress):
        seen.append(event.text)
        if seen.count("reading text") == 3:
            os.kill(os.getpid(), signal.SIGKILL)

read = read_dictionary(Path(dictionary))
opened = OpenSet(open_model(Path(folder), "cpu"), {read.source: read}, False, "")
settings = Health(text=(text,), context=40, rare=0.05, loss_tokens=0, resume=state)
health.measure(opened, settings, Growing(Job(1, emit)))
"""


def test_after_kill_9_the_result_is_that_of_one_run(
    tmp_path: Path, llama_folder: Path, model: LanguageModel, text: Path
) -> None:
    dictionary, file = made(tmp_path, "topk"), tmp_path / "state"
    folder = str(tmp_path / "1-res-tiny")
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(llama_folder), folder, str(text), str(file)], cwd=ROOT, timeout=120
    )
    assert killed.returncode == -9
    assert file.is_file()
    (tmp_path / "state.partial").write_bytes(b"half a state that was being written")
    opened = opening(model, dictionary)
    again = measured(opened, settings_for(text, resume=str(file)))
    assert any("had been read before" in note for note in again.notes)
    assert without_resume(again) == without_resume(measured(opened, settings_for(text)))


def test_a_state_of_something_else_is_refused(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    dictionary, file = made(tmp_path, "topk"), tmp_path / "state"
    asked = settings_for(text, resume=str(file))
    measured(opening(model, dictionary), asked)

    def refused(opened: OpenSet, settings: Health, match: str) -> None:
        with pytest.raises(BadRequest, match=match) as caught:
            measured(opened, settings)
        assert caught.value.remedy

    other = replace(dictionary, sha256="another")
    refused(opening(model, other), asked, "made with other dictionaries")
    refused(OpenSet(model, {dictionary.source: dictionary}, False, "another model"), asked, "another model")
    refused(opening(model, dictionary), msgspec.structs.replace(asked, context=32), "contexts of another length")
    changed = write_text(tmp_path / "other.jsonl", seed=1)
    refused(opening(model, dictionary), settings_for(changed, resume=str(file)), "other text")
    short = write_text(tmp_path / "short.jsonl", documents=5)
    refused(opening(model, dictionary), settings_for(short, resume=str(file)), "more text")
    for damage in (b"", b"nonsense", file.read_bytes()[:2000]):
        file.write_bytes(damage)
        refused(opening(model, dictionary), asked, "no state of this study")
    refused(opening(model, dictionary), settings_for(text, resume=str(tmp_path)), "is a folder")
    refused(opening(model, dictionary), settings_for(text, resume=str(tmp_path / "no" / "file")), "no folder")


def test_more_text_can_be_read_later(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    opened, file = opening(model, made(tmp_path, "topk")), tmp_path / "state"
    first = measured(opened, settings_for(text, tokens=500, loss_tokens=300, resume=str(file)))
    more = measured(opened, settings_for(text, tokens=1500, loss_tokens=300, resume=str(file)))
    assert 500 <= first.figures["tokens read"] < 600  # type: ignore[operator]
    assert 1500 <= more.figures["tokens read"] < 1600  # type: ignore[operator]
    assert more.figures["plain loss"] != first.figures["plain loss"]


# --- what may be wrong ----------------------------------------------------------------------------------------------


def test_text_that_cannot_be_read(tmp_path: Path, model: LanguageModel) -> None:
    opened = opening(model, made(tmp_path, "topk"))
    short = tmp_path / "short.txt"
    short.write_text("the sea")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("für die Öffnung".encode("latin-1"))
    for name, match in ((tmp_path / "missing.txt", "no file"), (short, "no stretch of 16"), (latin, "UTF-8")):
        with pytest.raises(BadRequest, match=match):
            measured(opened, settings_for(name))
    with pytest.raises(BadRequest, match="No open dictionary reads"):
        measured(opened, Health(sources=("9-res",)))
    for given in ({"rare": 0.0}, {"tokens": 3}, {"loss_tokens": -1}, {"top": 0}):
        with pytest.raises(BadRequest):
            study_settings("health", given)


def test_unfinished_results_are_there_while_it_reads(tmp_path: Path, model: LanguageModel, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip  # noqa: E501
    monkeypatch.setattr("engine.studies.measure._APART", -1.0)
    grown: list[StudyResult] = []
    job = Job(1, lambda event: grown.append(event.result) if isinstance(event, StudyGrown) else None)
    measure(opening(model, made(tmp_path, "topk")), settings_for(text), Growing(job))
    counts = [result.figures["tokens read"] for result in grown]
    assert counts == sorted(set(counts))  # type: ignore[type-var]
    assert len(counts) >= 2
    assert not any(result.finished for result in grown)


@pytest.mark.default_set
def test_on_the_default_set(default_set: Path) -> None:
    settings = study_settings("health", {"sources": ("4-res-sc",), "tokens": 700, "loss_tokens": 120})
    result = study(Open(id=1), settings, report=lambda *_: None)
    assert result.finished
    assert result.figures["L0"] == 32
    assert 0.7 < result.figures["explained variance"] < 0.95  # type: ignore[operator]
    assert 0.9 < result.figures["score"] < 1  # type: ignore[operator]
    assert result.figures["features"] == 4096
