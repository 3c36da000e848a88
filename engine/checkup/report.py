"""The check-up of dictionaries as text."""

from __future__ import annotations

from collections.abc import Sequence

from engine.checkup.results import CheckUp, Convention, Figure, HookReading
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
    "nothing to compare": "nothing to compare with",
}
_NEIGHBOURS = 4


def report(found: Sequence[CheckUp]) -> str:
    """One block of lines for each dictionary."""
    return "\n\n".join("\n".join(_block(one)) for one in found)


def _block(one: CheckUp) -> list[str]:
    place = one.hook if one.hook == one.hook_out else f"{one.hook} → {one.hook_out}"
    lines = [
        f"{visible(one.source)} of {visible(one.model)}: {_VERDICTS[one.verdict]}",
        *(f"  * {visible(sentence)}" for sentence in one.sentences),
        f"  {'reads':<40}{place}",
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
        lines.append(f"  {'stored activations':<40}{visible(one.stored.sentence)}")
        lines += [_convention(convention) for convention in one.stored.conventions]
        skipped = f"; {one.stored.skipped} rows have other tokens" if one.stored.skipped else ""
        lines.append(f"  {'':<40}{one.stored.rows} rows of {visible(one.stored.file)}{skipped}")
    return lines


def _figure(figure: Figure) -> str:
    number = f"{figure.measured:.1f}" if figure.name == "l0" else f"{figure.measured:.3f}"
    line = f"  {_NAMES[figure.name]:<40}{number}"
    if figure.published is None:
        return line
    published = f"{figure.published:.1f}" if figure.name == "l0" else f"{figure.published:.3f}"
    return f"{line:<50} {published} by {visible(figure.origin)}: {'agrees' if figure.agrees else 'differs'}"


def _readings(readings: Sequence[HookReading]) -> list[str]:
    lines: list[str] = []
    for one in readings[: 1 + _NEIGHBOURS]:
        label = "" if lines else "EV here and at neighbouring hooks"
        place = one.hook if one.hook == one.hook_out else f"{one.hook} → {one.hook_out}"
        lines.append(f"  {label:<40}{one.explained_variance:6.3f}  L0 {one.l0:8.1f}  {place}")
    return lines


def _convention(one: Convention) -> str:
    how = f"{'f·‖W_dec‖' if one.folded else 'raw f'}, {'with' if one.bos else 'without'} BOS"
    return (
        f"    {how:<38}median {one.median_deviation:.2%}, largest {one.largest_deviation:.1%}, r {one.correlation:.3f}"
    )
