"""The nouns of studies: named figures, tables, and plots as views of tables.

Every study answers with the same struct, so commands, screen, session and exports treat all of them alike. A plot holds
no numbers of its own: it names the table and the columns it draws. Numbers that do not exist are None.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from engine.results import FeatureRef, Provenance

Cell: TypeAlias = str | int | float | None

ColumnKind = Literal["text", "token", "feature", "source", "number", "signed", "count", "share"]
"""What cells are: `token` is a token's text as the model means it, `feature` is SOURCE:INDEX, `signed` a number whose
sign matters, `share` a number between 0 and 1."""


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column of a table."""

    name: str
    kind: ColumnKind = "text"
    help: str = ""
    """What it is, with its unit, in one sentence."""


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rows of equal length, in the order in which they are to be read."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: int | None = None
    """How many rows there would be; None where all are here."""

    def column(self, name: str) -> tuple[Cell, ...]:
        """The cells of a column; KeyError where there is none of this name."""
        place = next((n for n, column in enumerate(self.columns) if column.name == name), None)
        if place is None:
            raise KeyError(name)
        return tuple(row[place] for row in self.rows)


class View(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="plot"):
    """A plot of a table's columns."""

    title: str
    table: str


class Bars(View, frozen=True, omit_defaults=True, kw_only=True, tag="bars"):
    """One bar per row, for each of the value columns side by side; values may be negative."""

    label: str
    values: tuple[str, ...]


class Histogram(View, frozen=True, omit_defaults=True, kw_only=True, tag="histogram"):
    """One row per bin from `low` to `high`; several count columns are stacked in their order."""

    low: str
    high: str
    counts: tuple[str, ...]
    log: bool = False
    """Counts on a logarithmic scale."""


class Curve(View, frozen=True, omit_defaults=True, kw_only=True, tag="curve"):
    """Points (x, y) joined by lines, one line for each of the `y` columns or for each value of `series`."""

    x: str
    y: tuple[str, ...]
    series: str | None = None
    log_x: bool = False
    log_y: bool = False


class Scatter(View, frozen=True, omit_defaults=True, kw_only=True, tag="scatter"):
    """One point per row, in two dimensions or three."""

    x: str
    y: str
    z: str | None = None
    label: str | None = None
    """The column that names a point, e.g. a feature."""
    group: str | None = None
    """The column by which points are coloured."""
    path: str | None = None
    """The column whose equal values are joined by a line in the order of rows, as a walk is."""


class Heat(View, frozen=True, omit_defaults=True, kw_only=True, tag="heat"):
    """A grid: one cell for each value of `row` and of `column`, each in the order first met."""

    row: str
    column: str
    value: str
    diverging: bool = False
    """Zero is the middle of the colours."""


AnyView: TypeAlias = Bars | Histogram | Curve | Scatter | Heat


class SetMember(msgspec.Struct, frozen=True, omit_defaults=True):
    """A feature of a set, and the number by which it came there."""

    feature: FeatureRef
    effect: float | None = None
    neuronpedia: str | None = None
    """`model/source` on Neuronpedia, where its dictionary has pages."""


class FeatureSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """Features under a name, strongest first."""

    name: str
    members: tuple[SetMember, ...]
    rule: str = ""
    """How they were chosen, in one sentence."""


class StudyResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a study found."""

    study: str
    """Which: the tag of its settings."""
    title: str
    """What was studied, in one line."""
    settings: dict[str, Any]
    """As asked, with what was left open filled in."""
    provenance: Provenance
    figures: dict[str, Cell] = {}
    """The few numbers one would quote."""
    meanings: dict[str, str] = {}
    """What each figure is, with its unit."""
    tables: tuple[Table, ...] = ()
    views: tuple[AnyView, ...] = ()
    sets: tuple[FeatureSet, ...] = ()
    notes: tuple[str, ...] = ()
    """What has to be known to read the numbers rightly: a sentence each."""
    seconds: float = 0.0
    finished: bool = True
    """False: stopped or still growing; what is there is valid."""

    def table(self, name: str) -> Table:
        """A table by its name; KeyError where there is none."""
        found = next((table for table in self.tables if table.name == name), None)
        if found is None:
            raise KeyError(name)
        return found
