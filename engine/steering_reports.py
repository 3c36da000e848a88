"""Steering as plain text: what was done in words, both texts, and the evidence as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from engine.protocol import (
    AblationResult,
    ArmFigures,
    ControlResult,
    Flip,
    ImpactArm,
    ImpactResult,
    Intervention,
    Positions,
    SteerResult,
    SweepResult,
    Token,
)
from engine.text import visible, visible_token

Maxima = Mapping[str, float]
"""`source:index` → the largest known activation."""
_ARROW = "→"


def steer_text(
    runs: Sequence[SteerResult], controls: Sequence[ControlResult] = (), maxima: Maxima | None = None
) -> str:
    """What was done, then for each run its figures, both texts, and its control."""
    known = maxima or {}
    first = runs[0]
    lines = _done(first.interventions, known, first.acted)
    lines.append("error kept" if first.keep_error else "error dropped: where one acts, the reconstruction stands")
    lines += _warnings(warning for run in runs for warning in run.warnings)
    for number, run in enumerate(runs):
        lines.append("")
        if len(runs) > 1:
            lines.append(f"--- seed {run.provenance.settings.get('seed', number)}")
        for change in run.changes:
            changed = [i for i in change.interventions if i not in run.interventions]
            words = ", ".join(_words(i, known) for i in changed) or "as at first"
            lines.append(f"from generated token {change.step} on: {words}")
        lines += _figures(run)
        lines += ["", f"plain:   {_prose(run.plain.text)}", "", f"steered: {_prose(run.steered.text)}"]
        if controls:
            lines += ["", *_control(controls[number])]
    return "\n".join(lines)


def sweep_text(result: SweepResult, maxima: Maxima | None = None) -> str:
    """A row for each strength, and where the answer flips."""
    known, varied = maxima or {}, result.interventions[result.varied]
    unit = " × max" if varied.unit == "max" else ""
    lines = [f"{visible(str(varied.feature))} {varied.kind} at several strengths{_unit(varied)}{_where(varied)}"]
    lines += [f"with {_words(one, known)}" for n, one in enumerate(result.interventions) if n != result.varied]
    lines += _warnings(result.warnings)
    controlled = any(point.controls for point in result.points)
    heads = [f"strength{unit}", *_ARM_HEADS, *map(_name, result.watched)]
    rows = [["plain", *_arm(result.plain, plain=True)]]
    rows += [[_signed(point.strength), *_arm(point.steered)] for point in result.points]
    if controlled:
        heads += ["random: KL first", "mean"]
        rows[0] += ["", ""]
        for row, point in zip(rows[1:], result.points, strict=True):
            row += [_span([c.kl_first for c in point.controls]), _span([c.kl for c in point.controls])]
    lines += ["", *_table(heads, rows)]
    return "\n".join(lines if result.flip is None else [*lines, "", _flip(result.flip, unit)])


def _flip(flip: Flip, unit: str) -> str:
    """How the answer stands, and what turns it."""
    answer, against = visible_token(flip.answer.text), visible_token(flip.against.text)
    found = [f"{_signed(s)}{unit}" for s in (flip.negative, flip.positive) if s is not None]
    if flip.margin > 0:
        said = f"{answer} is the likelier one already"
    elif found:
        said = f"{answer} is the likelier one from {' and from '.join(found)}"
    else:
        said = f"no strength tried makes {answer} the likelier one"
    return f"logit {answer} − {against} = {flip.margin:+.3g} without steering; {said}"


def impact_text(result: ImpactResult, maxima: Maxima | None = None) -> str:
    """What changes at every site, beside a random direction, and the features that change most."""
    lines = _done(result.interventions, maxima or {})
    lines += [f"error {result.provenance.settings.get('error', 'kept')}", *_warnings(result.warnings)]
    lines.append(
        f"KL at the next token {_number(result.steered.kl)}, along a random direction {_number(result.control.kl)}"
    )
    heads = ["site", "active", "changed", "share", "under 1", "silenced", "woken", "cosine", "MSE"]
    for name, arm in (("steered", result.steered), ("random direction of the same norm", result.control)):
        rows = [
            [
                visible(s.source), str(s.active), str(s.changed), f"{100 * s.share:.3g} %", str(s.small),
                str(s.silenced), str(s.woken), f"{s.cosine:.3f}", _number(s.mse),
            ]
            for s in arm.sites
        ]  # fmt: skip
        lines += ["", name, *_table(heads, rows)]
    lines += ["", "largest changes", *_changes(result.steered, result.tokens)]
    return "\n".join(lines)


def ablation_text(result: AblationResult) -> str:
    """The features that are among the top by any of the three measures, and how far the measures agree."""
    top = result.top
    shown = [r for r in result.rows if min(r.by_activation, r.by_attribution, r.by_ablation) <= top]
    lines = [
        f"{visible(result.metric.label)} = {result.metric.clean:+.4g}; {result.measured} features taken out one at a "
        f"time; the top {top} by each measure",
        "",
    ]
    rows = [
        [
            visible(str(r.feature)), f"{r.ablation:+.3g}", f"({r.by_ablation})", f"{r.attribution:+.3g}",
            f"({r.by_attribution})", _number(r.activation), f"({r.by_activation})", _number(r.kl),
            _at(r.position, result.tokens),
        ]
        for r in shown
    ]  # fmt: skip
    heads = ["feature", "ablation", "rank", "attribution", "rank", "activation", "rank", "KL", "at"]
    lines += [*_table(heads, rows, last_left=True), ""]
    for measure, effect, shared, correlation in (
        ("attribution", "ablation", result.shared_attribution, result.correlation_attribution),
        ("activation", "|ablation|", result.shared_activation, result.correlation_activation),
    ):
        alike = "" if correlation is None else f"; correlation with {effect} {correlation:.2f}"
        lines.append(f"of the top {top} by ablation {shared} are in the top {top} by {measure}{alike}")
    lines.append(
        "attribution is the linear guess of ablation: where they differ, or in sign, the model is far from linear there"
    )
    return "\n".join(lines)


# --- interventions in words ---------------------------------------------------------------------------------------


def _done(interventions: Sequence[Intervention], maxima: Maxima, acted: Sequence[int] = ()) -> list[str]:
    """One line for each intervention, with how often it acted where that is known."""
    counts = [f"; acted on {_count(count, 'token')}" for count in acted] or [""] * len(interventions)
    return [_words(one, maxima) + count for one, count in zip(interventions, counts, strict=True)]


def _words(one: Intervention, maxima: Maxima) -> str:
    """`13-res-sc:7 add +60 (2.1 × max) at all tokens`."""
    return f"{visible(str(one.feature))} {_deed(one, maxima)}{_unit(one)}{_where(one)}"


def _deed(one: Intervention, maxima: Maxima) -> str:
    match one.kind:
        case "add":
            return f"add {_strength(one, maxima, '+')}"
        case "clamp":
            return f"clamp to {_strength(one, maxima, '')}"
        case "scale":
            return f"scale by {one.strength:g}"
        case "rescale":
            return f"rescale its direction by {one.strength:g}"
        case "cap":
            return f"cap its direction at {one.strength:g}"
    match one.to:
        case "mean":
            return "ablate to the corpus mean"
        case "patch":
            return f"ablate to its value on {visible(one.patch or '')!r}"
        case "noise":
            return f"ablate to noise (seed {one.seed})"
    return "ablate to zero"


def _strength(one: Intervention, maxima: Maxima, sign: str) -> str:
    """A strength in its own unit, and in the other in brackets where the maximum is known."""
    largest = maxima.get(str(one.feature))
    if one.unit == "max":
        return f"{one.strength:{sign}g} × max" + (f" ({_number(one.strength * largest, sign)})" if largest else "")
    times = f" ({_number(one.strength / largest)} × max)" if largest and one.strength else ""
    return f"{one.strength:{sign}g}{times}"


def _unit(one: Intervention) -> str:
    return " along the unit vector" if one.unit_norm else ""


def _where(one: Intervention) -> str:
    special = "" if one.special else ", special ones left out"
    return f" at {_tokens_at(one.positions)}{special}"


def _tokens_at(positions: Positions) -> str:
    match positions.kind:
        case "all":
            return "all tokens"
        case "prompt":
            return "the prompt's tokens"
        case "generated":
            return "generated tokens"
    if positions.stop is None:
        return f"tokens from {positions.start} on"
    if positions.stop == positions.start + 1:
        return f"token {positions.start}"
    return f"tokens {positions.start} to {positions.stop - 1}"


# --- figures ------------------------------------------------------------------------------------------------------

_ARM_HEADS = ("KL first", "KL mean", "parts at", "perplexity")


def _figures(run: SteerResult) -> list[str]:
    """How far the arms are apart, and what became of the tokens watched."""
    mean = sum(run.kl) / len(run.kl) if run.kl else 0.0
    parted = "never" if run.first_divergence is None else f"at generated token {run.first_divergence}"
    first = f"KL {_number(run.kl[0])} nats at the first token, mean {_number(mean)}" if run.kl else "nothing generated"
    lines = [f"{first}; texts part {parted}"]
    if run.scores is not None:
        plain, steered = run.scores.plain_perplexity, run.scores.steered_perplexity
        lines.append(f"perplexity under the plain model: plain {_maybe(plain)}, steered {_maybe(steered)}")
    step = run.steps[0] if run.steps else None
    if run.watched and step is not None and step.plain is not None and step.steered is not None:
        triples = zip(run.watched, step.plain.watched, step.steered.watched, strict=True)
        moved = "  ".join(f"{visible_token(t.text)} {_number(a)} {_ARROW} {_number(b)}" for t, a, b in triples)
        lines.append(f"probability at the first token: {moved}")
    return lines


def _control(result: ControlResult) -> list[str]:
    """The arms beside one another."""
    heads = ["", *_ARM_HEADS, *map(_name, result.watched)]
    rows = [["plain", *_arm(result.plain, plain=True)], ["steered", *_arm(result.steered)]]
    rows += [[f"random direction {number}", *_arm(arm)] for number, arm in enumerate(result.controls)]
    return _table(heads, rows)


def _arm(arm: ArmFigures, *, plain: bool = False) -> list[str]:
    """One arm's columns; the plain arm does not differ from itself."""
    parted = "never" if arm.first_divergence is None else str(arm.first_divergence)
    distance = ["", "", ""] if plain else [_number(arm.kl_first), _number(arm.kl), parted]
    return [*distance, _maybe(arm.perplexity), *map(_number, arm.watched)]


