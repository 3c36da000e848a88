"""Studies without a screen: settings from what was typed, and the result, whole or as far as it came."""

from __future__ import annotations

from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from engine.errors import BadRequest
from engine.headless import Headless, Report
from engine.protocol import MeasureStudy, Open, StudyGrown, StudyResult
from engine.study_settings import STUDIES, AnyStudy, settings_from


def study_settings(name: str, given: dict[str, Any]) -> AnyStudy:
    """What was typed as settings; what was not typed (None) keeps its default.

    Raises:
        BadRequest: a value is out of its range, or not one of the words there are.
    """
    kind = STUDIES[name]
    for field, value in given.items():
        words = words_of(get_type_hints(kind, include_extras=True)[field])
        if words and value is not None and value not in words:
            raise BadRequest(f"{value!r} is not a value of --{option_of(field)}.", f"Use {', '.join(words)}.")
    try:
        return settings_from(name, {key: value for key, value in given.items() if value is not None})
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        field = place.rstrip("`").partition("[")[0]
        shown = f"--{option_of(field)}" if field else "A setting"
        raise BadRequest(f"{shown}: {reason[:1].lower()}{reason[1:]}.", f"See `saescope study {name} -h`.") from None


def words_of(kind: Any) -> tuple[str, ...]:
    """The words a Literal allows, () for any other type."""
    if hasattr(kind, "__metadata__"):
        kind = get_args(kind)[0]
    return tuple(get_args(kind)) if "Literal" in str(get_origin(kind)) else ()


def option_of(field: str) -> str:
    """`loss_tokens` as `loss-tokens`."""
    return field.replace("_", "-")


def study(opening: Open, settings: AnyStudy, *, report: Report) -> StudyResult:
    """Carry a study out. Interrupted, what was found until then, if anything was."""
    headless = Headless(report)
    headless.ask(opening)
    return headless.grow(MeasureStudy(id=2, settings=settings), StudyGrown).result
