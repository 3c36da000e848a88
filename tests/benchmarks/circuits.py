"""Effects and edges of a circuit, ours beside the straightforward way. `python -m tests.benchmarks.circuits`.

Straightforward: integrated gradients with one site and one step at a time, the dictionary in the graph, once with plain
hooks on the Hugging Face module and once as one writes it with TransformerLens' Bridge; attrib with all dictionaries
spliced into one graph; edges with one forward pass and one backward pass for every node. All in float32 on the default
set against zero; the numbers are compared first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from engine import default_model
from engine.circuits.basis import DictionaryBasis
from engine.circuits.edges import edges_into, upstream
from engine.circuits.effects import attrib, integrated
from engine.circuits.gather import node_places
from engine.circuits.goal import Goal, token_ids
from engine.circuits.states import SiteState
from engine.circuits.workspace import Workspace, workspace
from engine.dictionary import Dictionary
from engine.formats.saelens import read_dictionary
from engine.job import Job
from engine.loading import open_model
from engine.model import LanguageModel
from engine.quiet import quiet_libraries
from engine.resolving import resolve
from engine.sites import Site
from tests.benchmarks.features import TEXT
from tests.benchmarks.measuring import extra_megabytes, machine, medians, table

STEPS, NODES = 10, 50
Effects = dict[str, tuple[Tensor, Tensor]]


Forward = Callable[[Tensor, Site, Tensor], Tensor]
"""Token ids, a site and what it holds → logits [B, T, V]."""


def plain_hooks(model: LanguageModel) -> Forward:
    def forward(ids: Tensor, site: Site, x: Tensor) -> Tensor:
        with model.visiting({site: lambda _: x}):
            logits: Tensor = model.hf(ids, use_cache=False).logits
            return logits

    return forward


def bridge(model: LanguageModel) -> Forward:
    """As one writes it with TransformerLens."""

    def forward(ids: Tensor, site: Site, x: Tensor) -> Tensor:
        logits: Tensor = model._bridge.run_with_hooks(ids, fwd_hooks=[(site.hook, lambda old, hook: x)])
        return logits

    return forward


def dictionary_of(state: SiteState) -> Dictionary:
    assert isinstance(state.basis, DictionaryBasis)
    return state.basis.dictionary


def straightforward_effects(forward: Forward, work: Workspace) -> Effects:
    """For each site and each α: the whole model with decode(f_α) + r_α spliced in, and a backward pass."""
    found: Effects = {}
    for source, state in work.states.items():
        b, t, d = state.shape
        width = state.basis.d_sae
        features = torch.zeros(b * t, width, device=state.x.device).index_put_(
            (state.rows, state.features), state.clean
        )
        change = torch.zeros_like(features).index_put_((state.rows, state.features), state.delta)
        error = state.x.view(b * t, d) - state.basis.reconstruct(state.x.view(b * t, d))
        total_f, total_r = torch.zeros_like(features), torch.zeros_like(error)
        decoder, bias = dictionary_of(state).decoder, state.basis.constant(state.x.view(b * t, d))
        for k in range(STEPS):
            f = (features + k / STEPS * change).requires_grad_()
            r = (error + k / STEPS * state.error_delta).requires_grad_()
            spliced = (f @ decoder + bias + r).view(b, t, d)
            logits = forward(work.run.ids, state.basis.write_site, spliced)
            metric = work.goal(logits[:, -1].float(), work.examples).sum()
            g_f, g_r = torch.autograd.grad(metric, [f, r])
            total_f += g_f / STEPS
            total_r += g_r / STEPS
        found[source] = (-change * total_f), -(state.error_delta * total_r).sum(1)
    return found


def attrib_in_the_graph(model: LanguageModel, work: Workspace) -> Effects:
    """Every dictionary spliced into one graph with its features and errors as leaves of their own gradients."""
    held: dict[str, tuple[Tensor, Tensor]] = {}

    def splice(source: str, state: SiteState) -> Callable[[Tensor], Tensor]:
        dictionary = dictionary_of(state)

        def visit(x: Tensor) -> Tensor:
            flat = x.flatten(0, 1)
            f = dictionary.encode(flat).detach().requires_grad_()
            rebuilt = dictionary.decode(f, flat)
            r = (flat - rebuilt).detach().requires_grad_()
            held[source] = f, r
            # numerically x; gradients reach f and r, and pass straight through to x
            return (flat + (rebuilt - rebuilt.detach()) + (r - r.detach())).view(x.shape)

        return visit

    with model.visiting({s.basis.write_site: splice(name, s) for name, s in work.states.items()}):
        logits = model.hf(work.run.ids, use_cache=False).logits
    metric = work.goal(logits[:, -1].float(), work.examples).sum()
    leaves = [leaf for pair in held.values() for leaf in pair]
    gradients = iter(torch.autograd.grad(metric, leaves))
    found: Effects = {}
    for source, state in work.states.items():
        g_f, g_r = next(gradients), next(gradients)
        change = torch.zeros_like(g_f).index_put_((state.rows, state.features), state.delta)
        found[source] = -change * g_f, -(state.error_delta * g_r).sum(1)
    return found


def our_effects(work: Workspace) -> Effects:
    plain = attrib(work)
    found: Effects = {}
    for source, state in work.states.items():
        effects = integrated(work, source, STEPS, plain[source].gradient, lambda *_: None)
        dense = torch.zeros(len(effects.errors), state.basis.d_sae, device=state.x.device)
        found[source] = dense.index_put_((state.rows, state.features), effects.features), effects.errors
    return found


class EdgeQuestion:
    """The strongest nodes as targets and sources, with their gradients."""

    def __init__(self, work: Workspace) -> None:
        self.work = work
        self.effects = attrib(work)
        sizes = {s: torch.cat([e.features, e.errors]).abs() for s, e in self.effects.items()}
        floor = torch.cat(list(sizes.values())).topk(NODES + 1).values[-1]
        self.kept = {s: (size > floor).nonzero()[:, 0] for s, size in sizes.items()}

    def ours(self) -> dict[str, Tensor]:
        """By pair of sites, [targets, sources]."""
        found = {}
        for target, nodes in self.kept.items():
            gradient = self.effects[target].gradient
            for block in edges_into(self.work, target, nodes, gradient, self.kept, lambda *_: None):
                dense = torch.zeros(len(nodes), len(self.kept[block.source]))
                place = torch.searchsorted(nodes, block.into), torch.searchsorted(self.kept[block.source], block.out_of)
                found[f"{block.source}→{target}"] = dense.index_put_(tuple(p.cpu() for p in place), block.weights.cpu())
        return found

    def straightforward(self) -> dict[str, Tensor]:
        """One pass with every site a leaf, then one backward pass for every node."""
        work, model = self.work, self.work.run.model
        found: dict[str, Tensor] = {}
        arrived: dict[str, Tensor] = {}
        leaves: dict[str, Tensor] = {}

        def cut(source: str) -> Callable[[Tensor], Tensor]:
            def visit(x: Tensor) -> Tensor:
                arrived[source] = x
                leaves[source] = x.detach().requires_grad_()
                return leaves[source]

            return visit

        with model.visiting({s.basis.write_site: cut(name) for name, s in work.states.items()}):
            model.hf(work.run.ids, use_cache=False)
        for target, nodes in self.kept.items():
            state = work.states[target]
            places, features = node_places(state)
            for source in upstream(work, target):
                above = work.states[source]
                kept = self.kept[source]
                at = node_places(above)[0][kept]
                is_feature = kept < len(above.features)
                entry = kept.clamp(max=len(above.features) - 1)
                moves = torch.where(
                    is_feature[:, None],
                    above.basis.directions(above.features[entry]) * above.delta[entry, None],
                    above.error_delta[at],
                )
                rows = []
                x = arrived[target].flatten(0, 1)
                g = self.effects[target].gradient
                encoded = dictionary_of(state).encode(x)
                error = x - dictionary_of(state).decode(encoded, x)
                for node in nodes.tolist():
                    place, feature = int(places[node]), int(features[node])
                    if feature == state.basis.d_sae:
                        value = (g[place] * error[place]).sum()
                    else:
                        value = (g[place] @ dictionary_of(state).decoder[feature]) * encoded[place, feature]
                    (gradient,) = torch.autograd.grad(value, [leaves[source]], retain_graph=True)
                    rows.append(-(gradient.flatten(0, 1)[at] * moves).sum(1))
                if rows:
                    found[f"{source}→{target}"] = torch.stack(rows).detach().cpu()
        return found


def measure(model: LanguageModel, bases: list[DictionaryBasis], tokens: int, rounds: int, device: str) -> None:
    """One table, for a prompt of so many tokens."""
    ids = token_ids([model.tokenizer.encode(TEXT, bos=False)[:tokens]], model.device)

    def goal(logits: Tensor) -> Goal:
        top = logits.topk(2, dim=1).indices
        return Goal("difference", top[:, :1], top[:, 1:])

    work = workspace(model, bases, ids, None, goal, "pass-through", Job())
    edges = EdgeQuestion(work)
    hooks, tl = plain_hooks(model), bridge(model)
    jobs: dict[str, Callable[[], object]] = {
        "attrib, dictionaries in the graph": lambda: attrib_in_the_graph(model, work),
        "attrib, ours": lambda: attrib(work),
        "ig, TransformerLens, one by one": lambda: straightforward_effects(tl, work),
        "ig, plain hooks, one by one": lambda: straightforward_effects(hooks, work),
        "ig, ours": lambda: our_effects(work),
        "edges, one backward per node": edges.straightforward,
        "edges, ours": edges.ours,
    }
    theirs, own = straightforward_effects(hooks, work), our_effects(work)
    off = max(float((theirs[s][0] - own[s][0]).abs().max() / theirs[s][0].abs().max()) for s in own)
    one, many = edges.straightforward(), edges.ours()
    off_edges = max(float((one[k] - many[k]).abs().max() / max(float(one[k].abs().max()), 1e-6)) for k in many)
    memory = {name: extra_megabytes(job, device) for name, job in jobs.items()}
    seconds = medians(jobs, rounds, torch.cuda.synchronize if device.startswith("cuda") else lambda: None)
    rows = []
    for name, taken in seconds.items():
        own_time = seconds[f"{name.partition(',')[0]}, ours"]
        faster = f"{taken / own_time:.1f}×" if taken != own_time else ""
        rows.append([name, f"{1000 * taken:.0f} ms", faster, f"{memory[name]:.0f} MB"])
    table(
        f"{tokens} tokens, ig {STEPS}, {len(bases)} sites, {NODES} nodes; "
        f"largest difference {off:.0e} of an effect, {off_edges:.0e} of an edge",
        ["", "time", "ours is faster", "extra memory"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, nargs="*", default=[8, 16, 64])
    chosen = parser.parse_args()
    quiet_libraries()
    print(machine(chosen.device))
    model = open_model(default_model.ensure(Job()), chosen.device, "float32")
    dictionaries = [read_dictionary(p.path).to(model.device, model.dtype) for p in resolve(None, ()).dictionaries]
    for tokens in chosen.tokens:
        measure(model, [DictionaryBasis(d) for d in dictionaries], tokens, chosen.rounds, chosen.device)


if __name__ == "__main__":
    main()
