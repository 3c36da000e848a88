"""The features of a prompt, against the obvious computation: every latent of every dictionary, then topk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.answer import Answer, Found, Question, answer
from engine.errors import BadRequest, DictionaryMismatch, PromptTooLong
from engine.features import read_prompt
from engine.formats.saelens import read_dictionary
from engine.headless import Headless
from engine.job import Job
from engine.loading import open_model
from engine.opening import check_fit
from engine.protocol import FeatureRef, FeaturesFound, NextTokensFound, Open, Row, RowRead, Run
from engine.reading import Reading
from engine.resolving import resolve
from tests import tiny
from tests.conftest import ROOT

PROMPT = "The Eiffel Tower is in the city of"


def _ask(headless: Headless, request: Any, kind: type[Any]) -> Any:
    return next(event for event in headless.ask(request) if isinstance(event, kind))


@pytest.fixture
def engine(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Headless:
    headless = Headless(lambda *_: None)
    headless.ask(Open(id=1, model=str(llama_folder), dictionaries=tuple(map(str, dictionary_folders))))
    return headless


@pytest.fixture
def obvious(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Callable[[list[int]], dict[str, torch.Tensor]]:
    """transformer_lens and sae_lens: all activations of all dictionaries, [tokens, d_sae] each."""

    def compute(ids: list[int]) -> dict[str, torch.Tensor]:
        from sae_lens import SAE
        from transformer_lens.model_bridge import TransformerBridge

        bridge = TransformerBridge.boot_transformers(str(llama_folder), device="cpu")
        with torch.no_grad():
            _, cache = bridge.run_with_cache(torch.tensor([ids]))
            saes = {f.name: SAE.load_from_disk(f) for f in dictionary_folders}
            return {name: sae.encode(cache[sae.cfg.metadata.hook_name][0]) for name, sae in saes.items()}

    return compute


@pytest.mark.parametrize("rank", ["max", "sum", "mean"])
def test_top_features_are_the_top_of_everything(
    engine: Headless, obvious: Callable[[list[int]], dict[str, torch.Tensor]], rank: Any
) -> None:
    result = _ask(engine, Run(id=2, prompt=PROMPT, rank=rank, top=20), FeaturesFound).result
    everything = obvious([t.id for t in result.tokens])
    aggregate: dict[str, Any] = {
        "max": lambda a: a[1:].amax(0),
        "sum": lambda a: a[1:].sum(0),
        "mean": lambda a: a[1:].mean(0),
    }
    scores = {(n, i): float(v) for n, a in everything.items() for i, v in enumerate(aggregate[rank](a))}
    best = sorted(scores.values(), reverse=True)[:20]
    assert [h.activation for h in result.features] == pytest.approx(best, rel=1e-4)
    for hit in result.features:
        row = everything[hit.source][:, hit.index]
        assert hit.activation == pytest.approx(scores[hit.source, hit.index], rel=1e-4)
        assert list(hit.values) == pytest.approx(row.tolist(), rel=1e-4, abs=1e-5)
        assert hit.position == int(row[1:].argmax()) + 1


def test_every_site_has_its_first_few(engine: Headless) -> None:
    few = _ask(engine, Run(id=2, prompt=PROMPT, top=3), FeaturesFound).result
    result = _ask(engine, Run(id=2, prompt=PROMPT, top=3, per_site=5), FeaturesFound).result
    everything = _ask(engine, Run(id=2, prompt=PROMPT, top=128), FeaturesFound).result
    assert len(few.features) == 3
    for source in ("1-res-tiny", "2-res-tiny"):
        of_site = [h.index for h in everything.features if h.source == source]
        assert [h.index for h in result.features if h.source == source][:5] == of_site[:5]
    assert {h.ref for h in few.features} <= {h.ref for h in result.features}
    assert len(result.features) <= 3 + 2 * 5


def test_every_token_has_its_top_features(
    engine: Headless, obvious: Callable[[list[int]], dict[str, torch.Tensor]]
) -> None:
    result = _ask(engine, Run(id=2, prompt=PROMPT, per_token=5), FeaturesFound).result
    everything = obvious([t.id for t in result.tokens])
    for position, row in enumerate(result.per_token):
        expected = sorted(
            (float(v) for a in everything.values() for v in a[position].topk(5).values if v > 0), reverse=True
        )
        assert [f.activation for f in row] == pytest.approx(expected, rel=1e-4)


def test_figures_are_those_of_the_definition(
    engine: Headless,
    obvious: Callable[[list[int]], dict[str, torch.Tensor]],
    llama_folder: Path,
    dictionary_folders: tuple[Path, ...],
) -> None:
    result = _ask(engine, Run(id=2, prompt=PROMPT), FeaturesFound).result
    ids = [t.id for t in result.tokens]
    everything = obvious(ids)
    model = open_model(llama_folder, "cpu")
    for figures, folder in zip(result.sites, dictionary_folders, strict=True):
        dictionary = read_dictionary(folder)
        x = model.capture(torch.tensor([ids]), [dictionary.site])[dictionary.site][0, 1:]
        activations = everything[figures.source][1:]
        error = (x - dictionary.decode(activations, x)).square().sum()
        assert figures.l0 == pytest.approx(float((activations > 0).sum(1).float().mean()))
        assert figures.explained_variance == pytest.approx(float(1 - error / (x - x.mean(0)).square().sum()), rel=1e-4)
        assert figures.active == int((activations > 0).any(0).sum())


def test_next_tokens_are_the_models(engine: Headless, llama_folder: Path) -> None:
    events = engine.ask(Run(id=2, prompt=PROMPT, next_tokens=3))
    tokens = next(e for e in events if isinstance(e, FeaturesFound)).result.tokens
    following = next(e for e in events if isinstance(e, NextTokensFound)).next_tokens
    model = open_model(llama_folder, "cpu")
    with torch.no_grad():
        expected = model.hf(torch.tensor([[t.id for t in tokens]])).logits[0].softmax(1).topk(3)
    assert [[n.id for n in row] for row in following] == expected.indices.tolist()
    assert [n.probability for n in following[-1]] == pytest.approx(expected.values[-1].tolist(), rel=1e-4)


def test_a_row_of_any_feature_needs_no_second_pass(
    engine: Headless, obvious: Callable[[list[int]], dict[str, torch.Tensor]]
) -> None:
    result = _ask(engine, Run(id=2, prompt=PROMPT, top=1), FeaturesFound).result
    everything = obvious([t.id for t in result.tokens])
    for source, activations in everything.items():
        for index in (0, int(activations.amax(0).argmax())):
            row = _ask(engine, Row(id=3, feature=FeatureRef(source, index)), RowRead).values
            assert list(row) == pytest.approx(activations[:, index].tolist(), rel=1e-4, abs=1e-5)


def test_the_first_token_is_left_out_unless_asked_for(engine: Headless) -> None:
    without = _ask(engine, Run(id=2, prompt=PROMPT, top=60), FeaturesFound).result
    ranked = _ask(engine, Run(id=2, prompt=PROMPT, top=60, keep_sinks=True), FeaturesFound).result
    assert without.provenance.settings["first_position"] == "left out"
    assert all(h.position > 0 for h in without.features)
    assert any(h.position == 0 for h in ranked.features)
    alone = _ask(engine, Run(id=2, prompt="T"), FeaturesFound).result
    assert len(alone.tokens) == 1
    assert alone.features


def test_a_sink_is_ranked_and_named_but_sets_no_scale(dictionary_folders: tuple[Path, ...]) -> None:
    dictionary = read_dictionary(dictionary_folders[0])
    reading = Reading(dictionary, tokens=6, keep=4, skip=1)
    x = torch.randn(6, tiny.D_MODEL, generator=torch.Generator().manual_seed(3))
    x[3] *= 30
    reading.add(x)
    found = answer([reading], [Found.gather(reading, Question(top=5))], Question(top=5), 0.0)
    activations = dictionary.encode(x)
    assert found.figures[0].sinks == (3,)
    assert found.sinks == (False, False, False, True, False, False)
    assert found.hits[0].position == 3
    assert found.hits[0].activation == pytest.approx(float(activations[3].max()), rel=1e-5)
    assert found.figures[0].strongest == pytest.approx(float(activations[[1, 2, 4, 5]].max()), rel=1e-5)
    assert found.strength[3] == 0
    assert max(found.strength[1:]) == pytest.approx(1)


@pytest.mark.parametrize("piece", [1, 3, 16])
def test_reading_in_pieces_changes_nothing(
    llama_folder: Path, dictionary_folders: tuple[Path, ...], piece: int
) -> None:
    """Out of memory, a prompt is fed in pieces over a key-value cache."""
    from engine.features import _read

    model = open_model(llama_folder, "cpu")
    dictionaries = [read_dictionary(f).to(model.device, model.dtype) for f in dictionary_folders]
    ids = model.tokenizer.encode(PROMPT * 2, bos=False)
    answers: list[Answer] = []
    for size in (len(ids), piece):
        _, following = _read(model, dictionaries, ids, Question(next_tokens=2), Job(), answers.append, size)
        assert len(following) == len(ids)
    whole, pieces = answers
    assert [(h.source, h.index) for h in pieces.hits] == [(h.source, h.index) for h in whole.hits]
    assert [h.activation for h in pieces.hits] == pytest.approx([h.activation for h in whole.hits], rel=1e-4)
    assert pieces.figures[0].explained_variance == pytest.approx(whole.figures[0].explained_variance, rel=1e-4)


def test_out_of_memory_is_retried_smaller_and_then_told() -> None:
    from engine.errors import OutOfMemory
    from engine.memory.use import in_smaller_pieces

    tried: list[int] = []

    def attempt(piece: int) -> str:
        tried.append(piece)
        if piece > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert in_smaller_pieces(attempt, 300) == "done"
    assert tried == [300, 150, 75, 37]
    with pytest.raises(OutOfMemory, match="300 tokens"):
        in_smaller_pieces(lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("x")), 300)
    with pytest.raises(RuntimeError, match="something else"):
        in_smaller_pieces(lambda _: (_ for _ in ()).throw(RuntimeError("something else")), 300)


@pytest.mark.parametrize("what", ["model", "dictionary"])
def test_what_does_not_fit_while_opening_is_named(
    llama_folder: Path, dictionary_folders: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Neither a damaged model nor a damaged dictionary, and no traceback."""
    from transformers import LlamaForCausalLM

    from engine import opening
    from engine.errors import OutOfMemory

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    if what == "dictionary":
        monkeypatch.setattr(opening, "read", full)
    else:
        monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", full)
    asked = Open(id=1, model=str(llama_folder), dictionaries=(str(dictionary_folders[0]),), device="cpu")
    name = dictionary_folders[0].name if what == "dictionary" else llama_folder.name
    with pytest.raises(OutOfMemory, match=f"{name} does not fit"):
        opening.open_set(asked, Job())


