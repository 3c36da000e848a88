"""The circuit as a tree, line by line: what to say of each node, and how it fits the width."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style

from engine.protocol import Check, NodeRef
from sessions.model import CircuitRecord
from tui.circuit_state import TreeRow, agrees, check_of, group_effect, judged, name_key, shown
from tui.state import State
from tui.text import cell_len, fit, number, signed, visible, visible_token
from tui.widgets.bar import shortened

Styles = Callable[[str], Style]
"""The style of a named part: dim, accent, link, positive, negative, good, warning."""

_EIGHTHS = " ▏▎▍▌▋▊▉"
_MARKS = 3
_NUMBER, _EFFECT, _SHARE = 7, 8, 6


def token_at(record: CircuitRecord, position: int | None) -> str:
    """A position's token, safe to show; "" where positions are aggregated."""
    tokens = record.circuit.tokens
    return visible_token(tokens[position].text) if position is not None and 0 <= position < len(tokens) else ""


def node_name(record: CircuitRecord, ref: NodeRef, width: int) -> str:
    """`14-res:62 @ ·Tower(2)` in at most `width` cells: the token shortens before the numbers do."""
    if ref.is_metric:
        return shortened(visible(record.circuit.metric.label), width)
    source = visible(ref.source)
    heads = [f"unexplained {source}", f"unexpl. {source}", f"? {source}"] if ref.is_error else [f"{source}:{ref.index}"]
    if ref.position is None:
        return shortened(next((h for h in heads if cell_len(h) <= width), heads[-1]), width)
    token = token_at(record, ref.position)
    for head in heads:
        for at in (" @ ", "@"):
            room = width - cell_len(head) - len(f"{at}({ref.position})")
            if room >= min(cell_len(token), 3):
                return f"{head}{at}{shortened(token, room)}({ref.position})"
    short = [f"{head}@{ref.position}" for head in heads]
    return shortened(next((s for s in short if cell_len(s) <= width), short[-1]), width)


def label_of(state: State, record: CircuitRecord, ref: NodeRef) -> str:
    """The user's name, else the group and what the feature peaks on."""
    own = record.names.get(name_key(ref), "")
    group = record.groups.get(str(ref), "")
    hint = "" if own or ref.is_error else state.hints.get(name_key(ref), "")
    parts = (f"“{visible(own)}”" if own else "", f"‹{visible(group)}›" if group else "", visible(hint))
    return " ".join(filter(None, parts))


def verdict(check: Check, metric: float) -> str:
    """`✓`, `≈` or `✗` with what was measured."""
    return f"{judged(check, metric)} {signed(check.measured)}"


def bar(share: float | None, width: int) -> str:
    """A share of one as a bar; what pushes the other way is drawn hatched."""
    if share is None or not math.isfinite(share):
        return ""
    size = min(abs(share), 1.0) * width
    if share < 0:
        return "▒" * round(size) or "╎"
    whole = int(size)
    return ("█" * whole + _EIGHTHS[int(8 * (size - whole))]).rstrip() or "▏"


def share_text(share: float | None) -> str:
    """A share as a percentage, with one digit after the point below one."""
    if share is None or not math.isfinite(share):
        return ""
    if abs(share) >= 9.995:
        return ">999%" if share > 0 else "<−999%"
    size = 100 * abs(share)
    text = f"{size:.0f} %" if size >= 0.95 else f"{size:.1f} %".lstrip("0") if size >= 0.05 else "0 %"
    return f"−{text}" if share < 0 and size >= 0.05 else text


