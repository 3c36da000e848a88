"""The table of actions, and that bindings, footer, help and palette say what it says."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from rich.style import Style
from textual.app import App
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.keys import KEY_NAME_REPLACEMENTS, Keys, key_to_character

from themes.palettes import PALETTES
from tui.actions import ACTIONS, BY_ID, GROUPS, Action, Group, bindings, footer, shown_keys
from tui.commands import ActionProvider
from tui.panes.card import CardPage
from tui.panes.circuit_body import CircuitBody
from tui.panes.features import FeatureList
from tui.panes.prompt import PromptArea
from tui.panes.steering_list import InterventionList
from tui.panes.tokens import Tokens
from tui.screens.inspect import InspectScreen
from tui.screens.page import HelpPage
from tui.screens.studies import StudiesPage
from tui.screens.study_page import StudyPage
from tui.text import cell_len

EVERY_ACTION = pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
EVERY_GROUP = pytest.mark.parametrize("group", GROUPS)
PLACES: dict[Group, type[DOMNode]] = {
    "anywhere": InspectScreen,
    "prompt": PromptArea,
    "tokens": Tokens,
    "features": FeatureList,
    "card": CardPage,
    "circuit": CircuitBody,
    "steering": InterventionList,
    "studies": StudiesPage,
    "study": StudyPage,
}
"""What has the focus, or stands around it, where a group's keys count."""
PAGES: frozenset[Group] = frozenset({"studies", "study"})
"""Groups of pages that lie over the panes: no key of everywhere reaches those."""
_NAMED = {key.value for key in Keys} | set(KEY_NAME_REPLACEMENTS.values())


def of(group: Group) -> list[Action]:
    return [action for action in ACTIONS if action.group == group]


def keys_of(listed: list[BindingType]) -> dict[str, str]:
    """Key → action of a widget's bindings."""
    return {key: b.action for b in listed if isinstance(b, Binding) for key in b.key.split(",")}


def visible_part(action: Action) -> list[str]:
    return [action.id, action.label, action.help, shown_keys(action.keys)]


@EVERY_ACTION
def test_every_action_has_keys_a_label_and_help(action: Action) -> None:
    assert all(action.keys.split(","))
    assert all(visible_part(action))
    assert action.help[0].isupper()
    assert not action.help.endswith(".")
    assert "\n" not in action.help
    assert len(action.label) <= 18
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", action.id)


@EVERY_ACTION
def test_help_is_no_markup(action: Action) -> None:
    """The palette parses it."""
    assert "[" not in action.help
    assert "[" not in action.label


@EVERY_ACTION
def test_keys_are_such_as_terminals_send(action: Action) -> None:
    for key in action.keys.split(","):
        plain = key.removeprefix("ctrl+").removeprefix("shift+")
        assert len(plain) == 1 or plain in _NAMED or key_to_character(plain), key
        assert "alt+" not in key


def test_ids_are_unique() -> None:
    assert len(BY_ID) == len(ACTIONS)
    assert set(BY_ID.values()) == set(ACTIONS)


@EVERY_GROUP
def test_no_key_means_two_things_in_one_place(group: Group) -> None:
    counted = Counter(key for action in of(group) for key in action.keys.split(","))
    assert [key for key, times in counted.items() if times > 1] == []


def test_panes_hide_no_key_of_everywhere_but_two() -> None:
    """Steering has more keys than are left: there x and o concern a row and the texts."""
    everywhere = {key for action in of("anywhere") for key in action.keys.split(",")}
    hidden = {
        (action.group, key)
        for action in ACTIONS
        if action.group not in {"anywhere", "prompt", *PAGES}
        for key in action.keys.split(",")
        if key in everywhere
    }
    assert hidden == {("steering", "x"), ("steering", "o")}


