"""Messages that concern the whole app. Those of one widget stand with the widget."""

from __future__ import annotations

from textual.message import Message

from engine.client import EngineLost
from engine.protocol import AnyEvent


class EngineSpoke(Message):
    """An event came from the engine, or the engine is gone."""

    def __init__(self, event: AnyEvent | EngineLost) -> None:
        super().__init__()
        self.event = event


class PromptSubmitted(Message):
    """The user wants this prompt run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
