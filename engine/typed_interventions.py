"""Interventions as they are typed: each `--feature` begins a group, and the options after it say what is done to it.

Everything that can be wrong in the words alone is refused here, before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from engine.errors import BadRequest
from engine.protocol import AblateTo, Intervention, Positions, parse_feature, parse_positions
from engine.steering_results import KINDS, Kind, Unit

STRONGEST = 1e30
"""Not far beyond it float32 ends, and with it the text."""
_SEEDS = 1 << 63
_KIND_OPTIONS = ", ".join(f"--{kind}" for kind in KINDS[:-1]) + f" or --{KINDS[-1]}"

ReadPreset = Callable[[str], tuple[Intervention, ...]]


class Typed(NamedTuple):
    """One option of the command line, without its dashes; a flag's value is empty."""

    option: str
    value: str = ""

    def __str__(self) -> str:
        return f"--{self.option} {self.value}".strip()


@dataclass
class Group:
    """What was typed about one feature."""

    feature: str
    options: list[Typed] = field(default_factory=list)

    @property
    def kinds(self) -> list[Typed]:
        return [one for one in self.options if one.option in KINDS]


def read_interventions(
    typed: Iterable[Typed], read_preset: ReadPreset | None = None, *, kindless: int | None = None
) -> tuple[Intervention, ...]:
    """The interventions that were typed, in their order, those of presets in the place of their preset.

    Args:
        kindless: the place of the one that needs no kind, because its strength is varied; it is an `add` then.

    Raises:
        BadRequest: a word has no meaning, or an option is missing, given twice, or in the wrong place.
    """
    parts = _parts(typed)
    _deal_out([part for part in parts if isinstance(part, Group)])
    found: list[Intervention] = []
    for part in parts:
        if isinstance(part, Group):
            found.append(_intervention(part, needs_kind=len(found) != kindless))
        elif read_preset is not None:
            found += read_preset(part)
    if not found:
        raise BadRequest("There is nothing to steer with.", "Give --feature SOURCE:INDEX with --add STRENGTH.")
    return tuple(found)


def read_strength(kind: Kind, text: str) -> tuple[float, Unit]:
    """`8` or `-3.5` in activation units, `2.5x` in multiples of the feature's maximum.

    Raises:
        BadRequest: it is no number, a number no model survives, or in multiples where those mean nothing.
    """
    word = text.strip().casefold()
    multiple = word.endswith(("x", "×"))
    try:
        value = float(word[:-1] if multiple else word)
    except ValueError:
        value = float("nan")
    if not abs(value) < STRONGEST:
        example = "8, -3.5, or 2x for twice the feature's maximum" if kind in {"add", "clamp"} else "2 or -0.5"
        raise BadRequest(f"{text!r} is not a strength.", f"Use a number such as {example}.")
    if multiple and kind not in {"add", "clamp"}:
        raise BadRequest(f"--{kind} is not measured in multiples of the maximum.", "Give a number without x.")
    return value, "max" if multiple else "raw"


def _parts(typed: Iterable[Typed]) -> list[Group | str]:
    """Groups and names of presets, as typed."""
    parts: list[Group | str] = []
    for one in typed:
        if one.option == "preset":
            parts.append(one.value)
        elif one.option == "feature":
            parts.append(Group(one.value))
        elif parts and isinstance(last := parts[-1], Group):
            last.options.append(one)
        else:
            where = "follows a preset, not a --feature" if parts else "stands before any --feature"
            raise BadRequest(f"{one} {where}.", "Write --feature SOURCE:INDEX first, then what is done to it.")
    return parts


def _deal_out(groups: Sequence[Group]) -> None:
    """Where all features come first, the n-th kind with what follows it belongs to the n-th feature."""
    if len(groups) < 2 or any(group.options for group in groups[:-1]) or len(groups[-1].kinds) != len(groups):
        return
    options, groups[-1].options = groups[-1].options, []
    if options[0].option not in KINDS:
        raise BadRequest(f"It is not clear to which feature {options[0]} belongs.", "Write it after its --feature.")
    place = -1
    for one in options:
        place += one.option in KINDS
        groups[place].options.append(one)


def _intervention(group: Group, *, needs_kind: bool) -> Intervention:
    feature = parse_feature(group.feature)
    given: dict[str, str] = {}
    kinds = group.kinds
    if len(kinds) > 1:
        raise BadRequest(f"{feature} has both {kinds[0]} and {kinds[1]}.", "Give each --feature one of them.")
    if not kinds and needs_kind:
        raise BadRequest(f"{feature} has no {_KIND_OPTIONS}.", "Give it one of them.")
    for one in group.options:
        if one.option in given:
            raise BadRequest(f"{feature} has --{one.option} twice.", "Give it once.")
        given[one.option] = one.value
    kind: Any = kinds[0].option if kinds else "add"
    settings = _ablation(given) if kind == "ablate" else {}
    if kinds and kind != "ablate":
        settings["strength"], settings["unit"] = read_strength(kind, kinds[0].value)
    for option, only_for in (("unit-norm", "add"), ("patch", "ablate"), ("noise-seed", "ablate")):
        if option in given and kind != only_for:
            wanted = {"add": "--add", "ablate": f"--ablate {'patch' if option == 'patch' else 'noise'}"}[only_for]
            raise BadRequest(f"--{option} has no meaning for --{kind}.", f"Give it with {wanted}.")
    if (positions := parse_positions(given.get("positions", "all"))) != Positions():
        settings["positions"] = positions  # what is left at its default is left out of JSON
    return Intervention(
        feature, kind=kind, unit_norm="unit-norm" in given, special="no-special" not in given, **settings
    )


