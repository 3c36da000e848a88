"""Effects and edges the obvious way: hooks of our own on the Hugging Face module, and SAELens' own dictionaries.

Nothing of `engine` is used. One prompt at a time, one pass per question; x = c · W_dec + rest at every site, where c is
what a decoder row is multiplied by. A baseline is the patch prompt's c and rest, or c = 0 and what is decoded then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Metric = Callable[[Tensor], Tensor]
Change = Callable[[Tensor, Tensor], "Tensor | None"]
"""What is read and what is written, both [T, d] → what is written instead."""

_LLAMA = {"res": "model.layers.{}", "att": "model.layers.{}.self_attn", "mlp": "model.layers.{}.mlp"}
PLACES = {
    "llama": _LLAMA | {"mid": "model.layers.{}.post_attention_layernorm"},
    "qwen2": _LLAMA,
    "gemma2": {
        "res": "model.layers.{}",
        "att": "model.layers.{}.post_attention_layernorm",
        "mlp": "model.layers.{}.post_feedforward_layernorm",
    },
    "gpt2": {
        "res": "transformer.h.{}",
        "att": "transformer.h.{}.attn",
        "mlp": "transformer.h.{}.mlp",
        "mid": "transformer.h.{}.ln_2",
    },
    "gpt_neox": {
        "res": "gpt_neox.layers.{}",
        "att": "gpt_neox.layers.{}.attention",
        "mlp": "gpt_neox.layers.{}.mlp",
    },
    # the Bridge's sites: before BLOOM adds the stream inside its attention and MLP modules
    "bloom": {
        "res": "transformer.h.{}",
        "att": "transformer.h.{}.self_attention.dense",
        "mlp": "transformer.h.{}.mlp.dense_4h_to_h",
    },
}
"""Modules whose output (`mid`: input) is the site."""


@dataclass(frozen=True)
class Part:
    """One dictionary: SAELens' object in float64, and where it reads and writes, e.g. `1-mid` and `1-mlp`."""

    source: str
    sae: Any
    read: str
    write: str

    def apart(self, read: Tensor, written: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c [T, F], what is decoded without any [T, d], and the error [T, d]."""
        f = self.sae.encode(read)
        c = f * self.sae.ln_std if self.sae.cfg.normalize_activations == "layer_norm" else f
        if getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", False):
            c = c / self.sae.W_dec.norm(dim=1)
        constant = self.sae.decode(torch.zeros_like(f))
        if hasattr(self.sae, "W_skip"):
            constant = constant + read @ self.sae.W_skip.T
        return c, constant, written - constant - c @ self.sae.W_dec


def load(folder: Path, read: str, write: str) -> Part:
    """A dictionary as SAELens opens it."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder).to(dtype=torch.float64).requires_grad_(False)
    return Part(folder.name, sae, read, write)


@dataclass
class State:
    """One site of one prompt, and by how much its nodes change."""

    read: Tensor
    x: Tensor
    c: Tensor
    rest: Tensor
    delta: Tensor
    delta_rest: Tensor


class Plain:
    """One prompt, taken apart at every site of `parts`, which come in the order of a forward pass."""

    def __init__(
        self,
        hf: Any,
        family: str,
        parts: Sequence[Part],
        ids: Tensor,
        patch: Tensor | None,
        metric: Metric,
        *,
        hold_sinks: bool = False,
    ) -> None:
        self.hf = hf
        self.places = PLACES[family]
        self.parts = {part.source: part for part in parts}
        self.order = list(self.parts)
        self.ids = ids
        self.metric = metric
        seen, other = self._looked(ids), self._looked(patch) if patch is not None else None
        self.states = {}
        for part in parts:
            read, x = seen[part.source]
            c, constant, error = part.apart(read, x)
            torch.testing.assert_close(x - error, part.sae(read))
            if other is None:
                base, base_rest = torch.zeros_like(c), constant
            else:
                base, base_constant, base_error = part.apart(*other[part.source])
                base_rest = base_constant + base_error
            rest = x - c @ part.sae.W_dec
            delta, delta_rest = base - c, base_rest - rest
            if hold_sinks:
                norms = x.norm(dim=1)
                held = norms > 4 * norms.median()
                held[0] = True
                delta, delta_rest = delta * ~held[:, None], delta_rest * ~held[:, None]
            self.states[part.source] = State(read, x, c, rest, delta, delta_rest)
        with torch.no_grad():
            self.clean = float(self.run({}))

    # --- running ------------------------------------------------------------------------------------------------

    @contextmanager
    def _hooked(self, changes: dict[str, Change]) -> Iterator[None]:
        """While inside, every pass calls the changes of the dictionaries they are for, in order."""
        with ExitStack() as stack:
            for source in self.order:
                if source in changes:
                    part, change = self.parts[source], changes[source]
                    seen: list[Tensor] = []

                    def look(x: Tensor, seen: list[Tensor] = seen) -> None:
                        seen[:] = [x]

                    def write(x: Tensor, seen: list[Tensor] = seen, change: Change = change) -> Tensor | None:
                        return change(seen[0] if seen else x, x)

                    if part.read != part.write:
                        stack.enter_context(self._hook(part.read, look))
                    stack.enter_context(self._hook(part.write, write))
            yield

    @contextmanager
    def _hook(self, place: str, visit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        layer, kind = place.split("-")
        module = self.hf.get_submodule(self.places[kind].format(layer))

        def before(_: Any, args: Any) -> Any:
            new = visit(args[0][0])
            return None if new is None else (new[None], *args[1:])

        def after(_: Any, __: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            new = visit(first[0])
            if new is None:
                return None
            return (new[None], *output[1:]) if isinstance(output, tuple) else new[None]

        handle = module.register_forward_pre_hook(before) if kind == "mid" else module.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()

    def run(self, changes: dict[str, Change], ids: Tensor | None = None) -> Tensor:
        """The metric of a whole pass."""
        with self._hooked(changes):
            return self.metric(self.hf((self.ids if ids is None else ids)[None]).logits[0, -1].double())

    def _looked(self, ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def look(source: str) -> Change:
            def change(read: Tensor, x: Tensor) -> None:
                seen[source] = (read, x)

            return change

        with torch.no_grad():
            self.run({source: look(source) for source in self.parts}, ids)
        return seen

    # --- effects ------------------------------------------------------------------------------------------------

    def _splice(self, source: str, through: str, leaves: dict[str, tuple[Tensor, Tensor]]) -> Change:
        """Put a dictionary into the graph: c and an error of zero more become leaves."""
        part = self.parts[source]

        def change(read: Tensor, x: Tensor) -> Tensor:
            c, constant, error = part.apart(read, x)
            more = torch.zeros_like(x).requires_grad_()
            if through == "dictionaries":
                c = c if c.requires_grad else c.requires_grad_()
                new = c @ part.sae.W_dec + constant + error.detach() + more
            else:
                c = c.detach().requires_grad_()
                new = c @ part.sae.W_dec + more + (x - (c @ part.sae.W_dec).detach())
            leaves[source] = c, more
            return new

        return change

    def attrib(self, through: str = "pass-through") -> dict[str, tuple[Tensor, Tensor]]:
        """Effects of features [T, F] and errors [T] of every site."""
        leaves: dict[str, tuple[Tensor, Tensor]] = {}
        metric = self.run({source: self._splice(source, through, leaves) for source in self.parts})
        found = {}
        for source, state in self.states.items():
            by_c, by_rest = torch.autograd.grad(metric, leaves[source], retain_graph=True)
            found[source] = (-state.delta * by_c, -(state.delta_rest * by_rest).sum(1))
        return found

    def integrated(self, source: str, steps: int, through: str = "pass-through") -> tuple[Tensor, Tensor]:
        """One site, one step after the other, a whole pass each."""
        state, sae = self.states[source], self.parts[source].sae
        by_c, by_rest = torch.zeros_like(state.c), torch.zeros_like(state.rest)
        later = self.order[self.order.index(source) + 1 :] if through == "dictionaries" else []
        for step in range(steps):
            c = (state.c + step / steps * state.delta).requires_grad_()
            rest = (state.rest + step / steps * state.delta_rest).requires_grad_()

            def put(read: Tensor, x: Tensor, c: Tensor = c, rest: Tensor = rest) -> Tensor:
                return c @ sae.W_dec + rest

            metric = self.run({source: put, **{s: self._splice(s, through, {}) for s in later}})
            for total, gradient in zip((by_c, by_rest), torch.autograd.grad(metric, [c, rest]), strict=True):
                total += gradient / steps
        return -state.delta * by_c, -(state.delta_rest * by_rest).sum(1)

    def exact(self, source: str) -> tuple[Tensor, Tensor]:
        """One whole pass for every node that changes."""
        state, sae = self.states[source], self.parts[source].sae
        features, errors = torch.zeros_like(state.c), torch.zeros(len(state.c), dtype=torch.float64)

        def measured(place: int, shift: Tensor) -> float:
            x = state.x.clone()
            x[place] += shift
            with torch.no_grad():
                return self.clean - float(self.run({source: lambda *_: x}))

        for place, index in state.delta.nonzero().tolist():
            features[place, index] = measured(place, state.delta[place, index] * sae.W_dec[index])
        for place in range(len(errors)):
            errors[place] = measured(place, state.delta_rest[place])
        return features, errors

    # --- edges --------------------------------------------------------------------------------------------------

    def upstream(self, target: str | None) -> list[str]:
        """The sites before one, back to a residual stream, through which everything passes."""
        before = self.order if target is None else self.order[: self.order.index(target)]
        cuts = [place for place, source in enumerate(before) if self.parts[source].write.endswith("-res")]
        return before[cuts[-1] if cuts else 0 :]

    def edges(
        self, target: str | None, node: tuple[int, int] | None = None, gradient: Tensor | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Weights from features [T, F] and errors [T] of every site upstream into one node: (place, feature or −1).

        Every site between holds its clean value. The node counts with the constant gradient [T, d] at its site;
        without a node, the metric itself is the target.
        """
        sources = self.upstream(target)
        leaves = {s: self.states[s].x.clone().requires_grad_() for s in sources}
        arrived: list[Tensor] = []

        def hold(leaf: Tensor) -> Change:
            return lambda read, x: leaf

        def arrive(read: Tensor, x: Tensor) -> None:
            assert target is not None
            assert node is not None
            assert gradient is not None
            part, (place, feature) = self.parts[target], node
            c, _, error = part.apart(read, x)
            if feature < 0:
                arrived.append((error[place] * gradient[place]).sum())
            else:
                arrived.append(c[place, feature] * (part.sae.W_dec[feature] @ gradient[place]))

        changes: dict[str, Change] = {source: hold(leaf) for source, leaf in leaves.items()}
        if target is not None:
            changes[target] = arrive
        metric = self.run(changes)
        found = {}
        for source, leaf in leaves.items():
            (back,) = torch.autograd.grad(
                arrived[0] if arrived else metric, [leaf], retain_graph=True, allow_unused=True
            )
            back = torch.zeros_like(leaf) if back is None else back
            state, part = self.states[source], self.parts[source]
            found[source] = (-state.delta * (back @ part.sae.W_dec.T), -(state.delta_rest * back).sum(1))
        return found
