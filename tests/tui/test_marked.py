"""Quicklists on the screen: what is pasted is marked, all of it, and what is marked is shown with its names."""

from __future__ import annotations

import pytest
from textual import events

from engine.protocol import FeatureRef
from sessions.links import Entry, feature_url
from sessions.quicklist import quicklist_url, read_quicklist_url
from tests.tui.driving import SIZES, Driver, driving
from tui import reducer
from tui.screens.asking import AskPage
from tui.screens.marked import MarkedPage


async def pages(user: Driver) -> list[tuple[str, str]]:
    """Sources that have pages: which, and what they are called there."""
    found = [(info.source, info.neuronpedia) for info in user.state.engine.dictionaries if info.neuronpedia]
    assert found
    return found


async def pasted(user: Driver, text: str) -> AskPage:
    await user.press("X")
    page = user.app.screen
    assert isinstance(page, AskPage)
    page.field.post_message(events.Paste(text))
    await user.pilot.pause()
    return page


async def test_all_addresses_of_a_paste_are_taken() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        source, page = (await pages(user))[0]
        model, _, layer = page.partition("/")
        first = quicklist_url("x", [Entry(model, layer, "3"), Entry(model, layer, "4")])
        for end in ("\r", "\n", "\r\n"):
            user.app.change(lambda s: reducer.mark_all(s, (FeatureRef(source, 3),)))
            await pasted(user, f"{first}{end}{feature_url(page, 5)}{end}{end}{model}@{layer}:6{end}")
            await user.press("enter")
            assert user.app.screen is user.app.inspect
            assert user.state.marks == tuple(FeatureRef(source, n) for n in (3, 4, 5, 6))
            said = user.state.notice.text if user.state.notice else ""
            assert said == "3 features were marked, 4 are marked now. 1 of the list was before."
            for n in (4, 5, 6):
                user.app.change(lambda s, n=n: reducer.toggle_mark(s, FeatureRef(source, n)))  # type: ignore[misc]


async def test_one_wrong_line_of_a_paste_is_named_and_marks_nothing() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        _, page = (await pages(user))[0]
        await pasted(user, f"{feature_url(page, 5)}\nnonsense")
        await user.press("enter")
        assert isinstance(user.app.screen, AskPage)
        assert "Line 2: 'nonsense'" in user.text
        assert user.state.marks == ()


@pytest.mark.parametrize("size", SIZES)
async def test_the_page_names_what_is_marked(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await user.press("escape", "3", "x")
        assert user.app.screen is user.app.inspect
        assert "No feature is marked" in user.text
        source, page = (await pages(user))[0]
        marks = tuple(FeatureRef(source, index) for index in (3, 7, 4000))
        user.app.change(lambda s: reducer.mark_all(s, marks))
        user.app.labels.put(marks[1], "mine [b]own[/b]")
        await user.until(lambda s: s.labels.get(str(marks[1])) and all(str(mark) in s.hints for mark in marks))
        await user.press("x")
        shown = user.app.screen
        assert isinstance(shown, MarkedPage)
        assert "3 features are marked" in user.text
        assert "1 address; y copies it" in user.text
        line = next(line for line in user.lines() if str(marks[1]) in line)
        assert line.split(maxsplit=1)[1] == "mine [b]own[/b]"
        assert next(line for line in user.lines() if str(marks[0]) in line).endswith("names of priests")
        assert next(line for line in user.lines() if str(marks[2]) in line).split(maxsplit=1)[1].startswith("peaks on")
        await user.press("y")
        _, entries = read_quicklist_url(user.app.clipboard)
        assert [f"{entry.modelId}/{entry.layer}:{entry.index}" for entry in entries] == [
            f"{page}:{mark.index}" for mark in marks
        ]
