"""Models that exist only as TransformerLens checkpoints, such as gelu-1l, behind the interface of `LanguageModel`.

A folder holds TransformerLens' own `config.json` and `model_final.pth`; the tokenizer lies beside them or in the
repository that the configuration names. Weights are as on disk, not folded or centred.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.architectures import Side
from engine.errors import DictionaryMismatch, DictionaryMissing, ModelMissing
from engine.formats import tensors
from engine.hub.local import roots
from engine.interrupts import interrupts_later
from engine.job import Job
from engine.model import LanguageModel, Visitor
from engine.names.models import HOOKED_WEIGHTS
from engine.sites import Site
from engine.tokenizer import TextTokenizer

_NUMBERS = ("n_layers", "d_model", "d_head", "n_heads", "n_ctx", "d_vocab")
_NOT_WEIGHTS = (".mask", ".IGNORE")
_REMEDY = "Give a folder with the config.json and the model_final.pth of one TransformerLens checkpoint."


class HookedModel(LanguageModel):
    """A `HookedTransformer`, read and changed through its hook points; texts are continued without a cache."""

    def __init__(self, hooked: nn.Module, tokenizer: TextTokenizer, name: str, folder: Path) -> None:
        self.hf: Any = hooked
        self.tokenizer = tokenizer
        self.name = name
        self.folder = folder
        self.config: Any = hooked.cfg
        self._family = None

    @property
    def device(self) -> torch.device:
        device: torch.device = self.hf.embed.W_E.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.hf.embed.W_E.dtype
        return dtype

    @property
    def layers(self) -> int:
        return int(self.config.n_layers)

    @property
    def d_model(self) -> int:
        return int(self.config.d_model)

    @property
    def context(self) -> int:
        return int(self.config.n_ctx)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        end = self.tokenizer.eos_id
        return frozenset(() if end is None else (end,))

    def _tap(self, site: Site) -> tuple[nn.Module, Side]:
        if site.layer >= self.layers:
            raise DictionaryMismatch(
                f"{site.hook} does not exist: {self.name} has {self.layers} layers.",
                "Open the model this dictionary was made for.",
            )
        point = self.hf.hook_dict.get(site.hook)
        if point is None:
            raise DictionaryMismatch(f"{self.name} (HookedTransformer) has no place called {site.hook}.")
        return point, "out"

    @contextmanager
    def visiting(self, visitors: Mapping[Site, Visitor], job: Job | None = None) -> Iterator[None]:
        """As `LanguageModel.visiting`; a site that TransformerLens keeps apart by heads is seen as one row."""
        handles = []
        if job is not None:
            handles = [block.register_forward_pre_hook(lambda *_: job.check()) for block in self.hf.blocks]
        try:
            with super().visiting({site: _in_rows(visitor) for site, visitor in visitors.items()}):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _body(self, ids: Tensor, cache: Any) -> Tensor:
        assert cache is None
        hidden: Tensor = self.hf(ids, return_type="logits", prepend_bos=False, stop_at_layer=self.layers)
        return hidden if self.config.normalization_type is None else self.hf.ln_final(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        precision = torch.promote_types(hidden.dtype, torch.float32)
        return torch.nn.functional.linear(hidden, self.unembedding, self.hf.unembed.b_U).to(precision)

    @cached_property
    def unembedding(self) -> Tensor:
        weight: Tensor = self.hf.unembed.W_U
        return weight.detach().T.contiguous()


def _in_rows(visitor: Visitor) -> Visitor:
    """A visitor of [batch, tokens, d] as one of [batch, tokens, heads, d_head]."""

    def visit(x: Tensor) -> Tensor | None:
        if x.ndim == 3:
            return visitor(x)
        new = visitor(x.flatten(2))
        return None if new is None else new.reshape(x.shape)

    return visit


def is_hooked(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder is a TransformerLens checkpoint and no Hugging Face model."""
    return not config.get("architectures") and (folder / HOOKED_WEIGHTS).is_file() and "d_model" in config


