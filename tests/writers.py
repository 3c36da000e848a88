"""Dictionaries with random weights, written as their own libraries write them: the same names, shapes and settings."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D_MODEL = 12
D_SAE = 40
K = 5
State = OrderedDict[str, Tensor]

TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainerNew",
    "GatedAutoEncoder": "GatedSAETrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
}
"""The classes of dictionary_learning that have weights, and who trains them."""


def numbers(seed: int = 0) -> Any:
    """A function that makes random tensors of a shape."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def dictionary_learning_state(
    name: str, *, seed: int = 0, d_model: int = D_MODEL, d_sae: int = D_SAE, k: int = K, threshold: float = 0.6
) -> State:
    """The state dict of one of its classes, in the order in which the class registers its tensors."""
    random = numbers(seed)
    linear = {
        "encoder.weight": random(d_sae, d_model) * 0.5,
        "encoder.bias": random(d_sae) * 0.2,
        "decoder.weight": random(d_model, d_sae),
    }
    matrices = {
        "W_enc": random(d_model, d_sae) * 0.5,
        "b_enc": random(d_sae) * 0.2,
        "W_dec": random(d_sae, d_model),
        "b_dec": random(d_model),
    }
    buffers = {"k": torch.tensor(k, dtype=torch.int), "threshold": torch.tensor(threshold)}
    states: dict[str, dict[str, Tensor]] = {
        "AutoEncoder": {"bias": random(d_model), **linear},
        "AutoEncoderNew": linear | {"decoder.bias": random(d_model)},
        "GatedAutoEncoder": {
            "decoder_bias": random(d_model),
            "r_mag": random(d_sae) * 0.3,
            "gate_bias": random(d_sae) * 0.3,
            "mag_bias": random(d_sae) * 0.3,
            "encoder.weight": linear["encoder.weight"],
            "decoder.weight": linear["decoder.weight"],
        },
        "JumpReluAutoEncoder": matrices | {"threshold": random(d_sae).abs()},
        "AutoEncoderTopK": {"b_dec": random(d_model), **buffers, "decoder.weight": linear["decoder.weight"]} | linear,
        "BatchTopKSAE": {"b_dec": random(d_model), **buffers, "decoder.weight": linear["decoder.weight"]} | linear,
        "MatryoshkaBatchTopKSAE": matrices | buffers | {"group_sizes": torch.tensor([d_sae // 4, d_sae - d_sae // 4])},
    }
    return OrderedDict(states[name])


def dictionary_learning_config(name: str, submodule: str | None, layer: int, **trainer: Any) -> dict[str, Any]:
    """What its training writes to `config.json`."""
    return {
        "trainer": {
            "trainer_class": TRAINERS.get(name, "StandardTrainer"),
            "dict_class": name,
            "lr": 0.001,
            "steps": 1000,
            "seed": 0,
            "activation_dim": D_MODEL,
            "dict_size": D_SAE,
            **({"k": K} if "TopK" in name else {}),
            "device": "cuda:0",
            "layer": layer,
            "lm_name": "EleutherAI/pythia-70m-deduped",
            "wandb_name": name,
            "submodule_name": submodule,
            **trainer,
        },
        "buffer": {
            "d_submodule": D_MODEL,
            "io": "out",
            "n_ctxs": 244,
            "ctx_len": 128,
            "refresh_batch_size": 32,
            "out_batch_size": 2048,
            "device": "cuda:0",
        },
    }


def save_dictionary_learning(folder: Path, state: State, config: dict[str, Any] | None = None) -> Path:
    """`ae.pt`, and `config.json` where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=4))
    return folder


def save_notebook(folder: Path, name: str = "25", *, seed: int = 0, **settings: Any) -> State:
    """`{name}.pt` and `{name}_cfg.json`; the published runs are 2,048 wide with 16,384 features."""
    random = numbers(seed)
    times = 4
    width = settings.get("d_mlp", D_MODEL)
    state = OrderedDict(
        W_enc=random(width, width * times) * 0.5,
        W_dec=random(width * times, width) * 2,
        b_enc=random(width * times) * 0.2,
        b_dec=random(width),
    )
    config = {
        "seed": 52, "batch_size": 4096, "buffer_mult": 384, "lr": 0.0001, "num_tokens": 2000000000, "l1_coeff": 0.0003,
        "beta1": 0.9, "beta2": 0.99, "dict_mult": times, "seq_len": 128, "d_mlp": width, "enc_dtype": "fp32",
        "remove_rare_dir": False,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"{name}.pt")
    (folder / f"{name}_cfg.json").write_text(json.dumps(config | settings))
    return state


def save_sparsify(
    folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, d_sae: int = D_SAE, **settings: Any
) -> State:
    """One hookpoint's `cfg.json` and `sae.safetensors`, as `save_to_disk` leaves them."""
    random = numbers(seed)
    config = {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": d_sae, "k": K,
        "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D_MODEL,
    } | settings  # fmt: skip
    state = OrderedDict(
        W_dec=random(d_sae, D_MODEL).to(dtype),
        b_dec=random(D_MODEL).to(dtype),
    )
    if config["skip_connection"]:
        state["W_skip"] = (random(D_MODEL, D_MODEL) * 0.5).to(dtype)
    state["encoder.bias"] = (random(d_sae) * 0.2).to(dtype)
    state["encoder.weight"] = random(d_sae, D_MODEL).to(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return state


class Hostile:
    """A pickle of it makes a file when it is opened the usual way."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)
