"""Is it the feature, or would any direction do: steering beside random directions of the same norm."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from engine.protocol import ArmFigures, ControlResult
from tui.panes.card import Part
from tui.plot import bars
from tui.screens.evidence_parts import (
    arm_style,
    beside,
    chart_width,
    closing,
    excerpt,
    opening,
    or_none,
    paragraph,
    spread,
    table,
    token_name,
)
from tui.text import cell_len, counted, number

_CHARTS = 3
"""Of watched tokens."""


def control_lines(result: ControlResult, width: int, part: Part) -> list[Text]:
    """The verdict, every arm's figures, bars, and the texts."""
    lines = opening(result.prompt, result.interventions, result.chat, width, part)
    for sentence in verdict(result):
        lines += paragraph(sentence, width)
    watched = [token_name(token) for token in result.watched]
    arms = _arms(result)
    head = ["arm", "KL first", "KL mean", "parts at", "perpl.", *(f"p {name}" for name in watched)]
    rows = [[name, *_figures(arm, len(watched))] for name, arm in arms]
    styles = [arm_style(n, part) for n in range(len(arms))]
    lines += [Text(), *table(head, rows, width, part, styles=styles), Text()]
    lines += beside(_charts(result, chart_width(width), part), width)
    indent = max(cell_len(name) for name, _ in arms) + 1
    for name, arm in arms:
        lines += excerpt(name, arm.text, width, part, indent=indent)
    notes = (
        "KL in nats from the plain model's next-token distribution: at the first new token, where all arms follow the "
        "same text, and its mean over the steps, each arm on its own text. Perplexity is that of an arm's text under "
        "the plain model."
    )
    lines += [Text(), *paragraph(notes, width, part("dim"))]
    return lines + closing(result.provenance, result.seconds, result.warnings, width, part)


def verdict(result: ControlResult) -> list[str]:
    """What the figures say, in sentences, and no more than they say."""
    steered, controls, plain = result.steered, result.controls, result.plain
    first = f"KL {number(steered.kl_first)} at the first token"
    if not controls:
        return [f"{first}; no random direction was measured, so nothing tells the feature from any other direction."]
    count = len(controls)
    mean = sum(c.kl_first for c in controls) / count
    ratio = f": {number(steered.kl_first / mean)}×" if mean > 0 and steered.kl_first > 0 else ""
    randoms = f"{spread([c.kl_first for c in controls])}, {counted(count, 'seed', 'seeds')}"
    sentences = [f"{first}; random directions of the same norm: {randoms}{ratio}."]
    reached = sum(c.kl_first >= steered.kl_first for c in controls)
    if steered.kl_first == 0:
        sentences.append("Steering changes nothing there.")
    else:
        sentences.append(f"{_of(reached, count)} as far or further.")
    if not reached:
        sentences[-1] += f" Were the feature no better than they, it would still come first 1 time in {count + 1}."
    further = sum(c.kl >= steered.kl for c in controls)
    sentences.append(
        f"Over the texts: mean KL {number(steered.kl)}, random {spread([c.kl for c in controls])}; "
        f"{_of(further, count, capital=False)} as far."
    )
    for n, token in enumerate(result.watched):
        if any(n >= len(arm.watched) for arm in (plain, steered, *controls)):
            continue
        before, after, others = plain.watched[n], steered.watched[n], [c.watched[n] for c in controls]
        moved = sum(abs(other - before) >= abs(after - before) for other in others)
        sentences.append(
            f"{token_name(token)} at the first token: plain {number(before)}, steered {number(after)}, "
            f"random {spread(others)}; {_of(moved, count, capital=False)} as far."
        )
    known = [c.perplexity for c in controls if c.perplexity is not None]
    sentences.append(
        f"Perplexity under the plain model: plain {or_none(plain.perplexity)}, steered "
        f"{or_none(steered.perplexity)}, random {spread(known) if known else '–'}."
    )
    return sentences


def _of(moved: int, count: int, *, capital: bool = True) -> str:
    """`None of the 5 random directions moves it`."""
    none = "None" if capital else "none"
    if count == 1:
        return f"{'The' if capital else 'the'} random direction {'moves' if moved else 'does not move'} it"
    return f"{moved or none} of the {count} random directions {'move' if moved > 1 else 'moves'} it"


def _arms(result: ControlResult) -> list[tuple[str, ArmFigures]]:
    randoms = ((f"random {n}", arm) for n, arm in enumerate(result.controls))
    return [("plain", result.plain), ("steered", result.steered), *randoms]


def _figures(arm: ArmFigures, watched: int) -> list[str]:
    """Cells of a row; a watched token without a figure gets a dash."""
    parts = "–" if arm.first_divergence is None else str(arm.first_divergence)
    chances = [number(p) for p in arm.watched[:watched]] + ["–"] * (watched - len(arm.watched))
    return [number(arm.kl_first), number(arm.kl), parts, or_none(arm.perplexity), *chances]


def _charts(result: ControlResult, width: int, part: Part) -> list[list[Text]]:
    arms = _arms(result)
    charts = [_bars("mean KL", [(name, arm.kl) for name, arm in arms[1:]], 1, width, part)]
    for n, token in enumerate(result.watched[:_CHARTS]):
        if all(n < len(arm.watched) for _, arm in arms):
            values = [(name, arm.watched[n]) for name, arm in arms]
            charts.append(_bars(f"p of {token_name(token)} at the first token", values, 0, width, part))
    return charts


def _bars(title: str, values: Sequence[tuple[str, float]], first: int, width: int, part: Part) -> list[Text]:
    """A chart whose bars have the colours of their arms, the first of which is the `first`."""
    drawn = bars(tuple(name for name, _ in values), tuple(value for _, value in values), width - 1)
    styles = [arm_style(n + first, part) for n in range(len(values))] + [part("dim")]
    lines = [Text(f" {line}", style) for line, style in zip(drawn, styles, strict=False)]
    return [Text(f" {title}", part("dim")), *lines]
