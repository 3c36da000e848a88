"""What an intervention does to all the other features of a prompt."""

from __future__ import annotations

from rich.text import Text

from engine.protocol import FeatureChange, ImpactResult, SiteImpact
from tui.panes.card import Part
from tui.screens.evidence_parts import closing, opening, paragraph, place_name, table
from tui.text import number, percent, signed, visible

_HEAD = ("dictionary", "arm", "active", "changed", "share", "<1", "silenced", "woken", "cosine", "mse")
_NOTES = (
    "Active: fires on some token, with or without the intervention. Changed: by more than a thousandth of the site's "
    "largest activation on some token; <1: those of them that change by less than 1 on every token. Cosine and mse "
    "compare the reconstructions with and without. Random: a direction of the same norm instead of the feature's."
)


def impact_lines(result: ImpactResult, width: int, part: Part) -> list[Text]:
    """Figures by dictionary, the steered arm beside the random one, then what changed most in each."""
    lines = opening(result.prompt, result.interventions, result.chat, width, part)
    kl = f"KL of the next token: steered {number(result.steered.kl)}, random direction {number(result.control.kl)}."
    lines += [*paragraph(kl, width), *paragraph(_left_out(result), width), Text()]
    arms = ({s.source: s for s in result.steered.sites}, {s.source: s for s in result.control.sites})
    rows, styles = [], []
    for source in {**arms[0], **arms[1]}:
        for name, style, sites in zip(("steered", "random"), (part("accent"), part("dim")), arms, strict=True):
            if source in sites:
                rows.append(_row(sites[source], name))
                styles.append(style)
    if rows:
        lines += table(_HEAD, rows, width, part, keys=2, styles=styles)
    else:
        lines.append(Text(" No dictionary was looked at.", part("dim")))
    for title, arm in (("steered", result.steered), ("along the random direction", result.control)):
        lines += [Text(), Text(f" largest changes, {title}", part("accent"))]
        if arm.changes:
            cells = [_change(change, result) for change in arm.changes]
            lines += table(("feature", "token", "before", "after", "change"), cells, width, part, keys=2)
        else:
            lines.append(Text(" No other feature changes.", part("dim")))
    lines += [Text(), *paragraph(_NOTES, width, part("dim"))]
    return lines + closing(result.provenance, result.seconds, result.warnings, width, part)


def _left_out(result: ImpactResult) -> str:
    steered = ", ".join(dict.fromkeys(visible(str(i.feature)) for i in result.interventions))
    sinks = [place_name(result.tokens, n) for n, token in enumerate(result.tokens) if token.sink]
    return f"Left out: what was steered ({steered or 'nothing'}), and attention sinks ({', '.join(sinks) or 'none'})."


def _row(site: SiteImpact, arm: str) -> list[str]:
    counts = (str(site.small), str(site.silenced), str(site.woken))
    share = percent(site.share) if site.active else "–"
    figures = (number(site.cosine), number(site.mse))
    return [visible(site.source), arm, str(site.active), str(site.changed), share, *counts, *figures]


def _change(change: FeatureChange, result: ImpactResult) -> list[str]:
    where = place_name(result.tokens, change.position)
    moved = (number(change.before), number(change.after), signed(change.after - change.before))
    return [visible(str(change.feature)), where, *moved]
