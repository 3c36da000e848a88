"""How requests about circuits are answered: trace, verify, measure faithfulness. Holds the last trace."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from engine.circuit_results import Aggregate, Circuit, CircuitSettings, Faithfulness, Metric, MetricKind, NodeRef
from engine.circuits.assemble import assemble, metric_values
from engine.circuits.basis import Basis, DictionaryBasis, NeuronBasis
from engine.circuits.examples import Example, batches, from_pairs, from_prompt
from engine.circuits.faithful import held_out, measure
from engine.circuits.goal import Goal, kl_goal, token_ids
from engine.circuits.precision import computing_in
from engine.circuits.scrutiny import check_edge, check_node
from engine.circuits.trace import Plan, Traced, trace
from engine.errors import BadRequest
from engine.job import Job
from engine.loading import DTYPES
from engine.memory.use import telling_out_of_memory
from engine.opening import OpenSet, page_of
from engine.protocol import Checked, FaithfulnessFound, MeasureFaithfulness, Trace, TraceGrown, Verify
from engine.sites import Site, parse_hook

_SITE_KINDS = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "hook_z")


class Tracer:
    """Answers `Trace`, and `Verify` and `MeasureFaithfulness` about the last one."""

    def __init__(self, opened: OpenSet) -> None:
        self._opened = opened
        self._traced: Traced | None = None
        self._circuit: Circuit | None = None
        self._dtype = torch.float32

    # --- tracing ------------------------------------------------------------------------------------------------

    def trace(self, request: Trace, job: Job) -> None:
        """Emit the circuit as it grows.

        Raises:
            BadRequest: the request does not fit the open model, or contradicts itself.
            OutOfMemory: not even one row of a batch fits.
        """
        _check(request)
        opened = self._opened
        self._traced = self._circuit = None
        with telling_out_of_memory(), computing_in(opened.model, DTYPES[request.dtype]) as dtype:
            self._dtype = dtype
            bases = self._bases(request, dtype)
            examples, notes = self._examples(request)
            kind = _kind(request, examples)
            aggregate: Aggregate = request.aggregate or ("sum" if request.pairs else "none")
            grouped = batches(examples)
            lengths = {len(batch[0].ids) for batch in grouped}
            if aggregate == "none" and len(lengths) > 1:
                raise BadRequest(
                    f"The prompts have {len(lengths)} different lengths, so positions do not correspond.",
                    "Aggregate by sum or max, or keep prompts of one length.",
                )
            job.check()
            plan = Plan(
                request.method, request.steps, request.gradients, aggregate, request.node_threshold,
                request.edge_threshold, request.max_nodes, request.nodes_only, request.budget, not request.keep_sinks,
            )  # fmt: skip
            chosen: dict[str, tuple[int, ...]] = {}

            def goal(logits: Tensor, batch: Sequence[Example]) -> Goal:
                return _goal(kind, logits, batch, chosen)

            def grown(traced: Traced) -> None:
                self._traced = traced
                self._circuit = self._told(request, kind, chosen, examples, notes, traced)
                job.emit(TraceGrown(id=job.id, circuit=self._circuit))

            trace(opened.model, bases, grouped, goal, plan, job, grown)

    def _bases(self, request: Trace, dtype: torch.dtype) -> list[Basis]:
        opened = self._opened
        if request.neurons:
            if request.sources:
                raise BadRequest("Both dictionaries and raw neurons were asked for.", "Give one of them.")
            return [NeuronBasis(site, opened.model.width(site)) for site in self._neuron_sites(request.neurons)]
        found = [DictionaryBasis(d.in_precision(dtype)) for d in opened.choose(request.sources)]
        written = [basis.write_site for basis in found]
        if twice := {site.hook for site in written if written.count(site) > 1}:
            raise BadRequest(
                f"Several dictionaries read {', '.join(sorted(twice))}; a circuit needs one per site.",
                "Choose with --source, or open saescope with one dictionary per site.",
            )
        if not found:
            raise BadRequest("No dictionary is open.", "Open one, or trace raw neurons.")
        return list(found)

    def _neuron_sites(self, kinds: Sequence[str]) -> list[Site]:
        model = self._opened.model
        sites = []
        for kind in kinds:
            if kind not in _SITE_KINDS:
                raise BadRequest(f"{kind!r} is not a kind of site.", f"Known are {', '.join(_SITE_KINDS)}.")
            sites += [Site(kind, layer) for layer in range(1 if kind == "embed" else model.layers)]
        for site in sites:
            model.check_site(site)
        return sites

    def _examples(self, request: Trace) -> tuple[list[Example], list[str]]:
        opened = self._opened
        if not request.pairs:
            example = from_prompt(
                opened, request.prompt, request.patch, request.chat, request.position, request.target, request.against
            )
            return [example], []
        found, skipped = from_pairs(opened, request.pairs)
        notes = [f"{s.pair.clean!r}: {s.reason}" for s in skipped[:20]]
        return found, [f"{len(skipped)} of {len(request.pairs)} pairs left out", *notes] if skipped else []

    def _told(
        self,
        request: Trace,
        kind: MetricKind,
        chosen: dict[str, tuple[int, ...]],
        examples: Sequence[Example],
        notes: list[str],
        traced: Traced,
    ) -> Circuit:
        opened = self._opened
        sites, nodes, edges, edge_threshold = assemble(traced)
        pages = {d.source: page_of(d) for d in opened.dictionaries.values()}
        if not request.neurons:
            sites = tuple(msgspec.structs.replace(s, neuronpedia=pages.get(s.source)) for s in sites)
        total, clean = metric_values(traced)
        single = not request.pairs
        token = opened.model.tokenizer.token
        has_patch = examples[0].patch is not None
        metric = Metric(
            kind,
            tuple(map(token, chosen.get("targets", ()))) if single else (),
            tuple(map(token, chosen.get("against", ()))) if single else (),
            len(examples[0].ids) - 1 if request.position is not None else None,
            clean,
            clean - total if has_patch else None,
            _probability(traced, chosen) if single and kind != "kl" else None,
        )
        settings = CircuitSettings(
            request.method, request.steps if request.method == "ig" else 1, request.gradients,
            "patch" if has_patch else "zero", traced.plan.aggregate, traced.threshold, edge_threshold,
            request.max_nodes, str(self._dtype).removeprefix("torch."),
            "neurons" if request.neurons else "dictionaries",
            "traced" if request.keep_sinks or has_patch else "held",
        )  # fmt: skip
        used = [b.dictionary for b in traced.bases if isinstance(b, DictionaryBasis)]
        return Circuit(
            model=opened.model.name,
            prompt=request.prompt if single else "",
            patch=request.patch if single else None,
            chat=request.chat,
            tokens=tuple(map(token, examples[0].ids)) if single else (),
            examples=len(examples),
            metric=metric,
            settings=settings,
            sites=sites,
            nodes=nodes,
            edges=edges,
            finished=traced.finished,
            provenance=opened.provenance(used, {"notes": notes}),
            seconds=traced.seconds,
            length=len(examples[0].ids) if len({len(e.ids) for e in examples}) == 1 else 0,
            layers=opened.model.layers,
        )

    # --- claims about the last trace ----------------------------------------------------------------------------

    def verify(self, request: Verify, job: Job) -> None:
        """Emit what an intervention measures of a node's effect or of an edge."""
        traced, circuit = self._last()
        with telling_out_of_memory(), computing_in(self._opened.model, self._dtype):
            _follow(traced, job)
            predicted = _claim(circuit, request.source, request.target)
            if request.target is None:
                check = check_node(traced, request.source, predicted)
            else:
                check = check_edge(traced, request.source, request.target, predicted)
        job.emit(Checked(id=job.id, check=check))

    def faithfulness(self, request: MeasureFaithfulness, job: Job) -> None:
        """Emit faithfulness and completeness of a circuit's nodes: the last trace's, or the one the request brings."""
        if bad := [value for value in request.thresholds if not 0 <= value < float("inf")]:
            raise BadRequest(f"{bad[0]} is not a threshold for nodes.", "It is a number of at least 0.")
        if request.circuit is not None:
            job.emit(FaithfulnessFound(id=job.id, result=self._faithfulness_of(request.circuit, request, job)))
            return
        traced, circuit = self._last()
        with telling_out_of_memory(), computing_in(self._opened.model, self._dtype):
            _follow(traced, job)
            work = traced.work
            if request.held_out:
                length = work[0].run.length
                work = held_out(self._opened, traced.bases, circuit, request.held_out, length, job)
            result = measure(circuit, work, request, job)
        job.emit(FaithfulnessFound(id=job.id, result=result))

    def _faithfulness_of(self, circuit: Circuit, request: MeasureFaithfulness, job: Job) -> Faithfulness:
        opened, settings = self._opened, circuit.settings
        if not request.held_out:
            raise BadRequest("A circuit from a file needs prompts to be measured on.", "Give --pairs.")
        known = {d.source: d.sha256 for d in opened.dictionaries.values()}
        for source, sha256 in circuit.provenance.dictionaries.items():
            if known.get(source, sha256) != sha256:
                raise BadRequest(f"{source} is not the dictionary this circuit was traced with.", "Open that one.")
        sources = tuple(site.source for site in circuit.sites)
        wanted = DTYPES.get(settings.dtype, torch.float32)
        with telling_out_of_memory(), computing_in(opened.model, wanted) as dtype:
            if settings.basis == "neurons":
                sites = [parse_hook(site.hook) for site in circuit.sites]
                bases: list[Basis] = [NeuronBasis(site, opened.model.width(site)) for site in sites]
            else:
                bases = [DictionaryBasis(d.in_precision(dtype)) for d in opened.choose(sources)]
            work = held_out(opened, bases, circuit, request.held_out, circuit.length, job)
            return measure(circuit, work, request, job)

    def _last(self) -> tuple[Traced, Circuit]:
        if self._traced is None or self._circuit is None:
            raise BadRequest("No circuit has been traced yet.", "Trace one first.")
        return self._traced, self._circuit


