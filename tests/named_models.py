"""Tiny random stand-ins for the models and dictionaries of the tools before this one, laid out as their repositories.

`build` writes a folder for SAESCOPE_MIRROR, OWNER/NAME/file; `as_cache` lays the same files out as huggingface_hub
keeps them. File names, settings and the places of tokenizers are those of the real repositories, sizes are not.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.headless import Headless
from engine.protocol import FeatureRef, FeaturesFound, FeaturesResult, Open, Opened, Row, RowRead, Run
from tests import tiny, writers

PYTHIA = "EleutherAI/pythia-70m-deduped"
GPT2 = "openai-community/gpt2"
GELU = "NeelNanda/GELU_1L512W_C4_Code"
GELU_TOKENIZER = "NeelNanda/gpt-neox-tokenizer-digits"
SAM_MARKS = "ctigges/pythia-70m-deduped__{}-sm_processed"
JOSEPH_BLOOM = "jbloom/GPT2-Small-SAEs-Reformatted"
RUNS = "NeelNanda/sparse_autoencoder"
PROMPT = "in the end of the a"
"""What `ran` reads."""
COMMIT = "93b1b6d7f7b2a8ad9f6f3e4d5c6b7a8990a1b2c3"

WIDTH = tiny.D_MODEL
FEATURES = 40
NEURONS = 64
CONTEXT = 64
END = 257
"""The id of `<|endoftext|>`, which is BOS as well."""
BOS_OF_GELU = 256
_HEADS = 4
_HEAD = WIDTH // _HEADS


def build(root: Path) -> Path:
    """All of it, in a folder for SAESCOPE_MIRROR."""
    _pythia(root / PYTHIA)
    _gpt2(root / GPT2)
    _gelu(root)
    for number, (kind, hook) in enumerate((("res", "resid_post"), ("mlp", "mlp_out"), ("att", "attn_out"))):
        repo = root / SAM_MARKS.format(kind)
        for layer in range(6):
            settings = _of_sam_marks(f"blocks.{layer}.hook_{hook}")
            _dictionary(repo / f"{layer}-{kind}-sm", settings, seed=10 * number + layer)
    _dictionary(root / SAM_MARKS.format("res") / "e-res-sm", _of_sam_marks("blocks.0.hook_resid_pre"), seed=50)
    for number in range(13):
        hook = f"blocks.{number}.hook_resid_pre" if number < 12 else "blocks.11.hook_resid_post"
        _dictionary(root / JOSEPH_BLOOM / hook, _of_joseph_bloom(hook), seed=60 + number)
    for seed, name in enumerate(("25", "47")):
        writers.save_notebook(root / RUNS, name, seed=seed, d_mlp=NEURONS)
    torch.save(torch.zeros(NEURONS), root / RUNS / "rare_freq_dir.pt")
    return root


def as_cache(mirror: Path, cache: Path) -> Path:
    """The repositories of a mirror as huggingface_hub keeps what it downloaded: blobs, and links in a snapshot."""
    for repo in sorted(folder for owner in mirror.iterdir() for folder in owner.iterdir()):
        own = cache / f"models--{repo.parent.name}--{repo.name}"
        (own / "refs").mkdir(parents=True)
        (own / "refs" / "main").write_text(COMMIT)
        (own / "blobs").mkdir()
        for file in (f for f in repo.rglob("*") if f.is_file()):
            blob = own / "blobs" / hashlib.sha256(str(file).encode()).hexdigest()
            os.link(file, blob)
            link = own / "snapshots" / COMMIT / file.relative_to(repo)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return cache


# --- models -----------------------------------------------------------------------------------------------------------


def _pythia(folder: Path) -> None:
    import transformers as hf

    config = hf.GPTNeoXConfig(
        vocab_size=tiny.VOCABULARY, bos_token_id=END, eos_token_id=END, hidden_size=WIDTH, intermediate_size=NEURONS,
        num_hidden_layers=6, num_attention_heads=_HEADS, max_position_embeddings=CONTEXT, use_parallel_residual=True,
    )  # fmt: skip
    _save(hf.GPTNeoXForCausalLM(config), folder, seed=1)
    named = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"tokenizer_class": "GPTNeoXTokenizer"}))


def _gpt2(folder: Path) -> None:
    """Its tokenizer's files name no BOS: transformers has it in a class, and config.json gives its id."""
    import transformers as hf

    config = hf.GPT2Config(
        vocab_size=tiny.VOCABULARY, bos_token_id=END, eos_token_id=END, n_embd=WIDTH, n_layer=12, n_head=_HEADS,
        n_positions=CONTEXT,
    )  # fmt: skip
    _save(hf.GPT2LMHeadModel(config), folder, seed=2)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1024}))


