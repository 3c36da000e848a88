"""The page of presets: a name is taken or nothing is, and what each preset does can be read."""

from __future__ import annotations

import pytest

from engine.protocol import FeatureRef, Intervention, Positions
from sessions.model import Preset
from tests.tui.bench import Bench, press
from tui.screens.evidence_parts import intervention_words
from tui.screens.presets import PresetPage

FEATURE = FeatureRef("15-res-sc", 2210)
ADD = Intervention(FEATURE, 2.5, unit="max", positions=Positions("generated"))


@pytest.mark.parametrize(
    ("intervention", "words"),
    [
        (Intervention(FEATURE, 2.5), "+2.50"),
        (Intervention(FEATURE, -40, unit_norm=True), "−40.0 of unit norm"),
        (Intervention(FEATURE, 1, "clamp", "max", special=False), "clamped to 1.00 × max, no special tokens"),
        (Intervention(FEATURE, 2, "scale", "max", positions=Positions("prompt")), "× 2.00, prompt tokens"),
        (Intervention(FEATURE, kind="ablate", to="patch", patch="a\nb"), "ablated to patch of “a⏎b”"),
        (Intervention(FEATURE, kind="ablate", to="mean"), "ablated to mean"),
        (Intervention(FEATURE, 0.5, "rescale"), "projection × .500"),
        (Intervention(FEATURE, 3, "cap", positions=Positions("range", 2, 9)), "projection at most 3.00, at 2:9"),
    ],
)
def test_interventions_in_words(intervention: Intervention, words: str) -> None:
    assert intervention_words(intervention) == f"15-res-sc:2210 {words}"


PRESETS = (
    Preset("gender", (ADD, Intervention(FeatureRef("27-res-sc", 112), 0, "clamp"))),
    Preset("[b]no markup\x1b[31m", ()),
    Preset("漢" * 60, tuple(Intervention(FeatureRef("9-res-sc", n), n) for n in range(40))),
)


@pytest.mark.parametrize("size", [(60, 24), (120, 40), (200, 50)])
async def test_a_preset_is_chosen_by_name(size: tuple[int, int]) -> None:
    taken: list[str | None] = []
    app = Bench()
    async with app.run_test(size=size) as pilot:
        below = app.screen
        page = PresetPage(PRESETS)
        await app.push_screen(page, taken.append)
        await pilot.pause()
        assert "Presets · 3 presets" in app.text
        assert "▌ gender" in app.text
        assert "[b]no markup␛[31m" in app.text
        assert page.detail.plain_lines == [f" {intervention_words(i)}" for i in PRESETS[0].interventions]
        assert "27-res-sc:112 clamped to 0" in app.text
        await press(pilot, "j")
        assert "▌ [b]no" in app.text
        assert page.detail.plain_lines == []
        await press(pilot, "down")
        assert len(page.detail.plain_lines) == 40
        await press(pilot, "k", "enter")
        assert taken == [PRESETS[1].name]
        for page, keys, name in (
            (PresetPage(PRESETS), ("G", "enter"), PRESETS[2].name),
            (PresetPage(PRESETS), ("j", "escape"), None),
            (PresetPage(()), ("j", "enter", "escape"), None),
        ):
            await app.push_screen(page, taken.append)
            await press(pilot, *keys)
            assert taken[-1] == name
        assert len(taken) == 4
        assert app.screen is below


async def test_a_page_without_presets_says_so() -> None:
    app = Bench()
    async with app.run_test() as pilot:
        await app.push_screen(PresetPage(()))
        await pilot.pause()
        assert "No preset is saved in this session." in app.text
