"""Circuits without a screen: requests from what was typed, and answers for the command line and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from engine.errors import BadRequest
from engine.headless import Headless, Report
from engine.pairs import read_pairs
from engine.protocol import (
    Ablation,
    Aggregate,
    Check,
    Checked,
    Circuit,
    ErrorMode,
    Faithfulness,
    FaithfulnessFound,
    Gradients,
    MeasureFaithfulness,
    Method,
    MetricKind,
    Open,
    Trace,
    TraceGrown,
    Verify,
)  # fmt: skip

T = TypeVar("T")


def trace_request(
    *,
    prompt: str | None = None,
    target: Sequence[str] = (),
    against: Sequence[str] = (),
    patch: str | None = None,
    pairs: Path | None = None,
    examples: int | None = None,
    seed: int | None = None,
    metric: str | None = None,
    position: int | None = None,
    method: str = "ig",
    steps: int = 10,
    gradients: str = "pass-through",
    aggregate: str | None = None,
    node_threshold: float | None = None,
    edge_threshold: float | None = None,
    max_nodes: int = 100,
    nodes_only: bool = False,
    budget: int = 2000,
    dtype: str = "float32",
    neurons: Sequence[str] = (),
    keep_first: bool = False,
    chat: bool = False,
) -> Trace:
    """What was typed as a request.

    Raises:
        BadRequest: a word is not known, neither prompt nor pairs were given, or the file of pairs is broken.
    """
    if (prompt is None) == (pairs is None):
        both = (
            "Both a prompt and --pairs were given." if prompt is not None else "There is neither a prompt nor --pairs."
        )
        raise BadRequest(both, "Give one of them.")
    return Trace(
        id=2,
        prompt=prompt or "",
        patch=patch,
        pairs=read_pairs(pairs, examples, seed) if pairs is not None else (),
        chat=chat,
        metric=None if metric is None else one_of(metric, MetricKind, "metric"),
        target=tuple(target),
        against=tuple(against),
        position=position,
        method=one_of(method, Method, "method"),
        steps=steps,
        gradients=one_of(gradients, Gradients, "kind of gradients"),
        aggregate=None if aggregate is None else one_of(aggregate, Aggregate, "aggregation"),
        node_threshold=node_threshold,
        edge_threshold=edge_threshold,
        max_nodes=max_nodes,
        nodes_only=nodes_only,
        budget=budget,
        dtype=_precision(dtype),
        keep_sinks=keep_first,
        neurons=tuple(neurons),
    )


def faithfulness_request(
    thresholds: Sequence[float], ablation: str, errors: str, start_layer: int
) -> MeasureFaithfulness:
    """What was typed as a request."""
    return MeasureFaithfulness(
        id=3,
        thresholds=tuple(sorted(thresholds)),
        ablation=one_of(ablation, Ablation, "ablation"),
        errors=one_of(errors, ErrorMode, "way to treat errors"),
        start_layer=start_layer,
    )


def circuit(
    opening: Open, request: Trace, sites: Sequence[str], verify: int, *, report: Report
) -> tuple[Circuit, tuple[Check, ...]]:
    """A circuit, and the checks of its `verify` strongest edges. Interrupted, what was found until then."""
    headless = _opened(opening, report)
    found = _trace(headless, request, sites)
    checks: list[Check] = []
    if found.finished:
        for edge in found.edges[:verify]:
            report("verifying edges", len(checks), verify)
            source, target = found.nodes[edge.source].ref, found.nodes[edge.target].ref
            checks.append(_last(headless, Verify(id=3, source=source, target=target), Checked).check)
    return found, tuple(checks)


def faithfulness(
    opening: Open,
    request: Trace,
    sites: Sequence[str],
    measured: MeasureFaithfulness,
    held_out: Path | None,
    examples: int | None,
    seed: int | None,
    *,
    report: Report,
) -> Faithfulness:
    """Trace, then measure on the same examples or on held-out ones."""
    pairs = read_pairs(held_out, examples, seed) if held_out is not None else ()
    headless = _opened(opening, report)
    if not _trace(headless, request, sites).finished:
        raise KeyboardInterrupt
    return _last(headless, msgspec.structs.replace(measured, held_out=pairs), FaithfulnessFound).result


def faithfulness_of_file(
    opening: Open,
    measured: MeasureFaithfulness,
    file: Path,
    pairs: Path,
    examples: int | None,
    seed: int | None,
    *,
    report: Report,
) -> Faithfulness:
    """Measure the nodes of a circuit that was written before."""
    request = msgspec.structs.replace(measured, circuit=read_circuit(file), held_out=read_pairs(pairs, examples, seed))
    return _last(_opened(opening, report), request, FaithfulnessFound).result


def read_circuit(file: Path) -> Circuit:
    """A circuit as `saescope circuit --json` or `--out` wrote it, with checks beside it or not.

    Raises:
        BadRequest: it is something else.
    """
    try:
        document = msgspec.json.decode(file.read_bytes())
        if isinstance(document, dict) and "circuit" in document:
            document = document["circuit"]
        return msgspec.convert(document, Circuit)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{file} is not a circuit: {error}.", "Write one with `saescope circuit … --out`.") from None


def one_of(word: str, kind: Any, name: str) -> Any:
    """A word that must be one of a Literal's.

    Raises:
        BadRequest: it is not.
    """
    known = get_args(kind)
    if word not in known:
        article = "an" if name[0] in "aeiou" else "a"
        raise BadRequest(f"{word!r} is not {article} {name}.", f"Use {', '.join(known[:-1])} or {known[-1]}.")
    return word


def _precision(word: str) -> Any:
    if word not in {"float32", "float64"}:
        raise BadRequest(f"{word!r} is not a precision for attribution.", "Use float32 or float64.")
    return word


def _opened(opening: Open, report: Report) -> Headless:
    headless = Headless(report)
    headless.ask(opening)
    return headless


def _trace(headless: Headless, request: Trace, sites: Sequence[str]) -> Circuit:
    sources = tuple(dict.fromkeys(s for site in sites for s in headless.engine.opened.sources_at(site)))
    return headless.grow(msgspec.structs.replace(request, sources=sources), TraceGrown).circuit


def _last(headless: Headless, request: Any, kind: type[T]) -> T:
    return next(event for event in reversed(headless.ask(request)) if isinstance(event, kind))