def test_low_precision_screens_and_shows_float32(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> None:
    """In bfloat16 the top features agree, and the values shown are exact for the residuals that were read."""
    ids = open_model(llama_folder, "cpu").tokenizer.encode(PROMPT, bos=False)
    found: dict[str, Answer] = {}
    for dtype in ("float32", "bfloat16"):
        model = open_model(llama_folder, "cpu", dtype)
        dictionaries = [read_dictionary(f).to(model.device, model.dtype) for f in dictionary_folders]
        answers: list[Answer] = []
        readings, _ = read_prompt(model, dictionaries, ids, Question(top=10), Job(), answers.append)
        found[dtype] = answers[0]
        for hit in answers[0].hits:
            reading = readings.by_source[hit.source]
            exact = reading.dictionary.pre_activations(reading.x)[hit.position, hit.index]
            assert hit.values[hit.position] == pytest.approx(float(exact), rel=1e-5)
    names = [{(h.source, h.index) for h in answer.hits} for answer in found.values()]
    assert len(names[0] & names[1]) >= 8


def test_errors_name_the_remedy(engine: Headless) -> None:
    with pytest.raises(BadRequest, match="empty"):
        engine.ask(Run(id=2, prompt=""))
    with pytest.raises(PromptTooLong, match=r"128.*Shorten it by"):
        engine.ask(Run(id=2, prompt="x" * 200))
    with pytest.raises(BadRequest, match="Open are 1-res-tiny, 2-res-tiny"):
        engine.ask(Run(id=2, prompt="x", sources=("9-res",)))
    with pytest.raises(BadRequest, match="0 to 63"):
        engine.ask(Row(id=3, feature=FeatureRef("1-res-tiny", 64)))


def test_a_dictionary_of_another_model_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    model = open_model(llama_folder, "cpu")
    wide = tiny.save_dictionary(tmp_path / "wide", "standard", d_in=48)
    with pytest.raises(DictionaryMismatch, match="reads 48 numbers"):
        check_fit(model, read_dictionary(wide))
    other = tiny.save_dictionary(tmp_path / "other", "standard", metadata={"vocabulary_sha256": "0" * 64})
    with pytest.raises(DictionaryMismatch, match="another tokenizer"):
        check_fit(model, read_dictionary(other))


@pytest.mark.default_set
def test_the_command_agrees_with_the_obvious_computation(default_set: Path) -> None:
    """`saescope features PROMPT --json` on the default set, against transformer_lens and sae_lens, to 1e-4."""
    command = [sys.executable, str(ROOT / "main.py"), "features", PROMPT, "--json", "--top", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    said = json.loads(done.stdout)

    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(default_set), device="cpu")
    ids = [token["id"] for token in said["tokens"]]
    assert ids == bridge.to_tokens(PROMPT, prepend_bos=False)[0].tolist()
    with torch.no_grad():
        _, cache = bridge.run_with_cache(torch.tensor([ids]))
    scores: dict[tuple[str, int], float] = {}
    rows: dict[str, torch.Tensor] = {}
    for folder in (place.path for place in resolve(None, ()).dictionaries):
        sae = SAE.load_from_disk(folder)
        with torch.no_grad():
            rows[folder.name] = sae.encode(cache[sae.cfg.metadata.hook_name][0])
        best = rows[folder.name][1:].amax(0)
        scores |= {(folder.name, i): float(v) for i, v in enumerate(best)}
    expected = sorted(scores.items(), key=lambda item: -item[1])[:40]
    assert [(f["source"], f["index"]) for f in said["features"]] == [name for name, _ in expected]
    assert [f["activation"] for f in said["features"]] == pytest.approx([v for _, v in expected], rel=1e-4)
    for feature in said["features"]:
        row = rows[feature["source"]][:, feature["index"]].tolist()
        assert feature["values"] == pytest.approx(row, rel=1e-4, abs=1e-3)


@pytest.mark.gpu
def test_a_gpu_finds_the_same_features(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> None:
    results = []
    for device in ("cpu", "cuda"):
        headless = Headless(lambda *_: None)
        headless.ask(
            Open(
                id=1,
                model=str(llama_folder),
                dictionaries=tuple(map(str, dictionary_folders)),
                device=device,
                dtype="float32",
            )
        )
        results.append(_ask(headless, Run(id=2, prompt=PROMPT), FeaturesFound).result)
    cpu, gpu = results
    assert [h.ref for h in gpu.features[:20]] == [h.ref for h in cpu.features[:20]]
    assert [h.activation for h in gpu.features] == pytest.approx([h.activation for h in cpu.features], rel=1e-3)
