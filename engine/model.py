"""A language model with named sites: the Hugging Face module itself, read and changed through plain forward hooks.

A visitor is a function on the activation `x` of a site, shape [batch, tokens, d]; it returns None to look or a
tensor of the same shape to replace what flows on. Visitors are the only way in, for reading and for steering.
Architectures without a row in `engine.architectures` go through TransformerLens' Bridge behind the same calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine import norms
from engine.architectures import FAMILIES, Side, locate
from engine.errors import BadRequest, DictionaryMismatch
from engine.interrupts import interrupts_later
from engine.job import Job
from engine.sites import Site
from engine.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

Visitor = Callable[[Tensor], Tensor | None]


class _Stop(Exception):
    """Raised inside the last needed hook: the rest of the pass is not wanted."""


class LanguageModel:
    """A model folder, open on a device.

    The wrapped module is in eval mode with gradients off; weights are as on disk, not folded or centred.
    """

    def __init__(self, hf: PreTrainedModel, tokenizer: TextTokenizer, name: str, folder: Path) -> None:
        self.hf = hf
        self.tokenizer = tokenizer
        self.name = name
        self.folder = folder
        self.config: Any = hf.config.get_text_config()
        self._family = FAMILIES.get(hf.config.model_type)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.hf.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.hf.dtype
        return dtype

    @property
    def layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        return int(self.config.hidden_size)

    @property
    def context(self) -> int:
        """The longest prompt, in tokens."""
        return int(getattr(self.config, "max_position_embeddings", 0) or 2048)

    @cached_property
    def _bridge(self) -> Any:
        """The same module behind TransformerLens' Bridge, for architectures that have no row of their own."""
        with interrupts_later():
            from transformer_lens.model_bridge import TransformerBridge
            from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        return TransformerBridge.boot_transformers(
            self.name, hf_model=self.hf, tokenizer=tokenizer, device=str(self.device)
        )

    def _tap(self, site: Site) -> tuple[nn.Module, Side]:
        if site.layer >= self.layers:
            raise DictionaryMismatch(
                f"{site.hook} does not exist: {self.name} has {self.layers} layers.",
                "Open the model this dictionary was made for.",
            )
        if self._family is not None:
            if (found := locate(self.hf, self._family, site)) is not None:
                if found[1] == "normalized":
                    norms.check(found[0])
                return found
            raise DictionaryMismatch(f"{self.name} ({self.config.model_type}) has no place called {site.hook}.")
        hooks = self._bridge.hook_dict
        if (
            site.hook not in hooks or site.kind == "hook_mlp_in"
        ):  # the Bridge has that one everywhere and seldom calls it
            raise DictionaryMismatch(f"{self.name} ({self.config.model_type}) has no place called {site.hook}.")
        return hooks[site.hook], "out"

    def check_site(self, site: Site) -> None:
        """Raise `DictionaryMismatch` where the model has no such place."""
        self._tap(site)

    def width(self, site: Site) -> int:
        """How many numbers the site holds per token, seen in a pass over two tokens."""
        widths: list[int] = []
        self.read(
            torch.zeros(1, 2, dtype=torch.long, device=self.device),
            {site: lambda x: widths.append(x[0, 0].numel())},
        )
        if not widths:
            raise DictionaryMismatch(f"A pass through {self.name} never comes by {site.hook}.")
        return widths[0]

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end a text."""
        generation = getattr(self.hf, "generation_config", None)
        end = generation.eos_token_id if generation is not None else None
        if end is None:
            end = getattr(self.config, "eos_token_id", None)
        return frozenset(end if isinstance(end, list) else () if end is None else (end,))

    @contextmanager
    def visiting(self, visitors: Mapping[Site, Visitor], job: Job | None = None) -> Iterator[None]:
        """While inside, every forward pass of the model calls the visitors of the sites it meets."""
        handles = []
        try:
            for site in sorted(visitors, key=lambda site: site.kind != "resid_mid"):
                module, side = self._tap(site)
                visitor = visitors[site]
                if site.kind == "resid_mid" and self._family is not None:
                    visitor, carry = _into_the_stream(visitor)
                    handles.append(_attach(self._tap(Site("resid_post", site.layer))[0], "out", carry))
                if side == "normalized":
                    assert self._family is not None
                    handles.append(_attach_inside(module, self._family.norm_offset, visitor))
                else:
                    handles.append(_attach(module, side, visitor))
            if job is not None and self._family is not None:
                for block in attrgetter(self._family.blocks)(self.hf):
                    handles.append(block.register_forward_pre_hook(lambda *_: job.check()))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def read(self, ids: Tensor, visitors: Mapping[Site, Visitor], job: Job | None = None) -> None:
        """One pass over `ids` [batch, tokens] that ends after the last visited site; no logits are computed."""
        last = max(visitors, key=lambda site: site.depth)

        def visit_and_stop(x: Tensor) -> Tensor | None:
            visitors[last](x)
            raise _Stop

        with self.visiting({**visitors, last: visit_and_stop}, job), torch.inference_mode():
            try:
                self._body(ids, None)
            except _Stop:
                return

    def capture(self, ids: Tensor, sites: Iterable[Site], job: Job | None = None) -> dict[Site, Tensor]:
        """What the sites hold in one pass over `ids` [batch, tokens] → [batch, tokens, d] each."""
        caught: dict[Site, Tensor] = {}

        def keep(site: Site) -> Visitor:
            def visit(x: Tensor) -> None:
                caught[site] = x

            return visit

        self.read(ids, {site: keep(site) for site in sites}, job)
        return caught

    def hidden(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """The final normed hidden state [batch, tokens, d_model] of a whole pass.

        With a `cache`, `ids` continue what the cache holds and the cache grows in place.
        """
        return self._body(ids, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits of hidden states [n, d_model] → [n, vocabulary], in float32 or the model's float64.

        The input must be 2-D: sliced 3-D states make matmul copy the whole unembedding at every call.
        """
        precision = torch.promote_types(hidden.dtype, torch.float32)
        if self._family is None:
            return hidden.to(precision)  # the Bridge has been through the unembedding already
        scores: Tensor = self.hf.get_output_embeddings()(hidden).to(precision)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return torch.tanh(scores / cap) * cap if cap else scores

    @property
    def blocks(self) -> Sequence[nn.Module] | None:
        """The transformer blocks in order, or None where they cannot be called one by one."""
        return None if self._family is None else attrgetter(self._family.blocks)(self.hf)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """What lies between the last block and the unembedding."""
        assert self._family is not None
        return attrgetter(self._family.norm)(self.hf)(hidden)  # type: ignore[no-any-return]

    @property
    def caches(self) -> bool:
        """Whether passes can continue a key-value cache."""
        return self._family is not None

    def _body(self, ids: Tensor, cache: Cache | None) -> Tensor:
        if self._family is None:
            return self._bridge(ids, return_type="logits")  # type: ignore[no-any-return]
        body = attrgetter(self._family.body)(self.hf)
        output = body(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
        return output.last_hidden_state  # type: ignore[no-any-return]

    @cached_property
    def unembedding(self) -> Tensor:
        """W_U as [vocabulary, d_model]."""
        weight = self.hf.get_output_embeddings().weight
        if weight.shape[-1] != self.d_model:
            raise BadRequest(f"{self.name} has an unembedding of shape {tuple(weight.shape)}.")
        return weight.detach()  # type: ignore[no-any-return]


def _attach(module: nn.Module, side: Side, visitor: Visitor) -> torch.utils.hooks.RemovableHandle:
    """Hook `visitor` on a module's first input or first output, whichever way it is passed."""
    if side == "in":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                new = visitor(args[0])
                return None if new is None else ((new, *args[1:]), kwargs)
            new = visitor(kwargs["hidden_states"])
            return None if new is None else (args, {**kwargs, "hidden_states": new})

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = visitor(output[0])
            return None if new is None else (new, *output[1:])
        return visitor(output)

    return module.register_forward_hook(after)


def _attach_inside(norm: nn.Module, offset: float, visitor: Visitor) -> torch.utils.hooks.RemovableHandle:
    """Hook `visitor` on what a norm holds before its weight and bias; `offset` is added to the weight."""

    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        x = args[0] if args else kwargs["hidden_states"]
        new = visitor(norms.normalised(norm, x))
        return None if new is None else norms.finished(norm, new, offset, output.dtype)

    return norm.register_forward_hook(after, with_kwargs=True)


def _into_the_stream(visitor: Visitor) -> tuple[Visitor, Visitor]:
    """A visitor of a norm's input, and one of its block's output that adds what the first changed: the stream goes
    past the norm as well as through it."""
    changed: list[Tensor] = []

    def visit(x: Tensor) -> Tensor | None:
        new = visitor(x)
        if new is not None:
            changed[:] = [new - x]
        return new

    def carry(x: Tensor) -> Tensor | None:
        return x + changed.pop() if changed else None

    return visit, carry