def _changes(arm: ImpactArm, tokens: Sequence[Token]) -> list[str]:
    rows = [
        [
            visible(str(c.feature)), _number(c.before), _ARROW, _number(c.after), f"{c.after - c.before:+.3g}",
            _at(c.position, tokens),
        ]
        for c in arm.changes
    ]  # fmt: skip
    return _table(["feature", "before", "", "after", "change", "at"], rows, last_left=True) if rows else ["none"]


def _warnings(warnings: Iterable[str]) -> list[str]:
    """Each once, whichever run it is of."""
    return [f"caution: {visible(warning)}" for warning in dict.fromkeys(warnings)]


# --- words and numbers --------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, last_left: bool = False) -> list[str]:
    """Columns two spaces apart: the first to the left, numbers to the right, the last to the left where it is words."""
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    left = {0, len(heads) - 1} if last_left else {0}
    return [
        "  ".join(
            c.ljust(w) if n in left else c.rjust(w) for n, (c, w) in enumerate(zip(r, widths, strict=True))
        ).rstrip()
        for r in (heads, *rows)
    ]


def _name(token: Token) -> str:
    return f"p({visible_token(token.text)})"


def _at(position: int, tokens: Sequence[Token]) -> str:
    token = f" {visible_token(tokens[position].text)}" if position < len(tokens) else ""
    return f"{position}{token}"


def _span(values: Sequence[float]) -> str:
    ends = list(dict.fromkeys(_number(end) for end in (min(values), max(values)))) if values else []
    return "–".join(ends)


def _maybe(value: float | None) -> str:
    return "–" if value is None else _number(value)


def _number(value: float, sign: str = "") -> str:
    """Three significant digits, without an exponent where one can do without."""
    if abs(float(f"{value:.3g}")) >= 1000:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.3g}"


def _signed(value: float) -> str:
    return _number(value, "+") if value else "0"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _prose(text: str) -> str:
    return "\n".join(visible(line) for line in text.split("\n"))
