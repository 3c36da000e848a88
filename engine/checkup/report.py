"""The check-up of dictionaries as text: the verdict first."""

from __future__ import annotations

from collections.abc import Sequence

from engine.checkup.results import CheckUp, Convention, Figure, HookReading, StoredComparison
from engine.text import visible

_NAMES = {
    "l0": "L0",
    "explained_variance": "explained variance",
    "loss_recovered_zero": "loss recovered, against zero ablation",
    "loss_recovered_mean": "loss recovered, against mean ablation",
}
_VERDICTS = {
    "agrees": "agrees with what was published",
    "differs": "differs from what was published",
    "wrong hook": "wrong hook",
    "doubtful hook": "is the hook right?",
    "poor": "does not fit",
    "nothing to compare": "fits; nothing was published to compare with",
}
_OTHERS = 4


def report(found: Sequence[CheckUp]) -> str:
    """One block of lines for each dictionary; before several, a line for each, those that do not belong first."""
    blocks = ["\n".join(_block(one)) for one in found]
    if len(found) > 1:
        blocks.insert(0, "\n".join(_summary(found)))
    return "\n\n".join(blocks)


def _summary(found: Sequence[CheckUp]) -> list[str]:
    wrong = [one for one in found if not one.belongs]
    head = (
        f"{len(wrong)} of {len(found)} dictionaries do not belong where they are read, or are in doubt"
        if wrong
        else f"Nothing speaks against any of the {len(found)} dictionaries"
    )
    width = max(len(visible(one.source)) for one in found)
    ordered = [*wrong, *(one for one in found if one.belongs)]
    return [f"{head}:", *(f"  {visible(one.source):<{width}}  {_verdict(one)}" for one in ordered)]


def _verdict(one: CheckUp) -> str:
    said = _VERDICTS[one.verdict]
    return f"{said}, by far" if one.verdict == "differs" and not one.belongs else said


def _block(one: CheckUp) -> list[str]:
    lines = [
        f"{visible(one.source)} of {visible(one.model)}: {_verdict(one)}",
        *(f"  * {visible(sentence)}" for sentence in one.sentences),
        f"  {'reads':<40}{_place(one.hook, one.hook_out)}",
        f"  {'form':<40}{visible(one.form)}, {one.features:,} features",
        f"  {'formula':<40}{visible(one.formula)}",
        *(f"  {'':<40}{visible(note)}" for note in one.notes),
        *(_figure(figure) for figure in one.figures),
        f"  {'loss: clean, spliced, mean, zero':<40}" + ", ".join(
            f"{loss:.3f}"
            for loss in (one.losses.clean, one.losses.spliced, one.losses.mean_ablated, one.losses.zero_ablated)
        )
        + f" nats, {one.losses.tokens:,} tokens",
        f"  {'silent in the sample':<40}{one.silent:.1%} of the features; so short a text leaves more silent than dead",
        f"  {'decoder norms':<40}{one.decoder_norms[0]:.4g} to {one.decoder_norms[2]:.4g}, "
        f"median {one.decoder_norms[1]:.4g}",
        f"  {'measured on':<40}{one.tokens:,} tokens of {visible(one.sample)}, {'with' if one.bos else 'without'} BOS",
    ]  # fmt: skip
    lines += _readings(one.readings)
    if one.stored is not None:
        lines += _stored(one.stored)
    return lines


def _figure(figure: Figure) -> str:
    digits = 1 if figure.name == "l0" else 3
    line = f"  {_NAMES[figure.name]:<40}{_number(figure.measured, digits)}"
    if figure.published is None:
        return line
    published = _number(figure.published, digits)
    return f"{line:<50} {published} by {visible(figure.origin)}: {'agrees' if figure.agrees else 'differs'}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.2g}"


def _place(hook: str, hook_out: str) -> str:
    return hook if hook == hook_out else f"{hook} → {hook_out}"


def _readings(readings: Sequence[HookReading]) -> list[str]:
    """Its own place beside the best of the others; nothing where there are no others.

    Other hooks cost a pass each and are tried on a part of the sample: there its own figures differ from those above.
    """
    own, *others = readings
    if not others:
        return []
    rows = [("here", own), *(("elsewhere", one) for one in others[:_OTHERS])]
    return ["  explained variance by hook, on a part of the sample, so other than above:"] + [
        f"    {where:<38}{_number(one.explained_variance, 3):>6}  L0 {_number(one.l0, 1):>8}  "
        f"{_place(one.hook, one.hook_out)}"
        for where, one in rows
    ]


def _stored(stored: StoredComparison) -> list[str]:
    lines = [f"  {'stored activations':<40}{visible(stored.sentence)}"]
    lines += [_convention(convention) for convention in stored.conventions]
    if stored.rows:
        skipped = f"; {stored.skipped} rows have other tokens" if stored.skipped else ""
        few = f"{stored.rows} rows of {stored.features} features"
        lines.append(f"  {'':<40}{few}, from {visible(stored.origin)}{skipped}")
        lines += [f"  {'':<40}{visible(note)}" for note in stored.notes]
    return lines


def _convention(one: Convention) -> str:
    how = f"{'f·‖W_dec‖' if one.folded else 'raw f'}, {'with' if one.bos else 'without'} BOS"
    return (
        f"    {how:<38}median {one.median_deviation:.2%}, largest {one.largest_deviation:.1%}, r {one.correlation:.3f}"
    )
