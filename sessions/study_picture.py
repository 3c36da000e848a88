"""The plots of a study as one SVG file: no scripts, no fonts, no links, drawn from the tables that the views name."""

from __future__ import annotations

from engine.errors import SessionError
from engine.study_results import AnyView, Bars, Curve, Heat, Histogram, Scatter, StudyResult
from engine.text import visible
from sessions.study_picture_bars import draw_bars, draw_histogram
from sessions.study_picture_cells import NothingToDraw
from sessions.study_picture_frame import GREY, INK, WIDTH, Drawn, definitions, fit, legend, text, xml
from sessions.study_picture_heat import draw_heat
from sessions.study_picture_points import draw_curve, draw_scatter

_BETWEEN = 34
"""Pixels between two plots."""


def study_svg(result: StudyResult, plot: str | None = None) -> str:
    """The plot of this number, from 1, or of this title; all plots below one another where None.

    Raises:
        SessionError: the study has no plots, or no such one.
    """
    views = result.views if plot is None else (find_plot(result, plot),)
    if not views:
        raise SessionError(
            "A study without plots cannot be exported as svg.", "Its tables can: use --to csv, or json for the whole."
        )
    parts = [text(20, 24, fit(result.title, 118), f'fill="{GREY}"')]
    below = f"{result.provenance.model} · {result.study}" + ("" if result.finished else " · not finished")
    parts.append(text(20, 40, fit(below, 118), f'fill="{GREY}"'))
    height = 62.0
    for view in views:
        height = _add(parts, result, view, height) + _BETWEEN
    drawn = "\n".join(parts)
    title = views[0].title if plot is not None else result.title
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" '
        f'font-size="11" fill="{INK}">\n<title>{xml(title)}</title>\n{definitions(drawn)}'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>\n{drawn}\n</svg>\n'
    )


def find_plot(result: StudyResult, plot: str) -> AnyView:
    """The view with this title, whatever its case, or this number from 1.

    Raises:
        SessionError: there is none, or more than one of this title.
    """
    titled = [view for view in result.views if view.title == plot]
    titled = titled or [view for view in result.views if view.title.casefold() == plot.casefold()]
    if len(titled) == 1:
        return titled[0]
    if not titled and plot.isascii() and plot.isdigit() and 1 <= int(plot[:9]) <= len(result.views):
        return result.views[int(plot) - 1]
    listed = "; ".join(f"{n} {visible(view.title)}" for n, view in enumerate(result.views, 1))
    what = "has no plot" if not titled else "has more than one plot called"
    raise SessionError(f"This study {what} {visible(plot)!r}.", f"Name one by its number: {listed or 'it has none'}.")


def _add(parts: list[str], result: StudyResult, view: AnyView, y: float) -> float:
    """A plot with its heading from `y` on; where it ends."""
    drawn = _drawn(result, view)
    parts.append(text(20, y + 6, fit(view.title, 100), 'class="title" font-weight="bold" font-size="13"'))
    y += 16
    if drawn.notes:
        parts.append(text(20, y + 7, fit(" · ".join(drawn.notes), 120), f'class="note" fill="{GREY}"'))
        y += 16
    keys, size = legend(drawn.keys, y)
    y += size + 6
    parts += [*keys, f'<g class="plot" transform="translate(0 {y:.0f})">', *drawn.parts, "</g>"]
    return y + drawn.height


def _drawn(result: StudyResult, view: AnyView) -> Drawn:
    table = next((table for table in result.tables if table.name == view.table), None)
    try:
        if table is None:
            raise NothingToDraw(f"there is no table {view.table}")
        match view:
            case Bars():
                return draw_bars(view, table)
            case Histogram():
                return draw_histogram(view, table)
            case Curve():
                return draw_curve(view, table)
            case Scatter():
                return draw_scatter(view, table)
            case Heat():
                return draw_heat(view, table)
    except NothingToDraw as nothing:
        return Drawn([text(20, 16, fit(f"There is nothing to draw: {nothing}.", 120), f'fill="{GREY}"')], 24)
