"""The two texts as lines: nothing is lost, nothing is too wide, and every token says how far the arms are apart."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from engine.protocol import Change, FeatureRef, Intervention, Steer, Steered, Token
from tests import samples
from tests.nasty import NASTY
from tests.unit.test_steering_reducer import one_run
from tui import steering_rows
from tui.panes.steering_text import heat, kl_at, lay_out, raised, wrap
from tui.panes.steering_words import details, figures, note
from tui.state import State
from tui.steering_state import Texts, texts_of
from tui.text import cell_len, visible

FEATURE = FeatureRef("9-res-fk", 31)
TOKENS = st.lists(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=8) | st.just("\n"), max_size=20
)


def style(name: str) -> Style:
    return Style(meta={"part": name})


def parts(line: object, word: str) -> Style:
    """How a word of a line is drawn."""
    spans = [s for s in line.spans if line.plain[s.start : s.end].strip() == word]  # type: ignore[attr-defined]
    assert len(spans) == 1
    return spans[0].style  # type: ignore[no-any-return]


def steered(strength: float = 22.05, **changes: object) -> State:
    """A state that shows a finished text of five tokens."""
    request = Steer(id=1, prompt=samples.PROMPT, interventions=(Intervention(FEATURE, strength),), tokens=5)
    request = msgspec.structs.replace(request, **changes)
    result = samples.answer(request, Steered).result
    state = steering_rows.put_rows(one_run(), result.interventions)
    return msgspec.structs.replace(state, steering=msgspec.structs.replace(state.steering, texts=texts_of(result)))


def with_texts(state: State, **changes: object) -> State:
    changed = msgspec.structs.replace(texts(state), **changes)
    return msgspec.structs.replace(state, steering=msgspec.structs.replace(state.steering, texts=changed))


def texts(state: State) -> Texts:
    assert state.steering.texts is not None
    return state.steering.texts


@given(TOKENS, st.integers(2, 30))
def test_no_character_is_lost_and_no_line_too_wide(tokens: list[str], width: int) -> None:
    lines = wrap(tokens, width)
    joined = "".join(run.text for line in lines for run in line)
    assert joined == "".join("⏎".join(map(visible, token.split("\n"))) for token in tokens)
    for line in lines:
        text = "".join(run.text for run in line)
        assert cell_len(text) <= width
        assert "⏎" not in text[:-1]


@given(TOKENS, st.integers(2, 30))
def test_every_run_belongs_to_its_token(tokens: list[str], width: int) -> None:
    found = dict.fromkeys(range(len(tokens)), "")
    for line in wrap(tokens, width):
        for run in line:
            found[run.token] += run.text
    assert list(found.values()) == ["⏎".join(map(visible, token.split("\n"))) for token in tokens]


def test_words_stay_whole_where_they_can() -> None:
    lines = wrap([" one", " two", " three"], 9)
    assert ["".join(run.text for run in line) for line in lines] == [" one two ", "three"]


def test_notes_stand_before_their_token_and_are_no_part_of_it() -> None:
    (line,) = wrap([" a", " b"], 20, {1: "▸"})
    assert [(run.text, run.token, run.note) for run in line] == [(" a", 0, False), ("▸", 1, True), (" b", 1, False)]


@pytest.mark.parametrize("width", [20, 40, 55, 56, 80, 200])
def test_both_texts_are_there_at_every_width(width: int) -> None:
    state = steered()
    lines, places = lay_out(state, texts(state), width, style)
    text = "\n".join(line.plain for line in lines)
    for word in ("plain0", "plain4", "steered1", "steered4"):
        assert word in text
    assert all(cell_len(line.plain) <= width for line in lines)
    assert ("│" in text) == (width >= 56)
    for place in places:
        assert 0 <= place.start <= place.stop <= width
    assert {place.token for place in places} == set(range(5))


def test_strings_from_models_are_made_visible() -> None:
    state = with_texts(steered(), steps=(), plain="".join(NASTY), steered="".join(NASTY[::-1]))
    for width in (30, 120):
        lines, _ = lay_out(state, texts(state), width, style)
        assert all(line.plain == visible(line.plain) for line in lines)


def test_where_the_arms_part_is_marked_without_colour() -> None:
    state = steered()
    lines, _ = lay_out(state, texts(state), 80, lambda _: Style())
    assert lines[1].plain.count("▸") == 2
    assert parts(lines[1], "steered1").underline
    assert parts(lines[1], "steered2").bold
    assert not parts(lines[1], "steered2").underline
    same = steered(0.0)
    lines, _ = lay_out(same, texts(same), 80, lambda _: Style())
    assert "▸" not in lines[1].plain


def test_tokens_are_coloured_by_kl_or_by_what_steering_did_to_them() -> None:
    state = steered()
    lines, _ = lay_out(state, texts(state), 80, style)
    kl = kl_at(texts(state), 2)
    assert parts(lines[1], "steered2").meta == {"part": f"heat-{heat(kl)}"}
    other = steering_rows.toggle_colour(state)
    lines, _ = lay_out(other, texts(other), 80, style)
    change = raised(texts(state), 2)
    assert change is not None
    assert abs(change) > 0.05
    assert parts(lines[1], "steered2").meta == {"part": "positive" if change > 0 else "negative"}
    unscored = with_texts(other, scores=None)
    lines, _ = lay_out(unscored, texts(unscored), 80, style)
    assert parts(lines[1], "steered1").meta["part"].startswith("heat-")
    assert kl_at(texts(unscored), 2) is None  # the arms follow different texts by then


def test_the_text_cursor_stands_in_both_arms() -> None:
    state = steering_rows.put_token(steered(), 3)
    lines, _ = lay_out(state, texts(state), 80, style)
    assert parts(lines[1], "plain3").meta == parts(lines[1], "steered3").meta == {"part": "cursor"}
    assert steering_rows.put_token(state, 99).steering.token == 4
    assert steering_rows.move_token(steering_rows.put_token(state, 0), -1).steering.token == 0


def test_changes_in_mid_stream_stand_in_the_text() -> None:
    change = Change(2, (Intervention(FEATURE, 60.0),))
    state = with_texts(steered(), changes=(change,), warnings=())
    lines, _ = lay_out(state, texts(state), 100, style)
    assert "⟨+60.0⟩ steered2" in lines[1].plain
    assert "strengths changed from token 2 on" in note(state, 100, style).plain


@pytest.mark.parametrize(("kl", "step"), [(None, 0), (0.0, 0), (0.005, 0), (0.02, 1), (1.0, 4), (4.0, 8), (99.0, 8)])
def test_heat_goes_by_the_root_of_kl(kl: float | None, step: int) -> None:
    assert heat(kl) == step


def test_the_details_say_what_both_arms_did() -> None:
    state = steering_rows.put_token(steered(watch=(" she",)), 2)
    first, second = (line.plain for line in details(state, 120, style))
    assert "token 2" in first
    assert "·plain2 .40" in first
    assert "·steered2 ." in first
    assert "·she ." in first
    assert "raised" in first
    assert second.startswith(" next: ·of .41")
    assert "│" in second
    narrow = details(state, 40, style)[0].plain
    assert cell_len(narrow) <= 40
    assert narrow.startswith(" 2 ·plain2 .40 │ ·steere… .")
    assert "KL" in narrow


def test_an_arm_that_has_ended_says_so() -> None:
    state = steered()
    steps = texts(state).steps
    ended = (*steps[:2], msgspec.structs.replace(steps[2], plain=None))
    state = steering_rows.put_token(with_texts(state, steps=ended), 2)
    assert "plain ended" in details(state, 120, style)[0].plain


def test_figures_and_warnings() -> None:
    assert figures(texts(steered()))[1:] == ["parts at 1", "ppl 12.0 → 34.0"]
    still = steered(0.0)
    assert figures(texts(still))[:2] == ["mean KL 0", "the same text"]
    assert "add 0 changes nothing" in note(still, 80, style).plain
    assert figures(None) == []


def test_a_token_with_no_glyph_of_its_own_can_be_pointed_at() -> None:
    state = steered()
    step = texts(state).steps[0]
    assert step.plain is not None
    newline = msgspec.structs.replace(step.plain, token=Token(1, "\n"))
    state = with_texts(state, steps=(msgspec.structs.replace(step, plain=newline), *texts(state).steps[1:]))
    _, places = lay_out(state, texts(state), 80, style)
    assert any(place.token == 0 and place.stop - place.start == 1 for place in places)
