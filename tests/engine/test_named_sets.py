"""The models and dictionaries of the tools before this one, opened by name, give the numbers of their own formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.errors import BadRequest
from engine.headless import Headless
from engine.protocol import CardRead, FeatureCard, FeatureRef, ShowCard
from tests import named_models as named
from tests import tiny
from tests.named_models import opened, ran, row

BEFORE_A_MAP = ("blocks.3.mlp.hook_post", "blocks.3.attn.hook_z")


pytestmark = pytest.mark.usefixtures("alone")


def card(headless: Headless, source: str, index: int) -> FeatureCard:
    events = headless.ask(ShowCard(id=4, feature=FeatureRef(source, index)))
    return next(event.card for event in events if isinstance(event, CardRead))


def check_rows(
    headless: Headless, source: str, x: Tensor, weights: dict[str, Tensor], scale: Tensor | None = None
) -> None:
    """The features that fire most are what relu((x − b_dec)·W_enc + b_enc) says, times `scale`."""
    expected = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    assert 0.1 < float((expected > 0).float().mean()) < 0.9
    for index in expected.amax(0).topk(3).indices.tolist():
        wanted = expected[:, index] * (1 if scale is None else scale[index])
        torch.testing.assert_close(row(headless, source, index), wanted, rtol=1e-4, atol=1e-4)


def test_the_name_of_a_model_opens_the_dictionaries_of_the_field(mirror: Path) -> None:
    headless, answer = opened("pythia-70m-deduped")
    sites = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "hook_attn_out"}
    expected = {"e-res-sm": "blocks.0.hook_resid_pre"} | {
        f"{layer}-{kind}-sm": f"blocks.{layer}.{hook}" for kind, hook in sites.items() for layer in range(6)
    }
    assert {info.source: info.hook for info in answer.dictionaries} == expected
    assert len(expected) == 19
    assert {info.neuronpedia for info in answer.dictionaries} == {f"pythia-70m-deduped/{s}" for s in expected}
    assert all(not info.neuronpedia or info.neuronpedia.endswith(f"/{info.source}") for info in answer.dictionaries)
    assert {info.release for info in answer.dictionaries} >= {"pythia-70m-deduped-res-sm/blocks.0.hook_resid_pre"}
    assert (answer.model.name, answer.model.layers, answer.model.bos) == ("pythia-70m-deduped", 6, "on")
    assert not any("made for" in note for info in answer.dictionaries for note in info.notes)

    result = ran(headless)
    ids = [token.id for token in result.tokens]
    assert ids[0] == named.END
    for source, hidden in (("e-res-sm", 0), ("2-res-sm", 3)):
        states = _states("GPTNeoXForCausalLM", mirror / named.PYTHIA, ids)
        weights = load_file(mirror / named.SAM_MARKS.format("res") / source / "sae_weights.safetensors")
        check_rows(headless, source, states[hidden], weights)


def _states(model: str, folder: Path, ids: list[int]) -> list[Tensor]:
    """What enters every block, and what leaves the last one before it is normed, by transformers itself."""
    import transformers

    plain = getattr(transformers, model).from_pretrained(folder, local_files_only=True).eval()
    last: list[Tensor] = []
    blocks = plain.transformer.h if model.startswith("GPT2") else plain.gpt_neox.layers
    blocks[-1].register_forward_hook(lambda _, __, out: last.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        states = plain(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return [*(state[0] for state in states[:-1]), last[0][0]]


def test_what_lies_in_the_cache_of_the_hub_opens(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(built / "hub"))
    headless, answer = opened("gelu-1l", "run2")
    assert [info.source for info in answer.dictionaries] == ["run2"]
    assert ran(headless).tokens[0].text == "<|BOS|>", "the tokenizer comes from its own repository"


def test_the_residual_of_gpt2_is_centred_and_says_so(mirror: Path) -> None:
    headless, answer = opened("gpt2-small", "7-res-jb", "12-res-jb")
    assert [(i.source, i.hook) for i in answer.dictionaries] == [
        ("7-res-jb", "blocks.7.hook_resid_pre"),
        ("12-res-jb", "blocks.11.hook_resid_post"),
    ]
    for info in answer.dictionaries:
        assert info.formula == "relu((x − b_dec)·W_enc + b_enc); x centred"
        assert any(note.startswith("mean over d_model subtracted first") for note in info.notes)
    result = ran(headless)
    assert set(result.provenance.formulas.values()) == {"relu((x − b_dec)·W_enc + b_enc); x centred"}
    ids = [token.id for token in result.tokens]
    assert (ids[0], answer.model.bos) == (named.END, "on"), "BOS as its configuration says: its tokenizer names none"
    states = _states("GPT2LMHeadModel", mirror / named.GPT2, ids)
    for source, number, hook in (
        ("7-res-jb", 7, "blocks.7.hook_resid_pre"),
        ("12-res-jb", 12, "blocks.11.hook_resid_post"),
    ):
        weights = load_file(mirror / named.JOSEPH_BLOOM / hook / "sae_weights.safetensors")
        mean = states[number].mean(1, keepdim=True)
        assert float(mean.abs().max()) > 0.1
        check_rows(headless, source, states[number] - mean, weights)


def test_decoder_norms_are_folded_where_that_is_asked_for(mirror: Path) -> None:
    name = "pythia-70m-deduped-res-sm/blocks.1.hook_resid_post"
    weights = load_file(mirror / named.SAM_MARKS.format("res") / "1-res-sm" / "sae_weights.safetensors")
    raw, told = opened(None, name)
    folded, answer = opened(None, name, fold=True)
    result, plain = ran(folded), ran(raw)
    assert result.provenance.settings["activations"] == "f·‖W_dec‖"
    assert plain.provenance.settings["activations"] == "raw"
    assert "activations f·‖W_dec‖" in result.provenance.formulas["1-res-sm"]
    assert "activations f·‖W_dec‖" in answer.dictionaries[0].formula
    assert "decoder norms are folded: activations are f·‖W_dec‖" in answer.dictionaries[0].notes
    assert any("not unit norm" in note for note in told.dictionaries[0].notes)
    x = _states("GPTNeoXForCausalLM", mirror / named.PYTHIA, [token.id for token in result.tokens])[2]
    norm = weights["W_dec"].norm(dim=1)
    assert float((norm - 1).abs().max()) > 0.5
    check_rows(raw, "1-res-sm", x, weights)
    check_rows(folded, "1-res-sm", x, weights, norm)


def test_what_cannot_be_folded_is_named(mirror: Path, tmp_path: Path) -> None:
    topk = tiny.save_dictionary(tmp_path / "2-res-own", "topk", layer=2)
    with pytest.raises(BadRequest, match="Decoder norms of 2-res-own cannot be folded") as refused:
        opened("pythia-70m-deduped", "1-res-sm", str(topk), fold=True)
    assert refused.value.remedy == "Open it without folding."


@pytest.mark.parametrize(("source", "file"), [("run1", "25"), ("run2", "47")])
def test_the_runs_of_the_notebook_read_the_neurons_of_gelu(mirror: Path, source: str, file: str) -> None:
    headless, answer = opened("gelu-1l", source)
    (info,) = answer.dictionaries
    assert (info.source, info.hook, info.form) == (source, "blocks.0.mlp.hook_post", "1L notebook")
    assert (info.neuronpedia, answer.model.bos) == (None, "on")
    result = ran(headless)
    ids = [token.id for token in result.tokens]
    assert ids[0] == named.BOS_OF_GELU, "the notebook puts BOS first"
    state = torch.load(mirror / named.GELU / "model_final.pth", weights_only=True)
    weights = torch.load(mirror / named.RUNS / f"{file}.pt", weights_only=True)
    check_rows(headless, source, named.neurons_of_gelu(state, ids), weights)

    best = result.features[0]
    known = card(headless, source, best.ref.index)
    effects = weights["W_dec"][best.ref.index] @ state["blocks.0.mlp.W_out"] @ state["unembed.W_U"]
    for listed, sign in ((known.promotes, 1), (known.suppresses, -1)):
        expected = (sign * effects).topk(10).values * sign
        torch.testing.assert_close(torch.tensor([token.value for token in listed]), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "block", "mlp", "heads"),
    [
        ("gpt2-small", "transformer.h.3", "mlp.c_proj", "attn.c_proj"),
        ("pythia-70m-deduped", "gpt_neox.layers.3", "mlp.dense_4h_to_h", "attention.dense"),
    ],
)
def test_effects_on_logits_go_through_the_map_behind_the_site(
    mirror: Path, model: str, block: str, mlp: str, heads: str
) -> None:
    """A neuron writes what its map makes of it; both maps have as many outputs as the stream is wide."""
    headless, _ = opened(model, *(f"neurons:{hook}" for hook in BEFORE_A_MAP))
    inside = headless.engine.opened.model
    for source, path in (("3-neurons", mlp), ("3-hook_z-neurons", heads)):
        layer = inside.hf.get_submodule(f"{block}.{path}")
        one = torch.eye(headless.engine.opened.dictionaries[source].d_sae)[5]
        with torch.no_grad():
            written = layer(one) - layer(torch.zeros_like(one))
        expected = (inside.unembedding @ written).topk(10).values
        promoted = card(headless, source, 5).promotes
        torch.testing.assert_close(torch.tensor([token.value for token in promoted]), expected, rtol=1e-4, atol=1e-4)


def test_no_effects_are_claimed_where_a_norm_lies_between(tmp_path: Path) -> None:
    folder = tiny.save_model(tiny.model("gemma2"), tmp_path / "gemma2")
    headless, _ = opened(str(folder), "neurons:blocks.1.mlp.hook_post", "neurons:blocks.1.hook_resid_post")
    found = card(headless, "1-neurons", 5)
    assert (found.promotes, found.suppresses) == ((), ())
    assert card(headless, "1-resid_post-neurons", 5).promotes


def test_neurons_of_every_layer(mirror: Path) -> None:
    headless, answer = opened("pythia-70m-deduped", "neurons:mlp_post")
    assert [(i.source, i.hook, i.d_sae) for i in answer.dictionaries] == [
        (f"{n}-neurons", f"blocks.{n}.mlp.hook_post", named.NEURONS) for n in range(6)
    ]
    ran(headless)
    model = headless.engine.opened.model
    ids = torch.tensor([headless.engine.opened.ids(named.PROMPT, False)])
    hidden: list[Tensor] = []
    handle = model.hf.get_submodule("gpt_neox.layers.4.mlp.act").register_forward_hook(
        lambda _, __, y: hidden.append(y)
    )
    with torch.no_grad():
        model.hf(ids)
    handle.remove()
    torch.testing.assert_close(row(headless, "4-neurons", 9), hidden[0][0, :, 9])


def test_dictionaries_kept_on_disk_give_the_same_numbers(mirror: Path) -> None:
    results = [ran(opened("gpt2-small", residency=keep)[0]) for keep in ("device", "disk")]
    assert results[0].features == results[1].features
    _, answer = opened("gpt2-small", residency="disk")
    assert {info.residency for info in answer.dictionaries} == {"disk"}
    assert answer.plan is not None
    assert answer.plan.residency == "disk"


def test_a_model_without_bos_does_not_pretend(mirror: Path, tmp_path: Path) -> None:
    folder = tmp_path / "no-bos"
    folder.mkdir()
    for file in (mirror / named.GPT2).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"bos_token_id": 257', '"bos_token_id": null'))
    one = str(mirror / named.JOSEPH_BLOOM / "blocks.0.hook_resid_pre")
    headless, answer = opened(str(folder), one)
    assert answer.model.bos == "off"
    assert any("BOS, which this tokenizer does not have" in note for note in answer.dictionaries[0].notes)
    assert ran(headless).tokens[0].id != named.END
    with pytest.raises(BadRequest, match="no-bos has no BOS"):
        opened(str(folder), one, bos="on")