def _ablation(given: dict[str, str]) -> dict[str, Any]:
    """What a feature is ablated to."""
    to, known = given["ablate"].strip().casefold(), get_args(AblateTo)
    if to not in known:
        raise BadRequest(
            f"{given['ablate']!r} is nothing to ablate to.", f"Use {', '.join(known[:-1])} or {known[-1]}."
        )
    if to == "patch" and "patch" not in given:
        raise BadRequest("--ablate patch needs a prompt to take the value from.", "Give it with --patch.")
    for option, only_for in (("patch", "patch"), ("noise-seed", "noise")):
        if option in given and to != only_for:
            raise BadRequest(
                f"--{option} has no meaning for --ablate {to}.", f"Leave it out, or use --ablate {only_for}."
            )
    found: dict[str, Any] = {"to": known[known.index(to)]}
    if to == "patch":
        found["patch"] = given["patch"]
    if "noise-seed" in given:
        found["seed"] = _seed(given["noise-seed"])
    return found


def _seed(text: str) -> int:
    word = text.strip()
    if not (word.isascii() and word.isdecimal()) or len(word) > 19 or int(word) >= _SEEDS:
        raise BadRequest(f"{text!r} is not a seed.", "Use a whole number from 0.")
    return int(word)


# --- strengths that change or vary --------------------------------------------------------------------------------


def read_changes(
    typed: Sequence[str], interventions: tuple[Intervention, ...], tokens: int
) -> dict[int, tuple[Intervention, ...]]:
    """`STEP:STRENGTH` each: from generated token STEP on, the first intervention has another strength.

    Raises:
        BadRequest: a step outside the text, one given twice, or a strength that the intervention cannot have.
    """
    from msgspec.structs import replace

    found: dict[int, tuple[Intervention, ...]] = {}
    for text in typed:
        step, colon, strength = text.partition(":")
        word = step.strip()
        if not colon or not (word.isascii() and word.isdecimal()) or len(word) > 9:
            raise BadRequest(f"{text!r} is not a change.", "Write STEP:STRENGTH, e.g. 12:20 or 12:-1x.")
        number, first = int(word), interventions[0]
        if not 1 <= number < tokens:
            raise BadRequest(
                f"A strength cannot change at generated token {number}.",
                f"Change it from token 1 to {tokens - 1}." if tokens > 1 else "Generate more --tokens.",
            )
        if number in found:
            raise BadRequest(f"The strength is changed twice at token {number}.", "Give one --change for each token.")
        if not first.has_strength:
            raise BadRequest(f"{first.feature} is ablated, which has no strength.", "Put another --feature first.")
        value, unit = read_strength(first.kind, strength)
        found[number] = (replace(first, strength=value, unit=unit), *interventions[1:])
    return found


_MOST = 500


def read_strengths(text: str, kind: Kind) -> tuple[tuple[float, ...], Unit | None]:
    """`-4x:4x:17` (17 from −4 to 4 times the maximum) or a list such as `0,1x,2x`, by rising strength.

    Returns:
        The strengths and their unit; None where all are 0 and the unit does not matter.

    Raises:
        BadRequest: it is neither, or strengths of both units are among them.
    """
    words = text.split(":") if ":" in text else text.split(",")
    count = ""
    if ":" in text:
        *words, count = words
        plain = count.strip()
        if len(words) != 2 or not (plain.isascii() and plain.isdecimal()) or not 2 <= int(plain[:9]) <= _MOST:
            raise BadRequest(f"{text!r} is not a range of strengths.", "Write FROM:TO:COUNT, e.g. -4x:4x:17.")
    read = [read_strength(kind, word) for word in words]
    units = {unit for value, unit in read if value}
    if len(units) > 1:
        raise BadRequest(f"{text!r} mixes multiples of the maximum with plain numbers.", "Use one of the two.")
    values = [value for value, _ in read]
    if count:
        low, high = values
        steps = int(count) - 1
        values = [float(f"{low + (high - low) * n / steps:.12g}") for n in range(steps)] + [high]
    if len(values) > _MOST:
        raise BadRequest(f"{len(values)} are too many strengths.", f"Use at most {_MOST}.")
    return tuple(sorted(set(values))), units.pop() if units else None