def _save(built: Any, folder: Path, seed: int) -> None:
    """Weights large enough that layers matter, with means over d_model that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * drawn if "ln_" in name or "norm" in name else 0.15 * drawn + 0.02)
    built.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(_tokenizer(end="<|endoftext|>"))


def _tokenizer(**names: str) -> str:
    text = str(tiny.tokenizer().to_str())
    return text.replace("<eos>", names.get("end", "<|EOS|>")).replace("<bos>", names.get("bos", "<|padding|>"))


def _gelu(root: Path) -> None:
    """A checkpoint of an early TransformerLens, buffers included; its tokenizer has a repository of its own."""
    folder, tokenizer = root / GELU, root / GELU_TOKENIZER
    random = writers.numbers(3)
    w, h, d, v = WIDTH, _HEADS, _HEAD, tiny.VOCABULARY
    shapes: dict[str, tuple[int, ...]] = {
        "embed.W_E": (v, w), "pos_embed.W_pos": (CONTEXT, w), "unembed.W_U": (w, v), "unembed.b_U": (v,),
        **{f"blocks.0.attn.W_{x}": (h, w, d) for x in "QKV"}, **{f"blocks.0.attn.b_{x}": (h, d) for x in "QKV"},
        "blocks.0.attn.W_O": (h, d, w), "blocks.0.attn.b_O": (w,),
        "blocks.0.mlp.W_in": (w, NEURONS), "blocks.0.mlp.b_in": (NEURONS,),
        "blocks.0.mlp.W_out": (NEURONS, w), "blocks.0.mlp.b_out": (w,),
        **{f"{norm}.{part}": (w,) for norm in ("blocks.0.ln1", "blocks.0.ln2", "ln_final") for part in "wb"},
    }  # fmt: skip
    state = {name: random(*shape) * 0.3 for name, shape in shapes.items()}
    state |= {"blocks.0.attn.mask": torch.ones(CONTEXT, CONTEXT).tril().bool()}
    state |= {"blocks.0.attn.IGNORE": torch.tensor(-1e5)}
    config = {
        "n_layers": 1, "d_model": w, "d_mlp": NEURONS, "d_head": d, "n_heads": h, "n_ctx": CONTEXT, "d_vocab": v,
        "act_fn": "gelu", "attn_only": False, "normalization": "LN", "tokenizer_name": GELU_TOKENIZER, "lr": 0.001,
        "shortformer_pos": False, "dataset_name": "c4+code", "seed": 10,
    }  # fmt: skip
    folder.mkdir(parents=True)
    tokenizer.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / "model_final.pth")
    named = {"bos_token": "<|BOS|>", "eos_token": "<|EOS|>"}
    (tokenizer / "tokenizer.json").write_text(_tokenizer(bos="<|BOS|>"))
    (tokenizer / "special_tokens_map.json").write_text(json.dumps(named))
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(named))


def neurons_of_gelu(state: dict[str, Tensor], ids: list[int]) -> Tensor:
    """What `blocks.0.mlp.hook_post` holds [tokens, NEURONS], written out in plain torch."""
    block = {name.removeprefix("blocks.0."): tensor for name, tensor in state.items()}
    stream = state["embed.W_E"][torch.tensor(ids)] + state["pos_embed.W_pos"][: len(ids)]
    normed = _normed(stream, block["ln1.w"], block["ln1.b"])
    q, k, u = (torch.einsum("tm,hmd->htd", normed, block[f"attn.W_{x}"]) + block[f"attn.b_{x}"][:, None] for x in "QKV")
    scores = q @ k.transpose(1, 2) / _HEAD**0.5
    later = torch.ones(len(ids), len(ids)).triu(1).bool()
    mixed = scores.masked_fill(later, float("-inf")).softmax(-1) @ u
    stream = stream + torch.einsum("htd,hdm->tm", mixed, block["attn.W_O"]) + block["attn.b_O"]
    normed = _normed(stream, block["ln2.w"], block["ln2.b"])
    return torch.nn.functional.gelu(normed @ block["mlp.W_in"] + block["mlp.b_in"])


def _normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x = x - x.mean(1, keepdim=True)
    return x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight + bias


# --- dictionaries -----------------------------------------------------------------------------------------------------


def _of_sam_marks(hook: str) -> dict[str, Any]:
    return _flat(hook, "pythia-70m-deduped") | {"dataset_path": "EleutherAI/the_pile_deduplicated"}


def _of_joseph_bloom(hook: str) -> dict[str, Any]:
    """Nothing in it says that the model was centred: only the registry does."""
    return _flat(hook, "gpt2-small") | {
        "dataset_path": "Skylion007/openwebtext", "total_training_tokens": 300000000, "store_batch_size": 32,
        "device": "mps", "seed": 42, "b_dec_init_method": "geometric_median", "l1_coefficient": 8e-05, "lr": 0.0004,
        "lp_norm": 1, "feature_sampling_window": 1000, "run_name": f"{FEATURES}-L1-8e-05", "d_head": None,
    }  # fmt: skip


def _flat(hook: str, model: str) -> dict[str, Any]:
    """Settings as versions before 3 of SAELens wrote them, all in one level."""
    return {
        "model_name": model, "hook_point": hook, "hook_point_layer": int(hook.split(".")[1]),
        "hook_point_head_index": None, "is_dataset_tokenized": False, "context_size": 128,
        "use_cached_activations": False, "cached_activations_path": None, "d_in": WIDTH, "d_sae": FEATURES,
        "expansion_factor": FEATURES / WIDTH, "dtype": "torch.float32", "from_pretrained_path": None,
    }  # fmt: skip


def _dictionary(folder: Path, settings: dict[str, Any], seed: int) -> None:
    random = writers.numbers(seed)
    weights = {
        "W_enc": random(WIDTH, FEATURES) * 0.4,
        "W_dec": random(FEATURES, WIDTH),
        "b_enc": random(FEATURES) * 0.1,
        "b_dec": random(WIDTH) * 0.1,
    }
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps(settings))
    save_file(weights, folder / "sae_weights.safetensors")
    save_file({"sparsity": torch.full((FEATURES,), -2.0)}, folder / "sparsity.safetensors")


# --- opening them -----------------------------------------------------------------------------------------------------


def in_both_layouts(root: Path) -> Path:
    """`root`, with everything in root/mirror and in root/hub."""
    as_cache(build(root / "mirror"), root / "hub")
    return root


def leave_alone(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No mirror, another cache of the hub, and every way to another machine is an error."""

    def refuse(*args: object, **kwargs: object) -> Any:
        raise AssertionError(f"opened a connection: {args} {kwargs}")

    for owner, name in ((socket, "getaddrinfo"), (socket, "create_connection"), (socket.socket, "connect")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("SAESCOPE_MIRROR", raising=False)


def opened(model: str | None, *dictionaries: str, **options: Any) -> tuple[Headless, Opened]:
    """An engine on what these names mean, and what it says is open."""
    headless = Headless(lambda *_: None)
    events = headless.ask(Open(id=1, model=model, dictionaries=dictionaries, device="cpu", **options))
    return headless, next(event for event in events if isinstance(event, Opened))


def ran(headless: Headless) -> FeaturesResult:
    return next(e.result for e in headless.ask(Run(id=2, prompt=PROMPT, top=20)) if isinstance(e, FeaturesFound))


def row(headless: Headless, source: str, index: int) -> Tensor:
    """One feature's activations on the prompt of `ran`."""
    events = headless.ask(Row(id=3, feature=FeatureRef(source, index)))
    return torch.tensor(next(event.values for event in events if isinstance(event, RowRead)))
