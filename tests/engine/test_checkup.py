"""Check-ups of dictionaries: figures against plain torch, and a wrong hook is told."""

from __future__ import annotations

import gzip
import json
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from engine.checkup.examine import check_up, examine
from engine.checkup.published import published
from engine.checkup.report import report
from engine.checkup.results import CheckUp
from engine.checkup.sample import MOST_BYTES, read_text, stretches
from engine.dictionary import Dictionary
from engine.errors import BadRequest, DictionaryMismatch
from engine.formats.saelens import read_dictionary
from engine.job import Job
from engine.loading import open_model
from engine.model import LanguageModel
from engine.opening import OpenSet, note_other_model
from engine.places import Place
from engine.requests import Open
from engine.sites import Site, parse_hook
from tests import tiny

_TEXT = "in the end of the other thing a man of the sea and the moon in a house by the river where he was"
_WORDS = _TEXT.split()
RIGHT = Site("resid_post", 1)


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> LanguageModel:
    return open_model(llama_folder, "cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(3)
    picks = torch.randint(0, len(_WORDS), (700,), generator=generator).tolist()
    file = tmp_path_factory.mktemp("text") / "words.txt"
    file.write_text(" ".join(_WORDS[p] for p in picks))
    return file


def planted(model: LanguageModel, text: Path) -> Dictionary:
    """It knows what tokens bring to resid_post 1: a nearest-neighbour code of the commonest activations there.

    Encoder rows are 2c, biases −‖c‖²: the strongest feature is the centre c nearest to x, and its row decodes to c.
    """
    opened = opening(model, {})
    contexts, _ = stretches(opened, read_text(text), Job())
    x = torch.cat([_at(model, context.ids.tolist(), RIGHT)[1:] for context in contexts])
    generator = torch.Generator().manual_seed(0)
    centres = x[torch.randperm(len(x), generator=generator)[:300]]
    large = 1e4
    # f = 2c·x − ‖c‖² + large is positive for every centre and largest for the nearest; k = 1 keeps that one.
    return Dictionary(
        "1-res", RIGHT, RIGHT, "topk", "topk", 2 * centres, centres / large, large - centres.square().sum(1),
        torch.zeros(tiny.D_MODEL), Path("."), "", k=1, subtract_b_dec=False, metadata={"model_name": model.name},
    )  # fmt: skip


def _at(model: LanguageModel, ids: list[int], site: Site) -> Tensor:
    return model.capture(torch.tensor([ids]), [site])[site][0]


def opening(model: LanguageModel, dictionaries: dict[str, Dictionary], bos: bool | None = False) -> OpenSet:
    return OpenSet(model, dictionaries, bos, "")


def checked(model: LanguageModel, dictionary: Dictionary, text: Path) -> CheckUp:
    (found,) = check_up(opening(model, {dictionary.source: dictionary}), read_text(text), Job())
    return found


def test_figures_are_those_of_plain_torch(model: LanguageModel, text: Path) -> None:
    dictionary = planted(model, text)
    contexts, bos = stretches(opening(model, {}), read_text(text), Job())
    assert not bos
    found = checked(model, dictionary, text)
    kept, mistakes, active = [], [], 0
    for context in contexts:
        x = _at(model, context.ids.tolist(), RIGHT)[1:]
        nearest = (x @ dictionary.encoder.T + dictionary.b_enc).argmax(1)
        value = (x @ dictionary.encoder.T + dictionary.b_enc).amax(1)
        kept.append(x)
        mistakes.append(x - value[:, None] * dictionary.decoder[nearest])
        active += len(x)
    x, error = torch.cat(kept), torch.cat(mistakes)
    figures = {figure.name: figure.measured for figure in found.figures}
    wanted = float(1 - error.square().sum() / (x - x.mean(0)).square().sum())
    assert figures["explained_variance"] == pytest.approx(wanted, rel=1e-3)
    assert figures["explained_variance"] > 0.5, "the plant works"
    assert figures["l0"] == 1.0
    assert found.tokens == active
    longer = [context for context in contexts if len(context.ids) > 64]
    some = longer[:: max(1, len(longer) // 4)][:4]
    assert found.losses.tokens == sum(len(context.ids) - 1 for context in some)
    for kind, loss in (("zero", found.losses.zero_ablated), ("mean", found.losses.mean_ablated)):
        assert loss == pytest.approx(_ablated(model, some, x.mean(0) if kind == "mean" else x[0] * 0), rel=1e-4), kind
    losses = found.losses
    for name, ablated in (("loss_recovered_zero", losses.zero_ablated), ("loss_recovered_mean", losses.mean_ablated)):
        assert figures[name] == pytest.approx((ablated - losses.spliced) / (ablated - losses.clean))
    norms = dictionary.decoder.norm(dim=1)
    assert found.decoder_norms == pytest.approx((float(norms.min()), float(norms.median()), float(norms.max())))


def test_that_it_was_made_for_another_model_is_said_once(llama_folder: Path, text: Path) -> None:
    known = open_model(llama_folder, "cpu", name="gpt2-small")
    dictionary = replace(planted(known, text), metadata={"model_name": "gemma-2-2b"}, notes=("centred",))
    note_other_model(known, dictionary)
    found = checked(known, dictionary, text)
    said = "It was made for gemma-2-2b; the model that is open is gpt2-small."
    assert said in found.sentences
    assert found.notes == ("centred",)
    assert report([found]).count(said) == 1


def _ablated(model: LanguageModel, contexts: list[Any], instead: Tensor) -> float:
    """Cross-entropy with one vector in place of the stream after block 1, at all tokens but the first."""

    def put(_module: object, _args: object, out: Tensor) -> Tensor:
        new = out.clone()
        new[:, 1:] = instead
        return new

    losses: list[float] = []
    handle = model.hf.model.layers[1].register_forward_hook(put)
    for context in contexts:
        ids = torch.tensor([context.ids.tolist()])
        with torch.no_grad():
            logits = model.hf(ids).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
    handle.remove()
    return sum(losses) / len(losses)


def test_at_its_own_hook_nothing_is_wrong(model: LanguageModel, text: Path) -> None:
    found = checked(model, planted(model, text), text)
    assert found.verdict == "nothing to compare"
    assert found.belongs
    assert found.readings[0].hook == "blocks.1.hook_resid_post"
    assert found.readings[0].explained_variance == max(r.explained_variance for r in found.readings)
    hooks = [reading.hook for reading in found.readings]
    assert len(set(hooks)) == len(hooks)
    assert {"blocks.0.hook_resid_post", "blocks.2.hook_resid_post", "blocks.1.hook_mlp_out"} <= set(hooks)
    assert "blocks.1.hook_resid_pre" not in hooks, "the same place as resid_post 0"
    assert "blocks.1.mlp.hook_post" not in hooks, "of another width"
    said = report([found])
    assert "explained variance by hook, on a part of the sample, so other than above:\n    here " in said
    assert said.count("    elsewhere ") == 4
    assert "by hook" not in report([msgspec.structs.replace(found, readings=found.readings[:1])])


@pytest.mark.parametrize(
    "hook",
    [
        "blocks.2.hook_resid_post", "blocks.0.hook_resid_post", "blocks.3.hook_resid_post", "blocks.1.hook_mlp_out",
        "blocks.1.hook_resid_mid", "blocks.3.hook_mlp_out",
    ],
)  # fmt: skip
def test_a_wrong_hook_is_told_with_the_right_one(model: LanguageModel, text: Path, hook: str) -> None:
    wrong = parse_hook(hook)
    found = checked(model, replace(planted(model, text), site=wrong, write_site=wrong), text)
    assert found.verdict == "wrong hook"
    assert found.sentences[0].startswith("It reads best at blocks.1.hook_resid_post (EV ")
    assert f"not at {hook} (EV " in found.sentences[0]
    assert not found.belongs
    assert f"of llama: wrong hook\n  * {found.sentences[0]}\n" in report([found])


def test_published_figures_stand_beside_measured_ones(model: LanguageModel, text: Path, tmp_path: Path) -> None:
    dictionary = replace(planted(model, text), folder=tmp_path)
    own = {f.name: f.measured for f in checked(model, dictionary, text).figures}
    card = {"held_out": {"l0": 1.0, "explained_variance": own["explained_variance"] + 0.02, "loss_recovered": 5}}
    (tmp_path / "card.json").write_text(json.dumps(card))
    found = checked(model, dictionary, text)
    figures = {f.name: f for f in found.figures}
    assert [figures[n].agrees for n in ("l0", "explained_variance", "loss_recovered_mean")] == [True, True, False]
    assert figures["loss_recovered_zero"].agrees is None
    assert found.verdict == "differs"
    card["held_out"] = {"l0": 0.5}
    (tmp_path / "card.json").write_text(json.dumps(card))
    near = checked(model, dictionary, text)
    assert (near.verdict, near.sentences, near.belongs) == ("differs", ("L0 is 2.0 times the published one.",), True)
    card["held_out"] = {"l0": 1 / 40}
    (tmp_path / "card.json").write_text(json.dumps(card))
    far = checked(model, dictionary, text)
    assert far.sentences == ("L0 is 40 times the published one: is the hook right?",)
    assert (far.verdict, far.belongs) == ("differs", False)
    assert "of llama: differs from what was published, by far\n" in report([far])
    assert report([near, far]).splitlines()[0] == (
        "1 of 2 dictionaries do not belong where they are read, or are in doubt:"
    )
    card["held_out"] = {"l0": 1.2}
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert checked(model, dictionary, text).verdict == "agrees"


def _like(dictionary: Dictionary, **changes: Any) -> Dictionary:
    return replace(dictionary, **changes)


def test_where_published_figures_come_from(model: LanguageModel, text: Path, tmp_path: Path) -> None:
    plain = planted(model, text)

    def found(dictionary: Dictionary) -> dict[str, tuple[float, str]]:
        return {name: (figure.value, figure.origin) for name, figure in published(dictionary).items()}

    assert found(plain) == {}
    readme = "dictionary_learning's README"
    sm = _like(plain, metadata={"neuronpedia_id": "pythia-70m-deduped/3-res-sm"})
    assert found(sm) == {
        "l0": (68, readme),
        "explained_variance": (0.96, readme),
        "loss_recovered_zero": (0.95, readme),
    }
    folder = tmp_path / "pythia-70m-deduped" / "attn_out_layer2" / "10_32768"
    layout = Place("dictionary_learning", folder)
    large = torch.zeros(1, 1).expand(32_768, 512)
    theirs = _like(plain, encoder=large, decoder=large, metadata={"model_name": "EleutherAI/pythia-70m-deduped"})
    assert found(_like(theirs, place=layout))["l0"] == (215, readme)
    assert found(_like(plain, place=layout)) == {}, "one's own, laid out as theirs, but of another size"
    assert found(_like(theirs, place=layout, metadata={"model_name": "gpt2"})) == {}
    embed = Place("dictionary_learning", tmp_path / "pythia-70m-deduped" / "embed" / "10_32768")
    assert found(_like(theirs, place=embed, metadata={}))["l0"] == (3, readme)
    scope = Place("gemma_scope", tmp_path, release="gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    assert found(_like(plain, place=scope)) == {"l0": (71, "SAELens' registry")}
    folder.mkdir(parents=True)
    evaluation = {"l0": 33.5, "frac_variance_explained": 0.81, "frac_recovered": 0.9, "n": "x"}
    (folder / "eval_results.json").write_text(json.dumps(evaluation))
    assert found(_like(plain, folder=folder))["loss_recovered_zero"] == (0.9, "eval_results.json beside it")
    assert found(_like(plain, metadata={"l0": 12.0})) == {"l0": (12.0, "its configuration")}


def test_a_pythia_dictionary_at_another_place_than_its_table_says(model: LanguageModel, text: Path) -> None:
    there = _like(planted(model, text), metadata={"neuronpedia_id": "pythia-70m-deduped/2-res-sm"})
    found = checked(model, there, text)
    assert found.verdict == "wrong hook"
    assert "reads blocks.2.hook_resid_post; here it reads blocks.1.hook_resid_post" in found.sentences[0]


def test_of_a_transcoder_variance_is_that_of_what_it_writes(model: LanguageModel, text: Path) -> None:
    read, write = Site("mlp_in", 1), Site("mlp_out", 1)
    down = model.hf.model.layers[1].mlp
    generator = torch.Generator().manual_seed(1)
    contexts, _ = stretches(opening(model, {}), read_text(text), Job())
    x, y = (torch.cat([_at(model, c.ids.tolist(), site)[1:] for c in contexts]) for site in (read, write))
    torch.testing.assert_close(down(x), y)
    rows = torch.randperm(len(x), generator=generator)[:300]
    encoder = 2 * x[rows]
    dictionary = Dictionary(
        "1-mlp", read, write, "topk", "transcoder", encoder, y[rows] / 1e4, 1e4 - x[rows].square().sum(1),
        torch.zeros(tiny.D_MODEL), Path("."), "", k=1, subtract_b_dec=False,
    )  # fmt: skip
    found = checked(model, dictionary, text)
    values, chosen = (x @ encoder.T + dictionary.b_enc).max(1)
    error = y - values[:, None] * dictionary.decoder[chosen]
    wanted = float(1 - error.square().sum() / (y - y.mean(0)).square().sum())
    figures = {figure.name: figure.measured for figure in found.figures}
    assert figures["explained_variance"] == pytest.approx(wanted, rel=1e-3)
    assert found.verdict == "nothing to compare"
    assert max(r.explained_variance for r in found.readings) < found.readings[0].explained_variance + 0.01
    assert "blocks.1.mlp.hook_in → blocks.1.hook_mlp_out" in report([found])
    assert checked(model, replace(dictionary, site=Site("resid_pre", 1)), text).verdict == "wrong hook"


def test_stretches_begin_with_bos_where_prompts_do(model: LanguageModel, text: Path) -> None:
    with_bos, bos = stretches(opening(model, {}, bos=True), read_text(text), Job())
    without, _ = stretches(opening(model, {}, bos=False), read_text(text), Job())
    assert bos
    assert all(context.ids[0] == 256 for context in with_bos)
    assert max(len(context.ids) for context in with_bos) == max(len(context.ids) for context in without) == 128
    assert with_bos[0].ids[1:].tolist() == without[0].ids[: len(with_bos[0].ids) - 1].tolist()


def test_the_shipped_sample_is_long_enough_and_plain(model: LanguageModel) -> None:
    contexts, _ = stretches(opening(model, {}), read_text(None), Job())
    assert sum(len(context.ids) for context in contexts) > 3000
    assert len({context.document for context in contexts}) > 10


# --- text -------------------------------------------------------------------------------------------------------------


def test_only_the_beginning_of_a_huge_text_is_read(tmp_path: Path) -> None:
    line = "the naïve old man of the sea\n"
    whole = line * (2 * MOST_BYTES // len(line.encode()))
    for name, write in (("a.txt", bytes), ("a.txt.gz", gzip.compress), ("a.txt.xz", lzma.compress)):
        (tmp_path / name).write_bytes(write(whole.encode()))
        read = read_text(tmp_path / name)
        (document,) = read.documents
        assert len(document.text.encode()) in range(MOST_BYTES - 3, MOST_BYTES + 1), "a character may be cut off"
        assert whole.startswith(document.text)
        assert read.name == f"the beginning of {name}"
    rows = json.dumps({"text": line, "source": "x"}) + "\n"
    (tmp_path / "a.jsonl").write_text(rows * (2 * MOST_BYTES // len(rows)))
    documents = read_text(tmp_path / "a.jsonl").documents
    assert len(documents) == MOST_BYTES // len(rows)
    assert {document.text for document in documents} == {line}
    (tmp_path / "short.txt").write_text(line)
    assert read_text(tmp_path / "short.txt").name == "short.txt"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", bytes(5000), "it holds NUL bytes"),
        ("a.txt", b"\xff\xfe\x80" * 99, "is not UTF-8 text"),
        ("a.txt.gz", gzip.compress(b"words " * 9999)[:-20], "is cut off or damaged"),
        ("a.txt.gz", b"words", "is cut off or damaged"),
        ("a.txt.xz", lzma.compress(b"words " * 9999)[:-20], "is cut off or damaged"),
        ("a.txt.xz", b"words", "is cut off or damaged"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 1}\n', "line 2 is no JSON object with a text"),
        ("a.jsonl", b"[" * 200_000, "line 1 is no JSON object with a text"),
    ],
)
def test_what_is_no_text_is_told(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRequest, match=said):
        read_text(tmp_path / name)


def test_an_empty_text_is_told(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(BadRequest, match="no stretch of 16 tokens"):
        stretches(opening(model, {}), read_text(tmp_path / "empty.txt"), Job())


@pytest.fixture
def dictionary(tmp_path: Path) -> Dictionary:
    return read_dictionary(tiny.save_dictionary(tmp_path / "1-res-tiny", "standard"))


def test_examined_from_folders(llama_folder: Path, text: Path, dictionary: Dictionary) -> None:
    request = Open(id=1, model=str(llama_folder), dictionaries=(str(dictionary.folder),))
    (found,) = examine(request, text, None, Job())
    assert found.source == "1-res-tiny"
    assert found.verdict in {"poor", "wrong hook", "doubtful hook"}, "random weights reconstruct nothing"
    with pytest.raises(BadRequest, match="no file"):
        examine(request, text.parent / "none.txt", None, Job())


def test_a_transcoder_that_writes_another_width_is_refused(model: LanguageModel, text: Path) -> None:
    plain = planted(model, text)
    wide = replace(plain, write_site=Site("mlp_post", 1), architecture="transcoder")
    with pytest.raises(
        DictionaryMismatch, match=r"writes 32 numbers per token; blocks\.1\.mlp\.hook_post of llama has 64"
    ):
        checked(model, wide, text)
