"""What tests of steering share: an open engine, one run, and interventions in few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.headless import Headless
from engine.protocol import FeatureRef, Intervention, Open, Steer, Steered, SteerResult

PROMPT = "in the end of the"


def open_engine(model: Path, *dictionaries: Path) -> Headless:
    engine = Headless(lambda *_: None)
    engine.ask(Open(id=1, model=str(model), dictionaries=tuple(map(str, dictionaries))))
    return engine


def steer(headless: Headless, *interventions: Intervention, **settings: Any) -> SteerResult:
    request = Steer(**{"id": 2, "prompt": PROMPT, "interventions": interventions, "tokens": 12, **settings})
    return next(e.result for e in headless.ask(request) if isinstance(e, Steered))


def add(index: int, strength: float = 0.0, source: str = "1-res-tiny", **more: Any) -> Intervention:
    return Intervention(FeatureRef(source, index), strength, **more)