def open_hooked(
    folder: Path, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, name: str, job: Job | None
) -> HookedModel:
    """The model in a folder of this form, on a device, in eval mode, gradients off.

    Raises:
        ModelMissing: the weights are damaged or are not those of the configuration, or there is no tokenizer.
    """
    dtype = torch.promote_types(dtype, torch.float32)  # its blocks keep casting to what they were made in
    tokenizer = TextTokenizer(_tokenizer_folder(folder, config))
    settings = _settings(folder, config)
    try:
        weights = tensors.load(folder / HOOKED_WEIGHTS)
        _check_sizes(weights, settings)
        if job is not None:
            job.progress("importing transformer_lens")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with interrupts_later():
                from transformer_lens import HookedTransformer, HookedTransformerConfig

            if job is not None:
                job.progress(f"loading {name}")
            hooked = HookedTransformer(
                HookedTransformerConfig(**settings, device=str(device), dtype=dtype, init_weights=False)
            )
        state = _state(hooked, weights)
    except (DictionaryMissing, DictionaryMismatch) as error:
        raise ModelMissing(error.message, _REMEDY) from None
    except (ValueError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0][:200].rstrip(".")
        raise ModelMissing(f"{folder} cannot be opened: {reason}.", _REMEDY) from None
    hooked.load_state_dict(state, strict=False)
    return HookedModel(hooked.eval().requires_grad_(False), tokenizer, name, folder)


def _settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What TransformerLens' loader of these checkpoints takes from `config.json`, under its own names."""
    for key in _NUMBERS:
        if not isinstance(config.get(key), int) or config[key] <= 0:
            raise ModelMissing(f"{folder / 'config.json'} gives no {key}.", _REMEDY)
    if config.get("architecture") not in {None, "neel"}:
        raise ModelMissing(f"{folder} is a {config['architecture']} checkpoint, which is not opened.", _REMEDY)
    attention_only = bool(config.get("attn_only", False))
    short = bool(config.get("shortformer_pos", False))
    return {
        **{key: config[key] for key in _NUMBERS},
        "d_mlp": None if attention_only else config.get("d_mlp"),
        "act_fn": config.get("act_fn"),
        "attn_only": attention_only,
        "final_rms": bool(config.get("final_rms", False)),
        "normalization_type": config.get("normalization", config.get("normalization_type")),
        "positional_embedding_type": "shortformer" if short else "standard",
    }


def _check_sizes(weights: tensors.Weights, settings: Mapping[str, Any]) -> None:
    """Refuse a configuration larger than its weights before anything of its size is made."""
    width, heads, head = settings["d_model"], settings["n_heads"], settings["d_head"]
    weights.tensor("embed.W_E", settings["d_vocab"], width)
    weights.tensor("pos_embed.W_pos", settings["n_ctx"], width)
    weights.tensor("unembed.W_U", width, settings["d_vocab"])
    for layer in range(settings["n_layers"]):
        weights.tensor(f"blocks.{layer}.attn.W_Q", heads, width, head)
        if not settings["attn_only"]:
            weights.tensor(f"blocks.{layer}.mlp.W_in", width, settings["d_mlp"])


def _state(hooked: nn.Module, weights: tensors.Weights) -> dict[str, Tensor]:
    """Every weight of the model, with its shape checked; a bias that an older checkpoint lacks is zero."""
    state = {}
    for name, own in hooked.state_dict().items():
        if name.endswith(_NOT_WEIGHTS):
            continue
        if name in weights:
            state[name] = weights.tensor(name, *own.shape)
        elif name.rpartition(".")[2].startswith("b_"):
            state[name] = torch.zeros_like(own)
        else:
            weights.need(name, what="this model")
    return state


def _tokenizer_folder(folder: Path, config: Mapping[str, Any]) -> Path:
    """Where the tokenizer lies: in the folder itself, or in the Hugging Face cache of the repository it names."""
    if (folder / "tokenizer.json").is_file():
        return folder
    named = config.get("tokenizer_name")
    if not isinstance(named, str):
        raise ModelMissing(f"{folder} has no tokenizer.json and names no tokenizer.", "Save a fast tokenizer there.")
    found = next((root for root in roots(named) if (root / "tokenizer.json").is_file()), None)
    if found is None:
        raise ModelMissing(
            f"The tokenizer {named} of {folder.name} is not on this machine.",
            f"Fetch it with `saescope get model {named}`, or copy its tokenizer.json and tokenizer_config.json to "
            f"{folder}.",
        )
    return found