def _check(request: Trace) -> None:
    if request.pairs and (request.prompt or request.patch or request.target or request.against):
        raise BadRequest("Both pairs and a prompt were given.", "A pair brings its own prompts and answers.")
    if request.pairs and request.position is not None:
        raise BadRequest("A position was given with pairs.", "The metric of pairs is read at their last token.")
    if request.pairs and request.chat:
        raise BadRequest("A chat template was asked for with pairs.", "The prompts of pairs are taken as they are.")
    if request.steps < 1 or request.max_nodes < 1 or request.budget < 1:
        raise BadRequest("Steps, nodes and budget must be at least one.")
    if request.metric == "kl" and request.method == "attrib":
        raise BadRequest("KL to the clean run has no gradient at the clean run.", "Use ig or exact.")
    if request.metric == "kl" and (request.target or request.against):
        raise BadRequest("KL compares all tokens; a target was given too.", "Leave one of them out.")
    if request.metric == "kl" and request.method == "ig" and request.steps < 2:
        raise BadRequest("With one step ig is the plain gradient, and KL has none.", "Use at least two steps.")
    for name, value in (("node", request.node_threshold), ("edge", request.edge_threshold)):
        if value is not None and not 0 <= value < float("inf"):
            raise BadRequest(f"{value} is not a threshold for {name}s.", "It is a number of at least 0.")


