"""The command palette: every action by name, and themes."""

from __future__ import annotations

from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from themes.palettes import PALETTES
from tui.actions import ACTIONS, GROUPS, Action, shown_keys


def _help(action: Action) -> str:
    """The action's line and its keys; the palette parses it as markup, so no bracket may be in it."""
    keys = shown_keys(action.keys)
    return action.help if "[" in keys else f"{action.help}  ({keys})"


class ActionProvider(Provider):
    """`pane: action` for everything in the table."""

    def _entries(self) -> list[tuple[str, str, str]]:
        entries = []
        for action in ACTIONS:
            if action.palette and action.group == "anywhere":
                noun, verb = action.id.split(".")
                entries.append((f"{noun}: {verb.replace('_', ' ')}", _help(action), action.verb))
            elif action.palette:
                name = action.id.split(".")[1].replace("_", " ")
                text = f"{GROUPS[action.group].split()[-1].lower()}: {name}"
                entries.append((text, _help(action), f"in_pane('{action.group}', '{action.verb}')"))
        entries += [(f"theme: {name}", "Change the colours", f"theme('{name}')") for name in PALETTES]
        return entries

    async def discover(self) -> Hits:
        for name, help_text, verb in self._entries():
            yield DiscoveryHit(Content(name), partial(self.screen.run_action, verb), name, help_text)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for name, help_text, verb in self._entries():
            score = max(matcher.match(name), 0.8 * matcher.match(help_text))
            if score > 0:
                yield Hit(score, matcher.highlight(name), partial(self.screen.run_action, verb), name, help_text)
