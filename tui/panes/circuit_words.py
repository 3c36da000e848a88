"""What the circuit pane says in words: its title, how the numbers were made, and what to do first."""

from __future__ import annotations

from collections.abc import Callable

from rich.style import Style
from rich.text import Text

from tui.circuit_aim import parse_aim, reading
from tui.circuit_reducer import aim_of
from tui.circuit_state import shown
from tui.panes.circuit_tree import share_text
from tui.state import State
from tui.text import number, signed, visible, wrapped
from tui.widgets.bar import shortened

Styles = Callable[[str], Style]


def heading(state: State) -> str:
    """The metric and its value."""
    record = state.traced
    if record is None or not record.circuit.nodes:
        return ""
    return f"{shortened(visible(record.circuit.metric.label), 48)} {signed(record.circuit.nodes[0].effect)}"


def figures(state: State) -> str:
    """How much of the metric comes from features that are shown."""
    record = state.traced
    if record is None:
        return ""
    explained = shown(record, state.circuit).explained()
    return f"explained {share_text(explained)}" if explained is not None else ""


def settings(state: State, style: Styles) -> tuple[Text, Text]:
    """How the numbers were made, what is shown of them, and whether the trace came to its end."""
    record, dim = state.traced, style("dim")
    if record is None:
        return Text(f" method {_method(state.circuit.method, 10)}", dim), _end(state, style)
    circuit, at = record.circuit, shown(record, state.circuit)
    nodes, edges = at.counts()
    of_nodes, of_edges = max(len(circuit.nodes) - 1, 0), len(circuit.edges)
    line = Text(f" {_method(circuit.settings.method, circuit.settings.steps)}", dim)
    for count, total, name, threshold in (
        (nodes, of_nodes, "nodes", at.node_threshold),
        (edges, of_edges, "edges", at.edge_threshold),
    ):
        line.append(" · ", dim)
        line.append(f"{count}" if count == total else f"{count}/{total}")
        line.append(f" {name} ≥ ", dim)
        line.append(number(threshold))
    if circuit.settings.method != state.circuit.method:
        line.append(f" · next {state.circuit.method}", style("accent"))
    if circuit.patch is not None:
        line.append(f" · patch “{shortened(visible(circuit.patch), 24)}”", dim)
    if circuit.examples > 1:
        line.append(f" · {circuit.examples} examples", dim)
    return line, _end(state, style)


def _method(method: str, steps: int) -> str:
    return f"{method} {steps}" if method == "ig" else method


def _end(state: State, style: Styles) -> Text:
    record = state.traced
    if state.growing is not None:
        return Text("growing… ", style("warning"))
    if state.task("trace") is not None:
        return Text("tracing… ", style("warning"))
    if record is None:
        return Text()
    if not record.circuit.finished:
        return Text("stopped ", style("warning"))
    if state.result is not None and record.circuit.prompt != state.result.prompt:
        return Text("another prompt ", style("warning"))
    place, count = state.circuit.shown, len(state.circuits)
    return Text(f"{place + 1} of {count} " if count > 1 else "", style("dim"))


_STEPS = (
    ("c", "or Enter traces the likeliest next token: which"),
    ("", "features cause it, and what causes them"),
    ("T", "says what to explain:  ·Paris    ·Paris / ·Rome"),
    ("", "·Paris | another prompt to compare with"),
    ("m", "changes the method: attrib is one gradient,"),
    ("", "ig integrates it, exact intervenes"),
)


def first_steps(state: State, style: Styles, width: int) -> list[Text]:
    """What to do where nothing was traced."""
    dim, key = style("dim"), Style(bold=True)
    if state.replaying:
        return [Text(" This recording holds no circuit.", dim)]
    if state.task("trace") is not None:
        return [Text(" tracing …", dim)]
    if state.result is None:
        return [
            Text(line, dim) for line in _wrapped("Run a prompt; then c traces what its next token comes from.", width)
        ]
    lines = []
    for keys, text in _STEPS:
        line = Text(f"  {keys:<2}", key)
        line.append(text, dim)
        lines.append(line)
    after = f"c {reading(parse_aim(aim_of(state)))}, by {_method(state.circuit.method, 10)}."
    return [*lines, Text(), *(Text(line, dim) for line in _wrapped(after, width))]


def _wrapped(text: str, width: int) -> list[str]:
    return [f"  {line}" for line in wrapped(text, max(width - 3, 20))]