def _kind(request: Trace, examples: Sequence[Example]) -> MetricKind:
    has_against = bool(examples[0].against)
    if request.metric is None:
        return "difference" if has_against else "logit"
    if request.metric == "difference" and not has_against:
        raise BadRequest("A difference needs something to compare with.", "Give --against, or pairs with two answers.")
    if request.against and request.metric in {"logit", "logprob"}:
        raise BadRequest(f"The metric {request.metric} compares with nothing.", "Leave --against out.")
    return request.metric


def _goal(kind: MetricKind, logits: Tensor, batch: Sequence[Example], chosen: dict[str, tuple[int, ...]]) -> Goal:
    """The metric of a batch; without a target, the likeliest next token of each clean run."""
    if kind == "kl":
        return kl_goal(logits)
    targets = [list(e.targets) for e in batch]
    if not batch[0].targets:
        targets = logits.argmax(1, keepdim=True).tolist()
    against = [list(e.against) for e in batch] if kind == "difference" else None
    chosen["targets"] = tuple(targets[0])
    chosen["against"] = tuple(against[0]) if against else ()
    device = logits.device
    return Goal(kind, token_ids(targets, device), token_ids(against, device) if against else None)


def _probability(traced: Traced, chosen: dict[str, tuple[int, ...]]) -> float:
    """Of the targets together after the one clean prompt."""
    return float(traced.work[0].run.logits[0].softmax(0)[list(chosen["targets"])].sum())


def _claim(circuit: Circuit, source: NodeRef, target: NodeRef | None) -> float:
    """What the circuit says of a node or an edge; an edge below the threshold counts as zero."""
    place = circuit.find(source)
    if place is None or source.is_metric:
        raise BadRequest(f"{source} is not a node of the last circuit.", "Trace it again, or choose another node.")
    if target is None:
        return circuit.nodes[place].effect
    into = circuit.find(target)
    if into is None:
        raise BadRequest(f"{target} is not a node of the last circuit.", "Trace it again, or choose another node.")
    return next((e.weight for e in circuit.edges if (e.source, e.target) == (place, into)), 0.0)


def _follow(traced: Traced, job: Job) -> None:
    """Work on the kept runs can be stopped by this request."""
    for work in traced.work:
        work.run.job = job
