"""What every drawn view can do, whatever it shows; kinds that lack a movement leave it out."""

from __future__ import annotations

from typing import Self

from rich.text import Text

from engine.protocol import AnyView, FeatureRef, Table
from tui.plots.grid import clipped
from tui.plots.paint import Paint
from tui.plots.rows import same_row
from tui.plots.words import cell_name, feature_in, feature_place
from tui.text import fit, visible, wrapped


class Picture:
    """A view with its table read once, its cursor, and the section it shows. Movements say whether they moved."""

    moves = "↑↓ row"
    """The keys that do something, for a footer."""

    def __init__(self, view: AnyView, table: Table) -> None:
        self.view, self.table = view, table
        self.title = visible(view.title)
        self._feature = feature_place(table, getattr(view, "label", None))

    # --- drawing ------------------------------------------------------------------------------------------------

    def draw(self, width: int, height: int, paint: Paint) -> list[Text]:
        """Exactly `height` lines of at most `width` cells: title, plot, and what is under the cursor."""
        if width < 1 or height < 1:
            return []
        body = self.body(width, height - 1, paint) if height > 1 else []
        status = Text(fit(self.status, width).rstrip(), paint.plain)
        return [*clipped(body, width, height - 1), *clipped([status], width, 1)]

    def body(self, width: int, height: int, paint: Paint) -> list[Text]:
        """All but the last line."""
        raise NotImplementedError

    # --- the cursor ---------------------------------------------------------------------------------------------

    @property
    def row(self) -> int | None:
        """The row of the table under the cursor."""
        return None

    @property
    def status(self) -> str:
        """What is under the cursor, with its numbers."""
        return ""

    @property
    def feature(self) -> FeatureRef | None:
        """The feature under the cursor."""
        row = self.row
        return None if row is None or self._feature is None else feature_in(self.table.rows[row][self._feature])

    @property
    def cut(self) -> str:
        """What the heading says where the table is not whole."""
        here, total = len(self.table.rows), self.table.total
        return f"{here:,} of {total:,} rows" if total is not None and total > here else ""

    def row_before(self, other: Self) -> int | None:
        """Where the row under the cursor of an older picture is now; its number where it is gone."""
        row = other.row
        if row is None:
            return None
        place = self._naming
        found = same_row(other.table, row, self.table, None if place is None else self.table.columns[place].name)
        return min(row, len(self.table.rows) - 1) if found is None else found

    @property
    def _naming(self) -> int | None:
        """The column that names a row: that of labels, or of features."""
        wanted = getattr(self.view, "label", None)
        return next((n for n, column in enumerate(self.table.columns) if column.name == wanted), self._feature)

    def name_of(self, row: int) -> str:
        """What a row is called: its label, or its feature, or its number."""
        place = self._naming
        return f"row {row + 1}" if place is None else cell_name(self.table.rows[row][place], self.table.columns[place])

    def step(self, count: int) -> bool:
        """The cursor so many rows of the table further."""
        return False

    def go(self, dx: int, dy: int) -> bool:
        """The cursor to what is next in a direction; `dy` is positive downwards."""
        return False

    def click(self, x: int, y: int) -> bool:
        """The cursor to what is nearest to a cell of the drawing, counted from its upper left."""
        return False

    def wheel(self, step: int) -> bool:
        """What the wheel does, `step` 1 towards the user: the cursor to the next row, or the section."""
        return self.step(step)

    # --- the section --------------------------------------------------------------------------------------------

    def zoom(self, step: int) -> bool:
        return False

    def pan(self, dx: int, dy: int) -> bool:
        return False

    def turn(self, dx: int, dy: int) -> bool:
        return False

    def reset(self) -> bool:
        return False

    def adopt(self, other: Self) -> None:
        """Take over cursor and section of the same view over a table that has grown."""


class Nothing(Picture):
    """Says why there is no plot."""

    moves = ""

    def __init__(self, view: AnyView, table: Table, why: str) -> None:
        super().__init__(view, table)
        self._why = why

    def body(self, width: int, height: int, paint: Paint) -> list[Text]:
        lines = [Text(fit(self.title, width).rstrip(), paint.bold)]
        return lines + [Text(line, paint.dim) for line in wrapped(self._why, width)]
