"""All studies, declared by their settings; needs no torch."""

from __future__ import annotations

from typing import TypeAlias, get_args

import msgspec

from engine.study_settings.ablation import Ablation
from engine.study_settings.base import POSITIONAL, StudySettings
from engine.study_settings.concepts import Concepts
from engine.study_settings.health import Health
from engine.study_settings.index import Index
from engine.study_settings.logits import Logits
from engine.study_settings.neighbours import Neighbours
from engine.study_settings.noise import Noise
from engine.study_settings.select import Select
from engine.study_settings.specificity import Specificity
from engine.study_settings.steering import Steering
from engine.study_settings.tokens import TokenTable
from engine.study_settings.universality import Universality
from engine.study_settings.walk import Walk

__all__ = ["POSITIONAL", "STUDIES", "AnyStudy", "StudySettings", "name_of"]

AnyStudy: TypeAlias = (
    Select
    | Ablation
    | Steering
    | Universality
    | Health
    | TokenTable
    | Logits
    | Neighbours
    | Specificity
    | Concepts
    | Noise
    | Walk
    | Index
)


def name_of(settings: StudySettings | type[StudySettings]) -> str:
    """What a study is called on the command line and in results."""
    tag = settings.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


STUDIES: dict[str, type[AnyStudy]] = {name_of(kind): kind for kind in get_args(AnyStudy)}
"""Name → settings, in the order of menus."""


def settings_from(name: str, given: dict[str, object]) -> AnyStudy:
    """The settings of a study from plain values; raises `msgspec.ValidationError` where one does not fit."""
    settings: AnyStudy = msgspec.convert({"study": name, **given}, AnyStudy)
    return settings
