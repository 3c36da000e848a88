"""From the first frame until the engine is ready, or says why it never will be; and the page of what is open."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from engine.client import spawn
from engine.protocol import DictionaryInfo, Open
from sessions.store import new_session, path_of, write_session
from tests import samples
from tests.tui.driving import PROMPT, SIZES, Driver, driving
from tests.tui.refusing import REMEDY, SENTENCE
from tui import reducer
from tui.app import SaescopeApp
from tui.recorder import Recorder, to_session
from tui.screens.numbers import NumbersPage
from tui.screens.page import LogPage, TextPage
from tui.state import DROP, State


@asynccontextmanager
async def refused(size: tuple[int, int]) -> AsyncIterator[Driver]:
    """An app whose engine has refused to open anything."""
    base = new_session(Open(id=0))
    app = SaescopeApp(Open(id=0), spawn("tests.tui.refusing"), Recorder(path_of(base), base))
    async with app.run_test(size=size, notifications=True) as pilot:
        user = Driver(app, pilot)
        await user.until(lambda s: s.engine.phase == "lost")
        try:
            yield user
        finally:
            assert app._client is not None
            app._client.cut()
            await pilot.pause()


def words(text: str) -> str:
    """What the screen says, whatever lines and columns it is on."""
    return " ".join(re.sub(r"[│─]", " ", text).split())


# --- a prompt that waits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_escape_leaves_the_field_and_the_prompt_still_runs(size: tuple[int, int]) -> None:
    async with driving(size, held=True) as user:
        await user.type(PROMPT)
        await user.press("enter")
        await user.press("1", "escape")
        assert user.app.inspect.at == "tokens"
        await user.press("M")
        assert isinstance(user.app.screen, NumbersPage)
        assert "No model is open yet" in user.text
        await user.press("escape")
        assert user.state.queued == PROMPT
        user.open_now()
        state = await user.until(lambda s: s.result is not None)
        assert state.result is not None
        assert state.result.prompt == PROMPT


async def test_a_prompt_that_waits_is_dropped_by_two_escapes_and_not_by_one() -> None:
    async with driving((80, 24), held=True) as user:
        await user.type(PROMPT)
        await user.press("enter", "escape")
        assert user.state.queued == PROMPT
        assert DROP.text in user.text
        assert DROP.remedy in user.text
        await user.press("escape")
        assert user.state.queued == ""
        assert "The prompt was dropped; its text is still in pane 1." in user.text
        user.open_now()
        state = await user.until(lambda s: s.engine.phase == "ready")
        await user.pilot.pause(0.2)
        assert (state.draft, user.state.runs, user.state.tasks) == (PROMPT, (), ())


async def test_what_was_entered_runs_and_not_what_is_typed_meanwhile() -> None:
    async with driving(held=True) as user:
        await user.type(PROMPT)
        await user.press("enter", "1")
        await user.type(" and mo")
        user.open_now()
        state = await user.until(lambda s: s.result is not None)
        assert state.result is not None
        assert state.result.prompt == PROMPT
        assert state.draft == PROMPT + " and mo"


async def test_not_ready_yet_is_said_no_longer_than_it_is_so() -> None:
    async with driving(held=True) as user:
        await user.press("escape", "B")
        assert "not ready yet" in user.text
        user.open_now()
        await user.until(lambda s: s.engine.phase == "ready")
        assert "not ready yet" not in user.text


async def test_a_session_that_is_resumed_has_its_prompt_counted() -> None:
    async with driving() as user:
        left = to_session(await user.run(), new_session(Open(id=0)))
    assert left.owner is not None
    gone = msgspec.structs.replace(left.owner, pid=2**22 + 1)
    write_session(path_of(left), msgspec.structs.replace(left, owner=gone))
    async with driving() as user:
        await user.until(lambda s: s.draft_tokens == 0)
        await user.press("escape", "U")
        await user.until(lambda s: s.draft == PROMPT and s.draft_tokens == 8)
        assert "8 tok" in user.text


async def test_enter_without_a_prompt_says_what_is_missing() -> None:
    async with driving() as user:
        await user.press("enter", "space", "enter")
        assert "The prompt is empty." in user.text
        assert user.app.inspect.at == "prompt"
        assert user.state.runs == ()


# --- nothing opens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_what_did_not_open_is_said_whole(size: tuple[int, int]) -> None:
    async with refused(size) as user:
        column = size[0] if size[0] < 100 else user.app.inspect.tokens.size.width
        body, status = words("\n".join(line[:column] for line in user.lines())), user.lines()[-1]
        assert f"Nothing is open. {SENTENCE} {REMEDY}" in body
        assert "start saescope again" in body
        assert "Did you mean res-sm?" in status
        assert "e details" in status
        await user.press("escape", "e")
        assert isinstance(user.app.screen, TextPage)
        assert SENTENCE in words(user.text)
        assert REMEDY in words(user.text)
        await user.press("escape", "E")
        assert isinstance(user.app.screen, LogPage)
        assert f"{SENTENCE} {REMEDY}" in words(user.text)


@pytest.mark.parametrize("size", SIZES)
async def test_nothing_waits_for_what_does_not_open(size: tuple[int, int]) -> None:
    async with refused(size) as user:
        await user.type(PROMPT)
        await user.press("enter")
        assert user.state.queued == ""
        assert user.state.draft == PROMPT
        assert "when it is ready" not in user.text
        assert SENTENCE[:16] in user.lines()[-1]
        await user.press("escape", "escape")
        line = user.lines()[-1]
        assert "nothing is open" in line
        user.app._busy_since -= 100
        user.app._tick()
        await user.pilot.pause()
        assert user.lines()[-1] == line
        await user.press("e")
        assert REMEDY in words(user.text)
        await user.press("escape", "c")
        assert "not ready" not in user.text
        assert user.state.notice is not None
        assert user.state.notice.text == SENTENCE
        await user.press("escape", "M")
        assert f"Nothing is open. {SENTENCE} {REMEDY}" in words(user.text)


# --- the page of what is open -------------------------------------------------------------------------------------


def dictionary(source: str, **said: object) -> DictionaryInfo:
    layer = int(source[0]) if source[0].isdigit() else 0
    first = DictionaryInfo(
        source=source, hook=f"blocks.{layer}.hook_resid_post", layer=layer, architecture="standard",
        formula="relu((x − b_dec)·W_enc + b_enc)", d_in=512, d_sae=32768, folder=f"/data/sets/res/{source}",
        sha256=f"{layer:x}" * 64, neuronpedia=f"pythia/{source}", form="SAELens",
        notes=(f"decoder rows are not unit norm (4.{layer} to 6.9)",),
    )  # fmt: skip
    return msgspec.structs.replace(first, **said)


def opened(*dictionaries: DictionaryInfo, fold: bool = False, dtype: str = "float32") -> State:
    event = samples.opened()
    model = msgspec.structs.replace(event.model, dtype=dtype)
    event = msgspec.structs.replace(event, model=model, dictionaries=dictionaries)
    return reducer.reduce_event(State(opening=Open(id=0, fold=fold)), event, samples.AT)


def page(state: State, width: int) -> list[str]:
    from rich.style import Style

    return [line.plain for line in NumbersPage(state).lines(lambda _: Style())(width)]


@pytest.mark.parametrize("width", [78, 118, 198])
def test_what_dictionaries_share_is_said_once_and_each_has_a_row(width: int) -> None:
    infos = [dictionary(f"{n}-res-sm") for n in range(8)]
    lines = page(opened(*infos), width)
    text = "\n".join(lines)
    assert all(len(line) <= width for line in lines)
    assert text.count("relu(") == 1
    assert text.count("512 → 32,768") == 1
    assert text.count("beside the model") == 1
    assert text.count("/data/sets/res") == 1
    for info in infos:
        row = next(line for line in lines if info.hook in line)
        assert row.split()[0] == info.source
        assert text.count(str(info.neuronpedia)) == 1
        assert text.count(info.sha256[:12]) == 1
        assert text.count(info.notes[0]) == 1
    assert "· decoder rows are not unit norm\n" in text
    assert next(n for n, line in enumerate(lines) if infos[-1].hook in line) < 22


def test_what_differs_stands_apart() -> None:
    other = dictionary("0-mlp-x", formula="topk(32)(x·W_enc)", form="sparsify", notes=(), neuronpedia=None)
    text = "\n".join(page(opened(dictionary("0-res-sm"), dictionary("1-res-sm"), other), 118))
    first, second = text.index("SAELens: relu("), text.index("sparsify: topk(32)")
    assert first < text.index("1-res-sm") < second < text.index("0-mlp-x")
    assert "no page" in text[second:]
    paged = msgspec.structs.replace(other, residency="disk")
    text = "\n".join(page(opened(dictionary("0-res-sm"), paged), 118))
    assert "sparsify: topk(32)(x·W_enc) · on disk, read when used" in text


def test_a_dictionary_without_a_file_has_no_hash() -> None:
    text = "\n".join(page(opened(dictionary("0-neurons", sha256="", notes=(), form="neurons")), 78))
    assert "sha256 …" not in text
    assert "sha256 f" in text  # the model's
    assert "nothing is read from a file" in text


def test_folding_is_said_once_and_rescoring_where_it_happens() -> None:
    note = "decoder norms are folded: activations are f·‖W_dec‖"
    formula = "relu((x − b_dec)·W_enc + b_enc); decoder norms folded: activations f·‖W_dec‖; x centred"
    infos = [dictionary(f"{n}-res-sm", notes=(note,), formula=formula) for n in range(3)]
    text = "\n".join(page(opened(*infos, fold=True, dtype="bfloat16"), 118))
    assert text.count("f·‖W_dec‖") == 1
    assert "SAELens: relu((x − b_dec)·W_enc + b_enc); x centred · 512 → 32,768\n" in text
    assert "what is displayed is rescored in float32" in words(text)
    plain = "\n".join(page(opened(*infos), 118))
    assert "activations are raw f\n" in plain
    assert "rescored" not in plain


def test_the_copied_page_is_the_page() -> None:
    infos = [dictionary(f"{n}-res-sm") for n in range(3)]
    copied = NumbersPage(opened(*infos))._copied
    assert words(copied) == words("\n".join(page(opened(*infos), 198)))
    assert "2-res-sm  blocks.2.hook_resid_post  pythia/2-res-sm" in copied
    wide = dictionary("3-res-sm", d_sae=65536)
    assert (
        "3-res-sm  blocks.3.hook_resid_post  512 → 65,536  pythia/3-res-sm" in NumbersPage(opened(*infos, wide))._copied
    )
