"""A tiny model as TransformerLens' HookedTransformer, by TransformerLens' own conversion of the weights."""

from __future__ import annotations

from typing import Any

from tests import tiny

FAMILIES = ("gpt2", "gpt_neox", "llama", "gemma", "gemma2", "gemma3")


def hooked(family: str, built: Any) -> Any:
    """`tiny.model(family)` as a HookedTransformer, nothing folded or centred."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions as convert

    settings = _settings(family, built.config)
    cfg = HookedTransformerConfig.from_dict(settings)
    converters = {"gpt2": convert.convert_gpt2_weights, "gpt_neox": convert.convert_neox_weights}
    converters |= {"llama": convert.convert_llama_weights}
    state = converters.get(family, convert.convert_gemma_weights)(built, cfg)
    made = HookedTransformer(cfg)
    made.load_and_process_state_dict(
        state, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    made.set_use_hook_mlp_in(True)
    return made.eval()


def _settings(family: str, config: Any) -> dict[str, Any]:
    """What TransformerLens' `loading_from_pretrained` writes for an architecture, with the tiny model's sizes."""
    head = tiny.D_MODEL // 4
    settings: dict[str, Any] = {
        "d_model": tiny.D_MODEL, "d_head": head, "n_heads": 4, "n_layers": tiny.LAYERS, "n_ctx": 128,
        "d_vocab": tiny.VOCABULARY, "d_mlp": 128 if family == "gpt2" else 64, "device": "cpu", "seed": 0,
        "original_architecture": type(config).__name__.replace("Config", "ForCausalLM"),
    }  # fmt: skip
    if family == "gpt2":
        return settings | {"act_fn": "gelu_new", "eps": config.layer_norm_epsilon, "normalization_type": "LN"}
    settings |= {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": False}
    if family == "gpt_neox":
        return settings | {
            "act_fn": "gelu", "eps": config.layer_norm_eps, "normalization_type": "LN", "parallel_attn_mlp": True,
            "rotary_dim": head // 4,
        }  # fmt: skip
    settings |= {
        "eps": config.rms_norm_eps, "normalization_type": "RMS", "gated_mlp": True, "final_rms": True,
        "n_key_value_heads": 2, "rotary_dim": head,
    }  # fmt: skip
    if family == "llama":
        return settings | {"act_fn": "silu"}
    settings |= {"act_fn": "gelu_pytorch_tanh"}
    if family == "gemma":
        return settings
    local = ["local" if kind == "sliding_attention" else "global" for kind in config.layer_types]
    settings |= {"use_normalization_before_and_after": True, "use_local_attn": True, "attn_types": local}
    settings |= {"window_size": config.sliding_window}
    if family == "gemma2":
        return settings | {"attn_scores_soft_cap": 50.0, "output_logits_soft_cap": 30.0}
    return settings | {"use_qk_norm": True, "rotary_base": 1_000_000, "rotary_base_local": 10_000}
