"""Published dictionaries end to end: files in the layout of their release, downloaded from a hub on loopback, opened,
and held equal to what SAELens' own `from_pretrained` makes of the same hub."""

from __future__ import annotations

import io
import json
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats import released
from engine.hub.finding import find_release
from engine.names.registry import look_up, release_of
from engine.places import Place
from tests.hub_server import Hub, running

D, F, TOKENS = 16, 40, 6
yaml: Any = import_module("yaml")
Put = Callable[[Hub, str, str], None]


def weight(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.3


def pickled(tensors: dict[str, Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def saelens_weights() -> dict[str, Tensor]:
    return {"W_enc": weight(D, F), "W_dec": weight(F, D), "b_enc": weight(F), "b_dec": weight(D)}


# --- what each kind of release serves -------------------------------------------------------------------------------


def put_old_saelens(hub: Hub, repo: str, path: str) -> None:
    settings = {"hook_point": "blocks.2.hook_mlp_out", "d_in": D, "d_sae": F, "dtype": "torch.float32"}
    hub.put(repo, f"{path}/cfg.json", json.dumps({**settings, "normalize_activations": False}))
    hub.put(repo, f"{path}/sae_weights.safetensors", save({**saelens_weights(), "scaling_factor": torch.ones(F)}))


def put_scaled_saelens(hub: Hub, repo: str, path: str) -> None:
    settings = {"hook_name": "blocks.0.hook_mlp_out", "d_in": D, "d_sae": F, "dtype": "float32"}
    settings |= {"architecture": "standard", "normalize_activations": "expected_average_only_in"}
    hub.put(repo, f"{path}/cfg.json", json.dumps(settings))
    hub.put(repo, f"{path}/sae_weights.safetensors", save(saelens_weights()))


def put_topk_dictionary(hub: Hub, repo: str, path: str) -> None:
    trainer = {"dict_class": "AutoEncoderTopK", "k": 5, "layer": 3, "activation_dim": D, "dict_size": F}
    config = {"trainer": {**trainer, "lm_name": "EleutherAI/pythia-70m-deduped"}, "buffer": {"ctx_len": 128}}
    hub.put(repo, f"{path}/config.json", json.dumps(config))
    state = {"encoder.weight": weight(F, D), "encoder.bias": weight(F), "decoder.weight": weight(D, F)}
    hub.put(repo, f"{path}/ae.pt", pickled({**state, "b_dec": weight(D), "k": torch.tensor(5)}))


def put_gated_dictionary(hub: Hub, repo: str, path: str) -> None:
    trainer = {"dict_class": "GatedAutoEncoder", "layer": 3, "activation_dim": D, "dict_size": F}
    config = {"trainer": {**trainer, "lm_name": "EleutherAI/pythia-70m-deduped"}, "buffer": {"ctx_len": 128}}
    hub.put(repo, f"{path}/config.json", json.dumps(config))
    state = {"encoder.weight": weight(F, D), "decoder.weight": weight(D, F), "decoder_bias": weight(D)}
    hub.put(repo, f"{path}/ae.pt", pickled({**state, **{n: weight(F) for n in ("r_mag", "gate_bias", "mag_bias")}}))


def put_attention(hub: Hub, repo: str, path: str) -> None:
    settings = {"act_size": D, "dict_size": F, "act_name": "blocks.0.attn.hook_z"}
    hub.put(repo, f"{path.removesuffix('.pt')}_cfg.json", json.dumps(settings))
    hub.put(repo, path, pickled(saelens_weights()))


def put_gemma_scope(hub: Hub, repo: str, path: str) -> None:
    width, wide = 2304, 4096  # the loader knows no other sizes
    arrays = {"w_enc": weight(width, wide), "w_dec": weight(wide, width), "b_enc": weight(wide)}
    arrays |= {"b_dec": weight(width), "threshold": weight(wide).abs()}
    file = io.BytesIO()
    halves: dict[str, Any] = {name: tensor.half().numpy() for name, tensor in arrays.items()}
    np.savez(file, **halves)
    hub.put(repo, f"{path}/params.npz", file.getvalue())


def put_gemma_scope_2(hub: Hub, repo: str, path: str) -> None:
    state = {"w_enc": weight(D, F), "w_dec": weight(F, D), "b_enc": weight(F), "b_dec": weight(D)}
    state["threshold"] = weight(F).abs()
    if "transcoder" in path:
        state["affine_skip_connection"] = weight(D, D)
        settings = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "affine_connection": True}
        hub.put(repo, f"{path}/config.json", json.dumps(settings))
    hub.put(repo, f"{path}/params.safetensors", save(state))


def put_llama_scope(hub: Hub, repo: str, path: str) -> None:
    settings = {"d_model": D, "d_sae": F, "jump_relu_threshold": 0.4, "hook_point_in": "blocks.7.hook_resid_post"}
    settings["dataset_average_activation_norm"] = {"in": 3.0}
    hub.put(repo, f"{path}/hyperparams.json", json.dumps(settings))
    state = {"encoder.weight": weight(F, D), "decoder.weight": weight(D, F)}
    state |= {"encoder.bias": weight(F), "decoder.bias": weight(D)}
    hub.put(repo, f"{path}/checkpoints/final.safetensors", save(state))


def put_distilled(hub: Hub, repo: str, path: str) -> None:
    settings = {"d_model": D, "expansion_factor": 2, "hook_point_in": "blocks.0.hook_resid_post"}
    hub.put(repo, f"{path}/config.json", json.dumps(settings))
    state = {"encoder.weight": weight(2 * D, D), "decoder.weight": weight(D, 2 * D), "encoder.bias": weight(2 * D)}
    state |= {"decoder.bias": weight(D), "log_jumprelu_threshold": weight(2 * D) - 1}
    hub.put(repo, f"{path}/sae_weights.safetensors", save(state))


def put_transcoder(hub: Hub, repo: str, path: str) -> None:
    sizes = {"d_model": D, "d_feature": F, "batch_size": 64}
    hub.put(repo, "wanb-config.yaml", yaml.safe_dump({name: {"value": size} for name, size in sizes.items()}))
    hub.put(repo, "config.yaml", yaml.safe_dump({"model_name": "Qwen/Qwen3-4B"}))
    hub.put(repo, path, save({**saelens_weights(), "W_enc": weight(F, D)}))


def put_cross_layer(hub: Hub, repo: str, path: str) -> None:
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    hub.put(repo, "config.yaml", yaml.safe_dump({"model_name": "google/gemma-2-2b", **hooks}))
    state = {f"W_enc_{path}": weight(F, D), f"b_enc_{path}": weight(F), f"b_dec_{path}": weight(D)}
    hub.put(repo, f"W_enc_{path}.safetensors", save(state))
    hub.put(repo, f"W_dec_{path}.safetensors", save({f"W_dec_{path}": weight(F, 3, D)}))


@dataclass(frozen=True)
class Case:
    name: str
    put: Put
    width: int = D
    heads: int = 0
    skips: bool = False


CASES = (
    Case("pythia-70m-deduped-mlp-sm/blocks.2.hook_mlp_out", put_old_saelens),
    Case("gpt2-small-mlp-tm/blocks.0.hook_mlp_out", put_scaled_saelens),
    Case("mistral-7b-res-wg/blocks.8.hook_resid_pre", put_old_saelens),
    Case("sae_bench_pythia70m_sweep_topk_ctx128_0730/blocks.3.hook_resid_post__trainer_0", put_topk_dictionary),
    Case("sae_bench_pythia70m_sweep_gated_ctx128_0730/blocks.3.hook_resid_post__trainer_0", put_gated_dictionary),
    Case("gpt2-small-hook-z-kk/blocks.0.hook_z", put_attention, heads=4),
    Case("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", put_gemma_scope, width=2304),
    Case("gemma-scope-2-1b-pt-res-all/layer_3_width_16k_l0_small", put_gemma_scope_2),
    Case("gemma-scope-2-1b-pt-transcoders-all/layer_3_width_16k_l0_small_affine", put_gemma_scope_2, skips=True),
    Case("llama_scope_lxr_8x/l7r_8x", put_llama_scope),
    Case("llama_scope_r1_distill/l0r_800m_slimpajama", put_distilled),
    Case("mwhanna-qwen3-4b-transcoders/layer_0", put_transcoder),
    Case("mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_1", put_cross_layer),
)


@dataclass
class Scene:
    hub: Hub
    cache: Path
    inputs: dict[str, Tensor]
    theirs: dict[str, tuple[Tensor, Tensor, str]]


def by_saelens(case: Case, x: Tensor) -> tuple[Tensor, Tensor, str]:
    """Activations, reconstructions and hook of what SAELens downloads by itself."""
    from sae_lens import SAE

    (entry,) = look_up(case.name)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        sae = SAE.from_pretrained(entry.release, entry.id, device="cpu")
        activations = sae.encode(x.reshape(len(x), case.heads, -1) if case.heads else x)
        return activations, sae.decode(activations).reshape(len(x), -1), str(sae.cfg.metadata.hook_name)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A hub that serves every case, and what SAELens makes of it."""
    root = tmp_path_factory.mktemp("released")
    torch.manual_seed(3)
    with running(root / "served") as hub:
        inputs = {}
        for case in CASES:
            (entry,) = look_up(case.name)
            case.put(hub, release_of(entry).repo, entry.path)
            x = torch.randn(TOKENS, case.width)
            inputs[case.name] = x - x.mean(1, keepdim=True)  # some read a centred model; these are centred already
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", hub.url)
            patch.setattr(
                constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
            )
            patch.setattr(constants, "HF_HUB_CACHE", str(root / "theirs"))
            patch.setattr(constants, "HF_HUB_OFFLINE", False)
            theirs = {case.name: by_saelens(case, inputs[case.name]) for case in CASES}
        yield Scene(hub, root / "mine", inputs, theirs)


@pytest.fixture
def mine(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setenv("HF_HUB_CACHE", str(scene.cache))
    monkeypatch.setenv("HF_ENDPOINT", scene.hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SAESCOPE_MIRROR", raising=False)
    return scene


def opened(name: str) -> Dictionary:
    (place,) = find_release(name, True, lambda text, done, total: None)
    return released.read(place)


def meant(hook: str) -> str:
    """The place a loader's hook means: SAELens names that before the norm where Gemma Scope 2 was trained after it."""
    return hook.replace("hook_mlp_in", "mlp.hook_in")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.split("/")[0])
def test_a_downloaded_dictionary_equals_saelens(mine: Scene, case: Case) -> None:
    dictionary = opened(case.name)
    x = mine.inputs[case.name]
    activations, reconstruction, hook = mine.theirs[case.name]
    assert activations.count_nonzero() > TOKENS
    torch.testing.assert_close(dictionary.encode(x), activations, atol=1e-5, rtol=1e-5)
    ours = dictionary.decode(activations, x)
    if dictionary.skip is not None:  # SAELens' decode leaves it out: only its forward has the input that is skipped
        ours = ours - x @ dictionary.skip.T
    if dictionary.site.kind == "embed":  # SAELens scales what is decoded to the embedding, but not its bias
        ours = ours - dictionary.b_dec * (1 - case.width**-0.5)
    torch.testing.assert_close(ours, reconstruction, atol=1e-4, rtol=1e-4)
    assert dictionary.site.hook == meant(hook)
    assert (dictionary.skip is not None) == case.skips


def test_what_the_registry_says_of_the_hook_is_what_the_loaders_say(mine: Scene) -> None:
    compared = 0
    for case in CASES:
        (place,) = find_release(case.name, True, lambda text, done, total: None)
        if place.hook is not None and "mistral" not in case.name:  # the test serves another release's settings there
            assert place.hook == meant(mine.theirs[case.name][2]), case.name
            compared += 1
    assert compared == 11


def test_reading_asks_no_network(mine: Scene) -> None:
    opened(CASES[0].name)
    mine.hub.asked.clear()
    for case in CASES:
        opened(case.name)
    assert mine.hub.asked == []


def test_a_sum_of_decoders_is_said(mine: Scene) -> None:
    assert any("summed" in note for note in opened(CASES[-1].name).notes)


def test_files_of_another_kind_are_refused_in_words(mine: Scene, tmp_path: Path) -> None:
    (place,) = find_release(CASES[3].name, True, lambda text, done, total: None)
    files = dict(place.extra["files"])
    config = next(name for name in files if name.endswith("config.json"))
    wrong = tmp_path / "config.json"
    wrong.write_text('{"trainer": {}}')
    broken = {**place.extra, "files": {**files, config: str(wrong)}}
    with pytest.raises(DictionaryMismatch, match="SAELens' loader cannot read sae_bench"):
        released.read(type(place)(**{**place.__dict__, "extra": broken}))
    gone = {**place.extra, "files": {**files, config: str(tmp_path / "gone.json")}}
    with pytest.raises(DictionaryMissing, match="gone"):
        released.read(type(place)(**{**place.__dict__, "extra": gone}))


@pytest.fixture
def of_a_loader(mine: Scene) -> Place:
    """What SAELens' loader of dictionary_learning reads."""
    (place,) = find_release(CASES[3].name, True, lambda text, done, total: None)
    return place


def given(monkeypatch: pytest.MonkeyPatch, place: Place, error: Exception) -> None:
    """Let the loader of a place raise an error."""

    def loader(**_: object) -> None:
        raise error

    loaders = import_module("sae_lens.loading.pretrained_sae_loaders")
    monkeypatch.setitem(loaders.NAMED_PRETRAINED_SAE_LOADERS, place.extra["loader"], loader)


def test_what_a_loader_raised_can_be_looked_up(of_a_loader: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, of_a_loader, KeyError("dict_class"))
    with pytest.raises(DictionaryMismatch, match="dict_class") as caught:
        released.read(of_a_loader)
    assert "Traceback" in caught.value.detail
    assert "in loader" in caught.value.detail


def test_a_loader_without_memory_is_no_damaged_file(of_a_loader: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, of_a_loader, MemoryError())
    with pytest.raises(MemoryError):
        released.read(of_a_loader)


def test_an_interrupt_waits_for_the_loaders(of_a_loader: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def interrupted(name: str) -> object:
        signal.raise_signal(signal.SIGINT)
        done.append(name)
        return import_module(name)

    monkeypatch.setattr(released, "import_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        released.read(of_a_loader)
    assert done == ["sae_lens.loading.pretrained_sae_loaders"]


class Payload:
    """Unpickling it would write a file."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.target, "w")


def test_a_pickle_that_would_run_something_is_refused(mine: Scene, tmp_path: Path) -> None:
    (place,) = find_release(CASES[3].name, True, lambda text, done, total: None)
    hostile = tmp_path / "ae.pt"
    torch.save({"encoder.weight": Payload(str(tmp_path / "ran"))}, hostile)
    weights = next(name for name in place.extra["files"] if name.endswith("ae.pt"))
    extra = {**place.extra, "files": {**place.extra["files"], weights: str(hostile)}}
    with pytest.raises(DictionaryMismatch, match="nothing was run"):
        released.read(type(place)(**{**place.__dict__, "extra": extra}))
    assert not (tmp_path / "ran").exists()
