"""A circuit as a picture: Graphviz DOT, and SVG drawn by a layered layout of our own.

From bottom to top the sites of a forward pass, at the top the metric; from left to right positions, or where they are
aggregated the strongest first. Boxes are features, triangles what a dictionary does not explain, the diamond is the
metric. Blue raises the metric and red lowers it; the printed sign and, for edges, dashes say so too.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape

from engine.circuit_results import Circuit, CircuitEdge, NodeRef
from engine.text import visible
from sessions.circuit_layout import (
    BOTTOM,
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    Layout,
    Shown,
    columns_of,
    cut,
    lay_out,
    rows_of,
    shown_of,
)

_FONT, _CHARACTER = 11, 6.7
_POSITIVE, _NEGATIVE = "#2b4fd8", "#c8281e"


def to_dot(
    circuit: Circuit,
    *,
    labels: Mapping[NodeRef, str] | None = None,
    node_threshold: float = 0.0,
    edge_threshold: float = 0.0,
) -> str:
    """The circuit for Graphviz, nodes and edges from these thresholds on; `labels` name nodes."""
    shown = shown_of(circuit, labels, node_threshold, edge_threshold)
    lines = [
        "digraph circuit {",
        '  rankdir="BT"; node [fontname="monospace", style="filled"]; edge [arrowsize="0.5"];',
    ]
    for place in shown.places:
        ref, (fill, text) = shown.node(place).ref, _colours(shown, place)
        shape = "diamond" if ref.is_metric else "triangle" if ref.is_error else "box"
        label = "\\n".join(_dot(line) for line in shown.lines(place) if line)
        lines.append(f'  n{place} [label="{label}", shape="{shape}", fillcolor="{fill}", fontcolor="{text}"];')
    for members in rows_of(shown).values():
        lines.append("  { rank=same; " + " ".join(f"n{place};" for place in members) + " }")
    for edge in shown.edges:
        colour, dash = (_POSITIVE, "solid") if edge.weight > 0 else (_NEGATIVE, "dashed")
        width = _pen(shown, edge)
        lines.append(
            f'  n{edge.source} -> n{edge.target} [color="{colour}", style="{dash}", penwidth="{width:.2f}", '
            f'tooltip="{edge.weight:+.3g}"];'
        )
    return "\n".join([*lines, "}", ""])


def to_svg(
    circuit: Circuit,
    *,
    labels: Mapping[NodeRef, str] | None = None,
    node_threshold: float = 0.0,
    edge_threshold: float = 0.0,
) -> str:
    """The circuit as one SVG file without scripts, fonts or links; thresholds and labels as in `to_dot`."""
    shown = shown_of(circuit, labels, node_threshold, edge_threshold)
    layout = lay_out(shown)
    width, height = max(layout.width, 560), layout.height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" '
        f'font-size="{_FONT}">',
        f"<title>{_xml('Circuit of ' + circuit.metric.label)}</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        *_frame(shown, layout, width),
        *(_edge(shown, layout, edge) for edge in sorted(shown.edges, key=lambda e: abs(e.weight))),
        *(_node(shown, layout, place) for place in shown.places),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _frame(shown: Shown, layout: Layout, width: float) -> list[str]:
    """Title, names of rows and columns, legend."""
    circuit, room = shown.circuit, int((width - 40) / 7.4)
    title = f"{circuit.model} · {circuit.settings.method} · {circuit.metric.label}"
    parts = [_text(20, 26, cut(visible(title), room), 'font-weight="bold" font-size="13"')]
    if circuit.prompt:
        parts.append(_text(20, 46, cut(visible(circuit.prompt), room), 'fill="#444444"'))
    for source, y in layout.rows.items():
        parts.append(_text(LEFT - 18, y + 4, cut(visible(source), 13), 'text-anchor="end" fill="#444444"'))
    for column, (x, size) in layout.columns.items():
        parts.append(
            f'<rect x="{x - size / 2 - 8:.0f}" y="{TOP + HEIGHT}" width="{size + 16:.0f}" '
            f'height="{layout.height - TOP - HEIGHT - BOTTOM + 30:.0f}" fill="#f5f5f2" rx="6"/>'
        )
        known = column < len(circuit.tokens)
        name = cut(f"{column} {shown.token(column)}" if known else f"position {column}", int(size / 7) + 2)
        parts.append(_text(x, layout.height - BOTTOM + 24, name, 'text-anchor="middle" fill="#444444"'))
    left_out = len(circuit.nodes) - len(shown.places), len(circuit.edges) - len(shown.edges)
    counts = f"{len(shown.places[1:])} nodes, {len(shown.edges)} edges"
    below = f"; below the thresholds {left_out[0]} and {left_out[1]}" if any(left_out) else ""
    unit = "" if circuit.finished else "; not finished"
    y = layout.height - 30
    parts.append(
        f'<line x1="20" y1="{y:.0f}" x2="50" y2="{y:.0f}" stroke="{_POSITIVE}" stroke-width="3"/>'
        f'<line x1="150" y1="{y:.0f}" x2="180" y2="{y:.0f}" stroke="{_NEGATIVE}" stroke-width="3" '
        f'stroke-dasharray="6 4"/>'
    )
    parts.append(_text(58, y + 4, "+ raises it"))
    parts.append(_text(188, y + 4, "− lowers it"))
    parts.append(_text(290, y + 4, "△ unexplained (error)"))
    parts.append(_text(20, y + 20, counts + below + unit, 'fill="#444444"'))
    return parts


def _node(shown: Shown, layout: Layout, place: int) -> str:
    x, y = layout.centres[place]
    ref, (fill, ink) = shown.node(place).ref, _colours(shown, place)
    half, high = WIDTH / 2, HEIGHT / 2
    lines = [line for line in shown.lines(place) if line]
    attributes = f'fill="{fill}" stroke="#333333"'
    if ref.is_metric:
        half, high = max(half, max(map(columns_of, lines)) * _CHARACTER * 0.5 + 46), high + 8
        outline = f"{x - half:.0f},{y:.0f} {x:.0f},{y - high:.0f} {x + half:.0f},{y:.0f} {x:.0f},{y + high:.0f}"
        shape = f'<polygon points="{outline}" {attributes}/>'
    elif ref.is_error:
        outline = f"{x - half:.0f},{y + high:.0f} {x:.0f},{y - high - 14:.0f} {x + half:.0f},{y + high:.0f}"
        shape = f'<polygon points="{outline}" {attributes}/>'
    else:
        box = f'x="{x - half:.0f}" y="{y - high:.0f}" width="{WIDTH}" height="{HEIGHT}"'
        shape = f'<rect {box} rx="3" {attributes}/>'
    first = y + 4 - (len(lines) - 1) * 6.5 + (10 if ref.is_error else 0)
    texts = [_text(x, first + n * 13, line, f'text-anchor="middle" fill="{ink}"') for n, line in enumerate(lines)]
    whole = "metric" if ref.is_metric else f"{ref} {shown.names.get(ref, '')} {shown.node(place).effect:+.6g}"
    return f"<g><title>{_xml(whole)}</title>{shape}{''.join(texts)}</g>"


def _edge(shown: Shown, layout: Layout, edge: CircuitEdge) -> str:
    """A curve from the top of its source to the bottom of its target."""
    (x1, y1), (x2, y2) = layout.centres[edge.source], layout.centres[edge.target]
    y1, y2 = y1 - HEIGHT / 2, y2 + HEIGHT / 2
    bend = max(abs(y1 - y2) * 0.4, 18)
    colour, dash = (_POSITIVE, "") if edge.weight > 0 else (_NEGATIVE, ' stroke-dasharray="6 4"')
    share = abs(edge.weight) / shown.heaviest
    aside = 0.0
    if abs(x1 - x2) < WIDTH and y1 - y2 > 2 * HEIGHT:  # past the nodes between them
        aside = 0.9 * WIDTH * (1 if (edge.source + edge.target) % 2 else -1)
    path = f"M{x1:.0f} {y1:.0f}C{x1 + aside:.0f} {y1 - bend:.0f} {x2 + aside:.0f} {y2 + bend:.0f} {x2:.0f} {y2:.0f}"
    name = f"{shown.node(edge.source).ref} → {shown.node(edge.target).ref} {edge.weight:+.6g}"
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{_pen(shown, edge):.2f}" '
        f'stroke-opacity="{0.25 + 0.6 * share:.2f}"{dash}><title>{_xml(name)}</title></path>'
    )


def _pen(shown: Shown, edge: CircuitEdge) -> float:
    return 0.5 + 4.5 * abs(edge.weight) / shown.heaviest


def _colours(shown: Shown, place: int) -> tuple[str, str]:
    """Fill and text: white at no effect, full blue or red at the strongest; text that is read on it."""
    node = shown.node(place)
    if node.ref.is_metric:
        return "#ffffff", "#000000"
    faint = round(255 * (1 - min(abs(node.effect) / shown.strongest, 1.0)))
    red, green, blue = (faint, faint, 255) if node.effect > 0 else (255, faint, faint)
    if node.effect == 0:
        red = green = blue = 255
    dark = 0.299 * red + 0.587 * green + 0.114 * blue <= 128
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if dark else "#000000"


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {attributes}>{_xml(text)}</text>'


def _xml(text: str) -> str:
    return escape(visible(text), {'"': "&quot;"})


def _dot(text: str) -> str:
    """For a quoted string of DOT, where a backslash escapes and `&` starts an entity."""
    return visible(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