@EVERY_GROUP
def test_bindings_are_the_table(group: Group) -> None:
    made = bindings(group)
    assert [(b.id, b.key, b.action, b.tooltip) for b in made] == [(a.id, a.keys, a.verb, a.help) for a in of(group)]
    assert [b.priority for b in made] == [a.priority for a in of(group)]
    assert made


@EVERY_GROUP
def test_widgets_bind_the_table(group: Group) -> None:
    """The field's own Enter is no binding, it submits."""
    bound = keys_of(PLACES[group].BINDINGS)
    expected = {key: a.verb for a in of(group) for key in a.keys.split(",") if a.id != "prompt.run"}
    assert expected.items() <= bound.items()


@EVERY_ACTION
def test_every_verb_is_an_action_of_its_place(action: Action) -> None:
    name = action.verb.partition("(")[0]
    place: type = PLACES[action.group]
    if name.startswith("app."):
        place, name = App, name.removeprefix("app.")
    assert callable(getattr(place, f"action_{name}"))


@EVERY_GROUP
def test_the_footer_shows_what_works_there(group: Group) -> None:
    shown = footer(group)
    assert len(set(shown)) == len(shown)
    assert {action.group for action in shown} <= {group, "anywhere"}
    assert all(BY_ID[action.id] is action for action in shown)
    if group not in {"prompt", *PAGES}:
        assert {"help.keys", "app.quit"} <= {action.id for action in shown}


@EVERY_GROUP
def test_help_lists_every_action_and_those_of_the_pane_first(group: Group) -> None:
    lines = [line.plain for line in HelpPage(group).lines(lambda name: Style())(200)]
    assert lines[0] == GROUPS[group]
    for action in ACTIONS:
        assert any(line.strip().startswith(shown_keys(action.keys)) and line.endswith(action.help) for line in lines)
    titles = [line for line in lines if line in GROUPS.values()]
    assert sorted(titles) == sorted(GROUPS.values())


def test_help_keeps_keys_and_text_apart() -> None:
    lines = HelpPage("prompt").lines(lambda name: Style())(200)
    for action in ACTIONS:
        line = next(line.plain for line in lines if line.plain.endswith(action.help))
        assert line.removesuffix(action.help).endswith(" "), line


@pytest.mark.parametrize("width", [60, 80])
def test_help_fits_a_narrow_screen_and_loses_nothing(width: int) -> None:
    lines = [line.plain for line in HelpPage("prompt").lines(lambda name: Style())(width)]
    assert max(map(cell_len, lines)) <= width
    words = " ".join(" ".join(lines).split())
    for action in ACTIONS:
        assert action.help in words, action.id


async def test_the_palette_offers_every_action_that_is_for_it() -> None:
    provider = ActionProvider(HelpPage("prompt"))
    hits = [hit async for hit in provider.discover()]
    helps = [str(hit.help) for hit in hits]
    offered = [action for action in ACTIONS if action.palette]
    for action in offered:
        assert sum(text.startswith(action.help) for text in helps) == 1, action.id
    assert len(hits) == len(offered) + len(PALETTES)
    assert len({str(hit.display) for hit in hits}) == len(hits)


async def test_the_palette_finds_by_name_and_by_help() -> None:
    provider = ActionProvider(HelpPage("prompt"))
    for query in ("mark", "quicklist", "theme light"):
        assert [hit async for hit in provider.search(query)], query
    assert not [hit async for hit in provider.search("qqqqqq")]


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("enter,right,l", "enter → l"),
        ("ctrl+t", "^t"),
        ("H,shift+left", "H ⇧left"),
        ("/", "/"),
        ("equals_sign", "="),
        ("pageup,ctrl+u", "pgup ^u"),
        ("escape", "esc"),
    ],
)
def test_keys_as_a_user_reads_them(keys: str, shown: str) -> None:
    assert shown_keys(keys) == shown


@EVERY_ACTION
def test_shown_keys_are_printable(action: Action) -> None:
    shown = shown_keys(action.keys)
    assert shown.isprintable()
    assert cell_len(shown) <= 20
