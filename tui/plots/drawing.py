"""From a view and its table to a picture."""

from __future__ import annotations

from engine.protocol import AnyView, Bars, Curve, Heat, Histogram, Scatter, Table
from tui.plots.bars import BarsPicture
from tui.plots.curve import CurvePicture
from tui.plots.heat import HeatPicture
from tui.plots.histogram import HistogramPicture
from tui.plots.picture import Nothing, Picture
from tui.plots.scatter import ScatterPicture
from tui.text import visible


def picture(view: AnyView, table: Table, before: Picture | None = None) -> Picture:
    """What draws a view; `before` is the picture of the same view over fewer rows, whose cursor stays."""
    missing = [name for name in _columns(view) if name not in {column.name for column in table.columns}]
    if missing:
        return Nothing(
            view, table, f"The table {visible(table.title)} has no column {', '.join(map(visible, missing))}."
        )
    if not table.rows:
        return Nothing(view, table, f"The table {visible(table.title)} has no rows.")
    made = _made(view, table)
    if made is None:
        return Nothing(view, table, f"No row of the table {visible(table.title)} has numbers that can be drawn.")
    if before is not None and type(before) is type(made) and before.view == view:
        made.adopt(before)
    return made


def _columns(view: AnyView) -> list[str]:
    """The columns a view cannot do without, and those it names besides."""
    match view:
        case Bars():
            names: list[str | None] = [view.label, *view.values]
        case Histogram():
            names = [view.low, view.high, *view.counts]
        case Curve():
            names = [view.x, *view.y, view.series]
        case Scatter():
            names = [view.x, view.y, view.z, view.label, view.group, view.path]
        case Heat():
            names = [view.row, view.column, view.value]
    return [name for name in names if name is not None]


def _made(view: AnyView, table: Table) -> Picture | None:
    match view:
        case Bars():
            return BarsPicture(view, table) if view.values else None
        case Histogram():
            counts = HistogramPicture(view, table)
            return None if counts.is_empty or not view.counts else counts
        case Curve():
            curve = CurvePicture(view, table)
            return None if curve.is_empty else curve
        case Scatter():
            scatter = ScatterPicture(view, table)
            return None if scatter.is_empty else scatter
        case Heat():
            heat = HeatPicture(view, table)
            return None if heat.is_empty else heat
