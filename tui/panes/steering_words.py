"""The lines around the texts of the steering pane: settings, figures, what is under the text cursor, first steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.style import Style
from rich.text import Text

from engine.protocol import Choice, NextToken
from themes.palettes import BARS
from tui.panes.steering_text import KL_TOP, SIDE_BY_SIDE, choices_at, kl_at, raised
from tui.state import State
from tui.steering_state import Texts, diverging
from tui.text import cell_len, number, signed, visible, visible_token
from tui.widgets.bar import shortened

StyleOf = Callable[[str], Style]
_ROOMY = 90


def settings(state: State, width: int, style: StyleOf) -> tuple[Text, Text]:
    """How texts are drawn, and on the right how far apart they are; figures that have no room are left out."""
    sampling, dim = state.steering.sampling, style("dim")
    parts = [f"seed {sampling.seed}", f"T {number(sampling.temperature)}"]
    parts.append("error kept" if sampling.keep_error else "error dropped")
    for text, usual in (
        (f"top-p {number(sampling.top_p)}", sampling.top_p == 1),
        (f"top-k {sampling.top_k}", sampling.top_k == 0),
        (f"penalty {number(sampling.repetition_penalty)}", sampling.repetition_penalty == 1),
    ):
        parts += [] if usual else [text]
    line = Text(" ")
    if state.steering.live:
        line.append("live", style("accent") + Style(bold=True))
        line.append(" · ", dim)
    line.append(" · ".join(parts), dim)
    right = Text()
    room = width - cell_len(line.plain) - 3
    for figure in figures(state.steering.texts):
        joined = f"{' · ' if right.plain else ''}{figure}"
        if cell_len(joined) <= room:
            right.append(joined)
            room -= cell_len(joined)
    right.append(" ")
    return line, right


def figures(texts: Texts | None) -> list[str]:
    """How the arms differ, in order of importance."""
    if texts is None or not (texts.kl or texts.plain or texts.steered):
        return []
    found = []
    if texts.scores is not None and texts.scores.kl:
        found.append(f"mean KL {number(sum(texts.scores.kl) / len(texts.scores.kl))}")
    elif texts.kl:
        found.append(f"first KL {number(texts.kl[0])}")
    parted = diverging(texts)
    if parted is not None:
        found.append(f"parts at {parted}")
    elif texts.ended:
        found.append("the same text")
    scores = texts.scores
    if scores is not None and scores.plain_perplexity is not None and scores.steered_perplexity is not None:
        found.append(f"ppl {number(scores.plain_perplexity)} → {number(scores.steered_perplexity)}")
    return found


def note(state: State, width: int, style: StyleOf) -> Text:
    """One line above the details: what cannot act, or what the colours mean."""
    texts = state.steering.texts
    if texts is None:
        return Text()
    if texts.warnings:
        more = f" (and {len(texts.warnings) - 1} more like it)" if len(texts.warnings) > 1 else ""
        return Text(f" ! {visible(texts.warnings[0])}{more}", style("warning"))
    if texts.ended and texts.steps and texts.scores is None:
        return Text(" Cut off here; Enter generates it anew.", style("warning"))
    if texts.changes and texts.changes[-1].step > 0:
        steps = ", ".join(str(change.step) for change in texts.changes[-8:])
        return Text(f" strengths changed from token {steps} on", style("dim"))
    if state.steering.colour == "kl":
        legend = (
            f" steered tokens by KL: 0 {BARS.strip()} {KL_TOP:g} nats" if width >= 50 else f" colour: KL to {KL_TOP:g}"
        )
    elif texts.scores is None:
        legend = " steered tokens by KL; by change of probability once both texts are there"
    else:
        legend = " steered tokens by p(steered) − p(plain), after the same text"
    return Text(f"{legend} · f changes" if width >= 70 else legend, style("dim"))


def details(state: State, width: int, style: StyleOf) -> tuple[Text, Text]:
    """What both arms did at the token under the text cursor, in two lines."""
    texts, token, dim = state.steering.texts, state.steering.token, style("dim")
    if texts is None:
        return Text(), Text()
    plain, steered = choices_at(texts, token)
    if plain is None and steered is None:
        return Text(" This text was kept without its steps." if texts.plain and not texts.steps else "", dim), Text()
    roomy = width >= SIDE_BY_SIDE
    parts = [(f"token {token}" if roomy else str(token), "")]
    names = ("plain", "steered") if roomy else ("", "│")
    parts += [(name, _drawn(choice, width)) for name, choice in zip(names, (plain, steered), strict=True)]
    parts += _watched(texts, plain, steered)
    if (kl := kl_at(texts, token)) is not None:
        parts.append(("KL", number(kl)))
    if (change := raised(texts, token)) is not None:
        parts.append(("raised", signed(change)))
    first, gap = Text(), "  " if roomy else " "
    for name, value in parts:
        size = cell_len(f"{name} {value}".strip())
        if cell_len(first.plain) + len(gap) + size >= width:
            continue  # what is next may have room
        first.append(gap if first.plain else " ")
        first.append(f"{name} " if name and value else name, dim)
        first.append(value)
    half = max((width - 10) // 2, 10)
    second = Text(" next: ", dim)
    second.append(_next(plain.next if plain else (), half))
    second.append(" │ ", dim)
    second.append(_next(steered.next if steered else (), half))
    return first, second


def _drawn(choice: Choice | None, width: int) -> str:
    if choice is None:
        return "ended"
    room = 24 if width >= _ROOMY else 12 if width >= SIDE_BY_SIDE else 8
    return f"{shortened(visible_token(choice.token.text), room)} {_probability(choice.probability)}"


def _probability(value: float) -> str:
    """Two digits, as everywhere where several stand in a line; small ones as they are."""
    return f"{value:.2f}".lstrip("0") if value >= 0.01 else number(value)


def _watched(texts: Texts, plain: Choice | None, steered: Choice | None) -> list[tuple[str, str]]:
    """The tokens asked for with their probabilities in both arms."""
    lines = []
    for place, text in enumerate(texts.watched):
        before, after = (
            _probability(choice.watched[place]) if choice is not None and place < len(choice.watched) else "–"
            for choice in (plain, steered)
        )
        lines.append((visible_token(text), f"{before} → {after}"))
    return lines


def _next(tokens: Sequence[NextToken], room: int) -> str:
    """The likeliest tokens, as many as have room."""
    line = ""
    for token in tokens:
        part = f"{' ' if line else ''}{shortened(visible_token(token.text), 14)} {_probability(token.probability)}"
        if cell_len(line) + cell_len(part) > room:
            break
        line += part
    return line or "–"


def first_steps(state: State, part: StyleOf) -> Text:
    """What to do where there is no text yet."""
    dim = part("dim")
    if state.task("steer"):
        return Text(" generating …", dim)
    if not state.steering.rows:
        return Text()
    if state.replaying:
        return Text(" Nothing was generated for this prompt in this recording.", dim)
    return Text(" ← → change the strength and generate; Enter generates.", dim)
