"""Dose and response: what steering does at one strength after another."""

from __future__ import annotations

from rich.text import Text

from engine.protocol import ArmFigures, SweepPoint, SweepResult
from tui.panes.card import Part
from tui.plot import Points, curve
from tui.screens.evidence_parts import (
    CHART_HEIGHT,
    beside,
    chart_width,
    closing,
    excerpt,
    opening,
    or_none,
    paragraph,
    place_words,
    spread,
    table,
    token_name,
)
from tui.text import cell_len, counted, number, signed

_CHARTS = 3
"""Of watched tokens."""
_STEEP = 30.0
"""From this ratio of largest to smallest perplexity on its scale is logarithmic."""


def sweep_lines(result: SweepResult, width: int, part: Part) -> list[Text]:
    """The flip, charts over the strength, every strength's figures, and the texts."""
    others = [i for n, i in enumerate(result.interventions) if n != result.varied]
    lines = opening(result.prompt, others, result.chat, width, part)
    strengths = [point.strength for point in result.points]
    reach = f"{signed(min(strengths))} to {signed(max(strengths))}" if strengths else "nothing was measured"
    lines += paragraph(f"Varied: {_varied(result)}; {counted(len(strengths), 'point', 'points')}, {reach}.", width)
    if not result.finished:
        lines += paragraph("Stopped before all strengths were measured; w in pane 6 measures them.", width)
    for sentence in flip_words(result):
        lines += paragraph(sentence, width)
    lines += [Text(), *beside(_charts(result, chart_width(width), part), width)] if strengths else [Text()]
    lines += _table(result, width, part)
    labels = ["plain", *(signed(s) for s in strengths)]
    indent = max(cell_len(label) for label in labels)
    lines.append(Text())
    for label, arm in zip(labels, (result.plain, *(p.steered for p in result.points)), strict=True):
        lines += excerpt(label, arm.text, width, part, indent=indent)
    return lines + closing(result.provenance, result.seconds, result.warnings, width, part)


def flip_words(result: SweepResult) -> list[str]:
    """From which strength on the answer is the other one."""
    flip = result.flip
    if flip is None:
        return []
    answer, against = token_name(flip.answer), token_name(flip.against)
    low = min((p.strength for p in result.points), default=0.0)
    high = max((p.strength for p in result.points), default=0.0)
    plain = f"Without steering logit {answer} − logit {against} is {signed(flip.margin)}"
    if flip.margin > 0:
        return [f"{plain}: {answer} is preferred already."]
    up = signed(flip.positive) if flip.positive is not None else _none("up to", high, tried=high > 0)
    down = signed(flip.negative) if flip.negative is not None else _none("down to", low, tried=low < 0)
    return [f"Smallest strength that prefers {answer} to {against}: {up}; negative: {down}.", f"{plain}."]


def _none(how: str, end: float, *, tried: bool) -> str:
    return f"none {how} {signed(end)}" if tried else "not tried"


def _varied(result: SweepResult) -> str:
    """`strength of add on 15-res-sc:2210, in multiples of its largest activation, generated tokens`."""
    if not 0 <= result.varied < len(result.interventions):
        return "strength"
    varied = result.interventions[result.varied]
    unit = (
        ", in multiples of its largest activation" if varied.unit == "max" and varied.kind in {"add", "clamp"} else ""
    )
    return f"strength of {varied.kind} on {varied.feature}{unit}{place_words(varied)}"


def _table(result: SweepResult, width: int, part: Part) -> list[Text]:
    watched = [token_name(token) for token in result.watched]
    controls = any(point.controls for point in result.points)
    head = ["strength", "KL first", *(["random"] if controls else []), "KL mean", "parts at", "perpl."]
    rows = [_row("plain", result.plain, (), len(watched), controls)]
    rows += [_row(signed(p.strength), p.steered, p.controls, len(watched), controls) for p in result.points]
    lines = table([*head, *(f"p {name}" for name in watched)], rows, width, part)
    if controls:
        note = "random: KL at the first token along random directions of the same norm, mean (smallest–largest)."
        lines += paragraph(note, width, part("dim"))
    return lines


def _row(name: str, arm: ArmFigures, others: tuple[ArmFigures, ...], watched: int, controls: bool) -> list[str]:
    parts = "–" if arm.first_divergence is None else str(arm.first_divergence)
    random = [spread([other.kl_first for other in others]) if others else "–"] if controls else []
    chances = [number(p) for p in arm.watched[:watched]] + ["–"] * (watched - len(arm.watched))
    return [name, number(arm.kl_first), *random, number(arm.kl), parts, or_none(arm.perplexity), *chances]


# --- charts -----------------------------------------------------------------------------------------------------


def _charts(result: SweepResult, width: int, part: Part) -> list[list[Text]]:
    """One of each watched token or of the KL, and one of the perplexity; those with nothing to draw are left out."""
    charts = []
    for n, token in enumerate(result.watched[:_CHARTS]):
        title = f"p of {token_name(token)} at the first token"
        if n < len(result.plain.watched):
            title += f" (plain {number(result.plain.watched[n])})"
        charts.append(_chart(title, *_watched(result.points, n), width, part))
    if not result.watched:
        steered = tuple((p.strength, p.steered.kl_first) for p in result.points)
        others = tuple((p.strength, c.kl_first) for p in result.points for c in p.controls)
        charts.append(_chart("KL at the first token", steered, others, width, part))
    title = f"perplexity (plain {or_none(result.plain.perplexity)})"
    steered = tuple((p.strength, x) for p in result.points if (x := p.steered.perplexity) is not None)
    others = tuple((p.strength, x) for p in result.points for c in p.controls if (x := c.perplexity) is not None)
    values = [y for _, y in (*steered, *others)]
    steep = bool(values) and min(values) > 0 and max(values) > _STEEP * min(values)
    charts.append(_chart(title, steered, others, width, part, log=steep))
    return [chart for chart in charts if chart]


def _watched(points: tuple[SweepPoint, ...], n: int) -> tuple[Points, Points]:
    steered = tuple((p.strength, p.steered.watched[n]) for p in points if n < len(p.steered.watched))
    others = tuple((p.strength, c.watched[n]) for p in points for c in p.controls if n < len(c.watched))
    return steered, others


def _chart(title: str, steered: Points, others: Points, width: int, part: Part, *, log: bool = False) -> list[Text]:
    drawn = curve(steered, others, width - 1, CHART_HEIGHT, log)
    if not drawn:
        return []
    legend = "● steered · random directions" if others else "● steered"
    lines = [Text(f" {title}{', log scale' if log else ''}", part("dim")), Text(f" {legend}", part("dim"))]
    for row in drawn:
        line = Text(f" {row}")
        line.highlight_regex("[●\u2801-\u28ff]+", part("accent"))
        line.highlight_regex("·+", part("dim"))
        lines.append(line)
    return lines
