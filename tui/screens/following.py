"""Pages that show what changes while they are open."""

from __future__ import annotations

from tui.state import State


class Following:
    """A part of a page. The app tells it every new state, also while another page lies over it."""

    def follow(self, state: State, old: State) -> None:
        """The state changed. The page may not have been composed yet."""
        raise NotImplementedError
