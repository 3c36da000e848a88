"""A place to look at single pages: an app with the program's styles and nothing else."""

from __future__ import annotations

from textual.app import App
from textual.pilot import Pilot

from themes.builtin import FALLBACK_VARIABLES, THEMES
from themes.palettes import DEFAULT
from tui.styles import STYLE_SHEETS


class Bench(App[None]):
    """Pages need no state."""

    CSS_PATH = STYLE_SHEETS

    def __init__(self) -> None:
        super().__init__()
        for theme in THEMES.values():
            self.register_theme(theme)
        self.theme = DEFAULT
        self.copied: list[str] = []

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return FALLBACK_VARIABLES

    def copy_to_clipboard(self, text: str) -> None:
        self.copied.append(text)

    @property
    def text(self) -> str:
        strips = self.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


async def press(pilot: Pilot[None], *keys: str) -> None:
    await pilot.press(*keys)
    await pilot.pause()
