"""One feature on an edited text: the numbers of the prompt's own row, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import BadRequest, PromptTooLong
from engine.headless import Headless
from engine.protocol import CardRead, FeatureRef, FeaturesFound, Open, Row, RowRead, Run, ShowCard, TextTried, TryText
from tests.engine.steering_scene import open_engine

PROMPT = "in the end of the bag"
FEATURE = FeatureRef("1-res-tiny", 3)


@pytest.fixture(scope="module")
def engine(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Headless:
    return open_engine(llama_folder, *dictionary_folders)


def tried(engine: Headless, text: str, feature: FeatureRef = FEATURE, chat: bool = False) -> TextTried:
    events = engine.ask(TryText(id=5, feature=feature, text=text, chat=chat))
    return next(event for event in events if isinstance(event, TextTried))


def row(engine: Headless, prompt: str, feature: FeatureRef, chat: bool = False) -> tuple[float, ...]:
    engine.ask(Run(id=3, prompt=prompt, chat=chat))
    return next(e.values for e in engine.ask(Row(id=4, feature=feature)) if isinstance(e, RowRead))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("text", [PROMPT, "a", "the thing\nin 漢 the \x1b[31mtin"])
def test_values_are_those_of_the_prompts_row(engine: Headless, text: str, chat: bool) -> None:
    for index in range(0, 64, 9):
        feature = FeatureRef("2-res-tiny", index)
        assert tried(engine, text, feature, chat).values == row(engine, text, feature, chat)


def test_tokens_and_sinks_are_those_of_the_prompt(engine: Headless) -> None:
    found = next(e for e in engine.ask(Run(id=3, prompt=PROMPT)) if isinstance(e, FeaturesFound)).result
    assert [t.id for t in tried(engine, PROMPT).tokens] == [t.id for t in found.tokens]


def test_the_last_prompt_stays_what_it_was(engine: Headless) -> None:
    before = row(engine, PROMPT, FEATURE)
    tried(engine, "something quite different")
    assert next(e.values for e in engine.ask(Row(id=9, feature=FEATURE)) if isinstance(e, RowRead)) == before


def test_what_cannot_be_read_is_said(engine: Headless) -> None:
    with pytest.raises(BadRequest, match="empty"):
        tried(engine, "")
    with pytest.raises(PromptTooLong):
        tried(engine, "the " * 500)
    with pytest.raises(BadRequest, match="No dictionary called"):
        tried(engine, PROMPT, FeatureRef("9-nowhere", 1))
    with pytest.raises(BadRequest, match="no feature 64"):
        tried(engine, PROMPT, FeatureRef("1-res-tiny", 64))


@pytest.mark.default_set
def test_the_known_maximum_is_the_cards(default_set: Path) -> None:
    feature = FeatureRef("13-res-sc", 3467)
    engine = Headless(lambda *_: None)
    engine.ask(Open(id=1))
    card = next(e.card for e in engine.ask(ShowCard(id=2, feature=feature)) if isinstance(e, CardRead))
    assert tried(engine, "the holy priest", feature).maximum == card.max_activation
    engine.engine.opened.folded = True  # other units than those of cards
    assert tried(engine, "the holy priest", feature).maximum is None
