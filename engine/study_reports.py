"""Results of studies as plain text, in which every string from a model has passed `visible`, and tables as CSV."""

from __future__ import annotations

import csv
import io

from engine.study_results import Cell, Column, StudyResult, Table
from engine.text import visible, visible_token

_SHOWN = 40
"""Rows of a table on a terminal; JSON and CSV have all."""
_NUMBERS = {"number", "signed", "count", "share"}


def study_text(result: StudyResult) -> str:
    """Figures, tables, sets and notes, one after another."""
    lines = [visible(result.title)]
    width = max((len(name) for name in result.figures), default=0)
    for name, value in result.figures.items():
        lines.append(f"  {visible(name):<{width}}  {cell_text(value, Column(name, 'number'))}")
    for table in result.tables:
        lines += ["", *table_text(table)]
    for chosen in result.sets:
        size = len(chosen.members)
        what = "1 feature" if size == 1 else f"{size:,} features"
        lines += ["", f"set {visible(chosen.name)}: {what}. {visible(chosen.rule)}".rstrip()]
    lines += [f"* {visible(note)}" for note in result.notes]
    return "\n".join(lines)


def table_text(table: Table, most: int = _SHOWN) -> list[str]:
    """A table with a header, columns aligned."""
    rows = [[cell_text(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
    shown = [[visible(column.name) for column in table.columns], *rows[:most]]
    widths = [max(len(row[n]) for row in shown) for n in range(len(table.columns))]
    right = [column.kind in _NUMBERS for column in table.columns]
    lines = [visible(table.title)]
    if not rows:
        return [*lines, "nothing"]
    for row in shown:
        cells = [f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(cells).rstrip())
    total = table.total if table.total is not None else len(rows)
    if total > min(most, len(rows)):
        lines.append(f"… {total - min(most, len(rows)):,} more rows")
    return lines


def cell_text(cell: Cell, column: Column) -> str:
    """A cell as it reads best: three or four digits, signs where they matter, a dash for what does not exist."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return visible_token(cell) if column.kind == "token" else visible(cell)
    if column.kind == "count" or isinstance(cell, int):
        return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.0f}"
    if column.kind == "share":
        return f"{100 * cell:.3g} %"
    return f"{cell:+.4g}" if column.kind == "signed" else f"{cell:.4g}"


def table_csv(table: Table) -> str:
    """A table as CSV with a header: all as it is, nothing for what does not exist. Not safe for a terminal."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in table.columns])
    writer.writerows(["" if cell is None else cell for cell in row] for row in table.rows)
    return out.getvalue()
