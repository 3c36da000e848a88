"""Tiny random models and dictionaries, built from a configuration and saved as their libraries save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

D_MODEL = 32
LAYERS = 4
VOCABULARY = 300
D_SAE = 64
K = 8


def model(family: str, seed: int = 0) -> Any:
    """A random model of an architecture; weights are large enough that layers matter."""
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    common: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 256, "eos_token_id": 257}
    llama_like = common | {
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    configs: dict[str, tuple[Any, Any]] = {
        "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**llama_like, pad_token_id=257)),
        "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**llama_like)),
        "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**llama_like, head_dim=8)),
        "gemma": (hf.GemmaForCausalLM, hf.GemmaConfig(**llama_like, head_dim=8)),
        "gemma2": (hf.Gemma2ForCausalLM, hf.Gemma2Config(**llama_like, head_dim=8, query_pre_attn_scalar=8)),
        "gemma3": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(**llama_like, head_dim=8, query_pre_attn_scalar=8)),
        "gemma3_with_images": (
            hf.Gemma3ForConditionalGeneration,
            hf.Gemma3Config(
                text_config=llama_like | {"head_dim": 8, "query_pre_attn_scalar": 8},
                vision_config={
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "image_size": 28,
                    "patch_size": 14,
                },
                mm_tokens_per_image=4,
                eoi_token_index=290,
                boi_token_index=291,
                image_token_index=292,
            ),
        ),
        "gpt2": (
            hf.GPT2LMHeadModel,
            hf.GPT2Config(**common, n_embd=D_MODEL, n_layer=LAYERS, n_head=4, n_positions=128),
        ),
        "gpt_neox": (
            hf.GPTNeoXForCausalLM,
            hf.GPTNeoXConfig(
                **common,
                hidden_size=D_MODEL,
                intermediate_size=64,
                num_hidden_layers=LAYERS,
                num_attention_heads=4,
                max_position_embeddings=128,
                use_parallel_residual=True,
            ),
        ),
        "bloom": (
            hf.BloomForCausalLM,
            hf.BloomConfig(**common, hidden_size=D_MODEL, n_layer=LAYERS, n_head=4),
        ),
    }
    model_class, config = configs[family]
    built = model_class(config).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return built


def tokenizer() -> Any:
    """Byte-level: 256 bytes, <bos> 256, <eos> 257, and a few merges so that tokens have leading spaces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate(alphabet)}
    vocabulary |= {"<bos>": 256, "<eos>": 257}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ġ", "in"), ("Ġ", "a"), ("o", "f"), ("Ġ", "of")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(["<bos>", "<eos>"])
    return built


def save_model(built: Any, folder: Path) -> Path:
    """A Hugging Face folder with weights, config and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    built.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": "{% for m in messages %}<bos>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def sae(architecture: str, *, hook: str, d_in: int = D_MODEL, seed: int = 1, **settings: Any) -> Any:
    """A random dictionary of a SAELens class, its weights such that a good part of it fires.

    Matching pursuit gets decoder rows of norm 1, without which what is left would grow with every step.
    """
    import torch
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    sae_class, config_class = get_sae_class(architecture)
    options: dict[str, Any] = {"d_in": d_in, "d_sae": D_SAE, **settings}
    if architecture in {"topk", "abstopk"}:
        options.setdefault("k", K)
    if architecture == "temporal":
        options = {"n_heads": 4, "bottleneck_factor": 8, "kval_topk": K} | options
    if "transcoder" in architecture:
        options.setdefault("d_out", d_in)
        options.setdefault("apply_b_dec_to_input", False)
    metadata = options.pop("metadata", {})
    built = sae_class(config_class(**options, metadata=SAEMetadata(hook_name=hook, **metadata)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            scale = 0.3 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if name == "threshold":
                parameter.abs_()
            if architecture == "matching_pursuit" and name == "W_dec":
                parameter.div_(parameter.norm(dim=1, keepdim=True))
    return built


def save_dictionary(folder: Path, architecture: str, *, layer: int = 1, seed: int = 1, **settings: Any) -> Path:
    """A SAELens folder, written by SAELens."""
    settings.setdefault("hook", f"blocks.{layer}.hook_resid_post")
    settings.setdefault("metadata", {"prepend_bos": False})
    sae(architecture, seed=seed + layer, **settings).save_model(folder)
    return folder