class Columns:
    """Where things stand at a width: what is dropped first is in the line below the tree too."""

    def __init__(self, width: int) -> None:
        self.sums = self.effect = width >= 70
        self.name = 29 if width < 70 else min(46, width * 3 // 8)
        self.bar = 4 if width < 70 else 6 if width < 100 else 8
        numbers = _NUMBER + _SHARE + (_EFFECT if self.effect else 0) + (_SHARE if self.sums else 0)
        self.label = max(0, width - _MARKS - self.name - numbers - self.bar - 2)
        self.check = 17 if self.label >= 44 else 0
        """A column of its own at the right for what was measured; without it that stands before the label."""


def header(width: int) -> str:
    """The names of the columns."""
    at = Columns(width)
    text = " " * _MARKS + fit("what feeds what", at.name) + fit("edge", _NUMBER, right=True)
    if at.effect:
        text += fit("effect", _EFFECT, right=True)
    text += fit("share", _SHARE, right=True)
    if at.sums:
        text += fit("Σ", _SHARE, right=True)
    text += " " * (at.bar + 1)
    return text + fit(" label", at.label + 1) if at.label > 6 else text


def draw(state: State, row: TreeRow, width: int, style: Styles) -> list[Segment]:
    """One line of the tree."""
    record = state.traced
    assert record is not None
    at, dim = Columns(width), style("dim")
    indent = min(2 * row.depth, at.name // 3)
    if row.node is None:
        return [Segment(" " * (_MARKS + indent + 2) + _rest(row), dim)]
    node = record.circuit.nodes[row.node]
    marked = any((m.source, m.index) == (node.ref.source, node.ref.index) for m in state.marks)
    fold = "▾ " if row.opened else "▸ " if row.foldable else "↻ " if row.repeated else "· "
    name = node_name(record, node.ref, at.name - indent - 2)
    weight = node.effect if row.weight is None else row.weight
    no_edge = row.weight is None and (at.effect or row.depth > 0)
    part = "negative" if weight < 0 else "positive"
    value = style(part) + Style(bold=True)
    segments = [
        Segment("●" if marked else " ", style("accent")),
        Segment("◆" if node.ref in record.pins else " ", style("accent")),
        Segment(" " * indent + fold, dim),
        Segment(fit(name, at.name - indent - 2), dim if node.ref.is_error else Style(bold=row.depth == 0)),
        Segment(fit("" if no_edge and at.effect else signed(weight), _NUMBER, right=True), value),
    ]
    if at.effect:
        effect = f"{signed(node.effect)}{'~' if node.estimated else ' '}"
        segments.append(Segment(fit(effect, _EFFECT, right=True), dim if row.depth else value))
    tail = "~" if node.estimated and not at.effect else " "
    segments.append(Segment(fit(share_text(row.share), _SHARE, right=True)))
    if at.sums:
        segments.append(Segment(fit(share_text(row.covered), _SHARE, right=True), dim))
    segments += [
        Segment(tail),
        Segment(fit(bar(row.share, at.bar), at.bar) + " ", style(part)),
    ]
    return segments + _label(state, record, row, at, style)


def _rest(row: TreeRow) -> str:
    """What an open node does not show, in numbers where they are known."""
    parts = []
    if row.weight is not None:
        parts.append(f"rest {signed(row.weight)}")
    if row.share is not None:
        parts.append(share_text(row.share))
    if row.hidden:
        parts.append(f"{row.hidden} below the thresholds")
    return " · ".join(parts)


def _label(state: State, record: CircuitRecord, row: TreeRow, at: Columns, style: Styles) -> list[Segment]:
    """The label, and what was measured of the row's claim."""
    if row.node is None or at.label <= 2:
        return []
    node, metric = record.circuit.nodes[row.node], record.circuit.nodes[0].effect
    check = check_of(record, row.path)
    label = label_of(state, record, node.ref) if row.depth else ""
    if check is None:
        return [Segment(fit(label, at.label), style("dim"))]
    part = style("good" if agrees(check, metric) else "warning")
    of_effect = row.depth > 1 and (check.target is None or check.target.is_metric)
    if at.check:
        room = at.label - at.check
        what = "effect" if of_effect else "checked"
        text = f"{what} {signed(check.measured)} {judged(check, metric)}"
        return [Segment(fit(label, room), style("dim")), Segment(fit(text, at.check, right=True), part)]
    text = ("effect " if of_effect else "") + verdict(check, metric) + " "
    return [Segment(shortened(text, at.label), part), Segment(fit(label, at.label - cell_len(text)), style("dim"))]


def details(state: State, row: TreeRow) -> tuple[str, str]:
    """Two lines on the row under the cursor: its numbers in full, then names and what was measured."""
    record = state.traced
    if record is None:
        return "", ""
    if row.node is None:
        return " what is not shown here: edges below the thresholds, and all that the trace did not keep", ""
    nodes, node = record.circuit.nodes, record.circuit.nodes[row.node]
    if row.depth == 0:
        metric, explained = record.circuit.metric, shown(record, state.circuit).explained()
        numbers = [f"{share_text(explained)} by features shown"] if explained is not None else []
        numbers.append(f"clean {number(metric.clean)}")
        if metric.baseline is not None:
            numbers.append(f"patch {number(metric.baseline)}")
        if node.inflow is not None:
            numbers.append(f"edges into it {signed(node.inflow)}")
        first = f" {node_name(record, node.ref, 40)}  effect {signed(node.effect)} · " + " · ".join(numbers)
        hint = ""
        if explained is not None and metric.kind == "logit" and metric.baseline is None and not 0.3 <= explained <= 1.7:
            hint = " One logit against zero says little; T: A / B | other prompt explains a difference."
        return first, hint
    numbers = [f"effect {signed(node.effect)}{' (estimate)' if node.estimated else ''}"]
    if row.weight is not None and row.depth > 1:
        numbers.append(f"edge {signed(row.weight)}")
    if row.share is not None:
        numbers.append(f"{share_text(row.share)} of parent")
    if row.covered is not None:
        numbers.append(f"Σ {share_text(row.covered)}")
    if not node.ref.is_error:
        numbers.append(f"f {number(node.activation)}" + (f" ({number(node.baseline)})" if node.baseline else ""))
    first = f" {node_name(record, node.ref, 40)}  " + " · ".join(numbers)
    return first, f" {_second(state, record, row, nodes[0].effect)}"


def _second(state: State, record: CircuitRecord, row: TreeRow, metric: float) -> str:
    check, ref = check_of(record, row.path), row.path[-1]
    parts = []
    if check is not None:
        what = "edge" if check.target is not None and not check.target.is_metric else "effect"
        parts.append(
            f"{what} {signed(check.predicted)}, measured {signed(check.measured)}"
            f" {judged(check, metric)} {visible(check.how)}"
        )
    if row.repeated:
        parts.append("stands above itself")
    if label := label_of(state, record, ref):
        parts.append(label)
    if group := record.groups.get(str(ref)):
        count, total = group_effect(record, group)
        parts.append(f"group of {count}: effects {signed(total)} in all")
    return " · ".join(parts)
