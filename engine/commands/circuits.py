"""`saescope circuit` and `saescope faithfulness`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.commands.common import (
    AsJson,
    Chat,
    check_writable,
    one_line_errors,
    print_result,
    read_prompt,
    report_progress,
    say,
)
from engine.commands.opening import opens_model
from engine.errors import BadRequest

if TYPE_CHECKING:
    from engine.protocol import Open

Prompt = Annotated[str | None, typer.Argument(help="The prompt; - reads standard input. Or give --pairs.")]
Target = Annotated[
    list[str] | None, typer.Option(help="Explain this next token, e.g. ' Paris'; the likeliest one otherwise.")
]
Against = Annotated[list[str] | None, typer.Option(help="Compared with this token: a difference of logits.")]
Patch = Annotated[
    str | None, typer.Option(help="A prompt of the same length whose activations are the baseline; zero otherwise.")
]
Pairs = Annotated[Path | None, typer.Option(help="A file of pairs, e.g. feature-circuits' JSON lines.")]
Examples = Annotated[int | None, typer.Option(min=1, help="At most so many of the pairs.")]
Seed = Annotated[int | None, typer.Option(help="Shuffle the pairs with this seed first.")]
MetricName = Annotated[
    str | None, typer.Option(help="logit, difference, logprob or kl; difference where there is an --against.")
]
Position = Annotated[int | None, typer.Option(help="Read the metric after this token; the last otherwise.")]
MethodName = Annotated[str, typer.Option(help="attrib (one gradient), ig (integrated gradients) or exact.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps of ig.")]
GradientsName = Annotated[
    str, typer.Option(help="pass-through (errors exact), or dictionaries: only through reconstructions, as SAELens.")
]
AggregateName = Annotated[str | None, typer.Option(help="Over positions: none, sum or max.")]
NodeThreshold = Annotated[float | None, typer.Option(help="Keep nodes with a larger |effect|.")]
EdgeThreshold = Annotated[float | None, typer.Option(help="Keep edges with a larger |weight|.")]
MaxNodes = Annotated[int, typer.Option(min=1, help="Without a node threshold: keep so many nodes.")]
Budget = Annotated[int, typer.Option(min=1, help="How many nodes exact measures.")]
Precision = Annotated[str, typer.Option("--dtype", help="Compute in float32 or float64.")]
SiteNames = Annotated[list[str] | None, typer.Option("--site", help="Use only this source or hook; may be repeated.")]
Neurons = Annotated[
    list[str] | None, typer.Option(help="Raw neurons of this kind of site instead of dictionaries, e.g. resid_post.")
]
KeepFirst = Annotated[bool, typer.Option(help="Against zero: change attention sinks too.")]


@one_line_errors
@opens_model("dtype")
def circuit(
    prompt: Prompt = None,
    target: Target = None,
    against: Against = None,
    patch: Patch = None,
    pairs: Pairs = None,
    examples: Examples = None,
    seed: Seed = None,
    metric: MetricName = None,
    position: Position = None,
    method: MethodName = "ig",
    steps: Steps = 10,
    gradients: GradientsName = "pass-through",
    aggregate: AggregateName = None,
    node_threshold: NodeThreshold = None,
    edge_threshold: EdgeThreshold = None,
    max_nodes: MaxNodes = 100,
    nodes_only: Annotated[bool, typer.Option("--nodes-only", help="Effects only, no edges.")] = False,
    budget: Budget = 2000,
    dtype: Precision = "float32",
    site: SiteNames = None,
    neurons: Neurons = None,
    keep_first: KeepFirst = False,
    verify: Annotated[int, typer.Option(min=0, help="Measure so many of the strongest edges by intervention.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the circuit's JSON to this file too.")] = None,
    chat: Chat = False,
    *,
    opening: Open,
    json: AsJson = False,
) -> None:
    """Which features cause a metric, and how they feed one another."""
    from engine import circuit_reports, headless_circuits
    from engine.documents import to_json

    check_writable(out)
    request = headless_circuits.trace_request(
        prompt=None if prompt is None else read_prompt(prompt), target=target or [], against=against or [],
        patch=patch, pairs=pairs, examples=examples, seed=seed, metric=metric, position=position, method=method,
        steps=steps, gradients=gradients, aggregate=aggregate, node_threshold=node_threshold,
        edge_threshold=edge_threshold, max_nodes=max_nodes, nodes_only=nodes_only, budget=budget, dtype=dtype,
        neurons=neurons or [], keep_first=keep_first, chat=chat,
    )  # fmt: skip
    found, checks = headless_circuits.circuit(opening, request, site or [], verify, report=report_progress)
    for line in found.provenance.settings.get("notes", ()):
        say(line)
    if out is not None:
        out.write_text(to_json(found), encoding="utf-8")
    document = {"circuit": found, "checks": checks} if verify else found
    print_result(to_json(document), circuit_reports.circuit_text(found, checks), json)
    if not found.finished:
        say("stopped: the circuit is what was found until then.")
        raise typer.Exit(1)


@one_line_errors
@opens_model("dtype")
def faithfulness(
    prompt: Prompt = None,
    target: Target = None,
    against: Against = None,
    patch: Patch = None,
    pairs: Pairs = None,
    examples: Examples = None,
    seed: Seed = None,
    circuit: Annotated[
        Path | None, typer.Option(help="Measure the nodes of this circuit file, on --pairs or --held-out.")
    ] = None,
    held_out: Annotated[Path | None, typer.Option(help="Measure on these pairs, trace on --pairs.")] = None,
    threshold: Annotated[
        list[float] | None, typer.Option(help="Nodes with a larger |effect|; may be repeated. A curve otherwise.")
    ] = None,
    ablation: Annotated[str, typer.Option(help="Ablated nodes become: mean, zero or resample.")] = "mean",
    errors: Annotated[
        str, typer.Option(help="Error nodes: nodes (like features), keep (never ablated) or remove (always).")
    ] = "nodes",
    start_layer: Annotated[int, typer.Option(min=0, help="Leave sites before this layer free.")] = 0,
    method: MethodName = "ig",
    steps: Steps = 10,
    aggregate: AggregateName = None,
    node_threshold: NodeThreshold = None,
    max_nodes: MaxNodes = 1000,
    dtype: Precision = "float32",
    site: SiteNames = None,
    chat: Chat = False,
    *,
    opening: Open,
    json: AsJson = False,
) -> None:
    """Whether a circuit's nodes are enough (faithfulness) and all there is (completeness)."""
    from engine import circuit_reports, headless_circuits
    from engine.documents import to_json

    if prompt is not None and circuit is None and prompt.endswith(".json") and Path(prompt).is_file():
        raise BadRequest(f"{prompt} is a file, not a prompt.", f"Write --circuit {prompt}, with --pairs to measure on.")
    measured = headless_circuits.faithfulness_request(threshold or [], ablation, errors, start_layer)
    if circuit is not None:
        if prompt is not None or target or against or patch or site:
            raise BadRequest("A circuit file brings its own metric and nodes.", "Give only the pairs to measure on.")
        if (held_out is None) == (pairs is None):
            raise BadRequest("A circuit file needs one file of prompts to be measured on.", "Give --pairs.")
        file = held_out if held_out is not None else pairs
        assert file is not None
        result = headless_circuits.faithfulness_of_file(
            opening, measured, circuit, file, examples, seed, report=report_progress
        )
    else:
        request = headless_circuits.trace_request(
            prompt=None if prompt is None else read_prompt(prompt), target=target or [], against=against or [],
            patch=patch, pairs=pairs, examples=examples, seed=seed, method=method, steps=steps, aggregate=aggregate,
            node_threshold=node_threshold, max_nodes=max_nodes, nodes_only=True, dtype=dtype, chat=chat,
        )  # fmt: skip
        result = headless_circuits.faithfulness(
            opening, request, site or [], measured, held_out, examples, seed, report=report_progress
        )
    print_result(to_json(result), circuit_reports.faithfulness_text(result), json)


@one_line_errors
def import_circuit(
    file: Annotated[Path, typer.Argument(help="A circuit that feature-circuits wrote, .pt.")],
    node_threshold: Annotated[float, typer.Option(min=0, help="Nodes with a larger |effect|.")] = 0.01,
    edge_threshold: Annotated[float, typer.Option(min=0, help="Edges with a larger |weight|.")] = 0.001,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model's name, if the file's does not say.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the circuit's JSON to this file too.")] = None,
    json: AsJson = False,
) -> None:
    """Read a circuit of feature-circuits; nothing in the file is executed."""
    from engine import circuit_reports
    from engine.circuits.feature_circuits import read_circuit
    from engine.documents import to_json

    check_writable(out)
    found = read_circuit(file, node_threshold, edge_threshold, model)
    if out is not None:
        out.write_text(to_json(found), encoding="utf-8")
    print_result(to_json(found), circuit_reports.circuit_text(found), json)
