"""What tests of dictionary health share: text of a few words, a dictionary, and the study carried out on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from engine.corpus.text import contexts_of, documents_of
from engine.dictionary import Dictionary
from engine.formats.saelens import read_dictionary
from engine.job import Job
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.studies.health.study import measure
from engine.studies.measure import Growing
from engine.study_results import StudyResult
from engine.study_settings.health import Health
from tests import tiny

_TEXT = "in the end of the other thing a man of the sea and the moon in a house by the river"
WORDS = _TEXT.split()
RARE = 0.05


def write_text(file: Path, seed: int = 0, documents: int = 40) -> Path:
    generator = torch.Generator().manual_seed(seed)
    picks = [torch.randint(0, len(WORDS), (30,), generator=generator).tolist() for _ in range(documents)]
    file.write_text("\n".join(json.dumps({"text": " ".join(WORDS[p] for p in row)}) for row in picks))
    return file


def made(folder: Path, architecture: str, **settings: Any) -> Dictionary:
    return read_dictionary(tiny.save_dictionary(folder / "1-res-tiny", architecture, **settings))


def opening(model: LanguageModel, *dictionaries: Dictionary) -> OpenSet:
    return OpenSet(model, {d.source: d for d in dictionaries}, False, "")


def settings_for(text: Path, **more: Any) -> Health:
    return Health(**{"text": (str(text),), "context": 40, "rare": RARE, "loss_tokens": 0, **more})


def measured(opened: OpenSet, settings: Health) -> StudyResult:
    return measure(opened, settings, Growing(Job()))


def plain_contexts(opened: OpenSet, settings: Health) -> list[list[int]]:
    stream = contexts_of(opened, documents_of(settings.text), settings.context, settings.tokens)
    return [context.ids.tolist() for context in stream]
