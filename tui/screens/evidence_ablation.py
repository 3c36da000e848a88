"""Which features matter: ranks by ablation beside ranks by activation and by attribution."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text

from engine.protocol import AblationResult, AblationRow
from tui.panes.card import Part
from tui.screens.evidence_parts import closing, opening, or_none, paragraph, place_name, table
from tui.text import counted, number, signed, visible

_HEAD = ("feature", "token", "ablation", "#", "attrib.", "#", "activ.", "#", "KL")
_NOTES = (
    "Ablation: metric(clean) − metric(without the feature at any token), measured. Attribution: its linear estimate, "
    "activation × gradient. Activation: the largest on the prompt, at the token shown. # is the rank by size. KL of "
    "the next token, in nats. Measured were the strongest by activation and by attribution: a feature strong by "
    "neither is missing."
)


def ablation_lines(result: AblationResult, width: int, part: Part) -> list[Text]:
    """How well the cheap measures foretell the dear one, and the table by rank of ablation."""
    lines = opening(result.prompt, (), result.chat, width, part)
    for sentence in overlap_words(result):
        lines += paragraph(sentence, width)
    lines.append(Text())
    rows = [_row(row, result) for row in sorted(result.rows, key=lambda row: row.by_ablation)]
    if rows:
        styles = [Style() if n < result.top else part("dim") for n in range(len(rows))]
        lines += table(_HEAD, rows, width, part, keys=2, styles=styles)
    else:
        lines.append(Text(" No feature was taken out.", part("dim")))
    lines += [Text(), *paragraph(_NOTES, width, part("dim"))]
    return lines + closing(result.provenance, result.seconds, (), width, part)


def overlap_words(result: AblationResult) -> list[str]:
    """`Of the 10 that matter most by ablation, 3 are among the 10 most active …`."""
    metric = f"{visible(result.metric.label)} = {signed(result.metric.clean)}."
    top = min(result.top, result.measured)
    if not top:
        return [metric]
    activation, attribution = result.shared_activation, result.shared_attribution
    return [
        metric,
        f"Of the {top} that matter most by ablation, {activation} {'is' if activation == 1 else 'are'} among the {top} "
        f"most active and {attribution} among the {top} by attribution; correlation with |ablation| "
        f"{or_none(result.correlation_activation)} and {or_none(result.correlation_attribution)} over "
        f"{counted(result.measured, 'measured feature', 'measured features')}.",
    ]


def _row(row: AblationRow, result: AblationResult) -> list[str]:
    return [
        visible(str(row.feature)), place_name(result.tokens, row.position),
        signed(row.ablation), str(row.by_ablation), signed(row.attribution), str(row.by_attribution),
        number(row.activation), str(row.by_activation), number(row.kl),
    ]  # fmt: skip
