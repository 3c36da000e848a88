"""What a study leaves behind where it did not come to its end: what was typed, and why."""

from __future__ import annotations

from engine.protocol import Run
from tests.tui.driving import driving
from tests.tui.test_studies import fill, form, listed, open_form


async def test_a_form_that_is_left_keeps_what_was_typed() -> None:
    async with driving() as user:
        await open_form(user, "health")
        await fill(user, "tokens", "12345")
        await user.press("escape")
        listed(user)
        await user.press("enter")
        form(user)
        assert "12345" in user.text
        assert user.state.studies == ()


async def test_an_engine_that_dies_is_named_where_its_study_was() -> None:
    async with driving() as user:
        await open_form(user, "health")
        await fill(user, "text", "/slow 30")
        await user.press("enter")
        await user.until(lambda s: s.task("study"))
        user.app.send(Run(id=user.app.next_id(), prompt="/die"))
        await user.until(lambda s: s.engine.deaths == 1 and s.engine.phase == "ready")
        kept = user.state.studies
        assert kept or "The engine died at this study" in user.text
        assert user.state.study.failed["health"].kind == "lost"
