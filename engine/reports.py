"""Results as plain text for a terminal without the screen. Every string from a model passes `visible` first."""

from __future__ import annotations

from collections.abc import Sequence

from engine.protocol import FeatureCard, FeaturesResult, Provenance
from engine.sets import FieldSet, SetInfo
from engine.text import visible, visible_token


def features_text(result: FeaturesResult, per_token: bool) -> str:
    """A table of the top features, and with `per_token` the three strongest of every token."""
    first = "" if result.provenance.settings.get("first_position") == "ranked" else ", first position left out"
    lines = [f"{_count(len(result.tokens), 'token')}, ranked by {result.rank}{first}"]
    width = max((len(visible(h.source)) for h in result.features), default=6)
    lines.append(f"{'source':<{width}}  {'index':>6}  {'activation':>10}  at")
    for hit in result.features:
        where = visible_token(result.tokens[hit.position].text)
        lines.append(f"{visible(hit.source):<{width}}  {hit.index:>6}  {hit.activation:>10.4g}  {hit.position} {where}")
    if per_token:
        lines.append("")
        for position, (token, row) in enumerate(zip(result.tokens, result.per_token, strict=True)):
            best = "  ".join(f"{visible(result.sites[f.site].source)}:{f.index} {f.activation:.3g}" for f in row[:3])
            sink = " (sink)" if token.sink else ""
            lines.append(f"{position:>4} {visible_token(token.text):<16} {best}{sink}")
    return "\n".join([*lines, *notes_text(result.provenance)])


def notes_text(provenance: Provenance) -> list[str]:
    """What sets the numbers apart from those of others, each once, with the dictionaries it is said of."""
    said: dict[str, list[str]] = {}
    for source, notes in provenance.notes.items():
        for note in notes:
            said.setdefault(note.partition(" (")[0], []).append(source)
    lines = []
    for note, sources in said.items():
        more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
        lines.append(f"* {', '.join(map(visible, sources[:3]))}{more}: {visible(note)}")
    return ["", *lines] if lines else []


def card_text(card: FeatureCard) -> str:
    """Where a feature fires, with the peak of every context in brackets."""
    lines = [visible(str(card.ref))]
    if card.density is not None and card.max_activation is not None:
        lines.append(
            f"fires on {100 * card.density:.3g} % of {card.corpus_tokens:,} tokens, maximum {card.max_activation:.3g}"
        )
    else:
        lines.append("Its dictionary came without cards; this is what the weights alone say.")
    for context in card.contexts:
        pieces = [visible(t.text) for t in context.tokens]
        pieces[context.peak] = f"[{pieces[context.peak]}]"
        lines.append(f"{context.tokens[context.peak].value:8.3g}  {''.join(pieces)}  ({visible(context.origin)})")
    for name, tokens in (("promotes", card.promotes), ("suppresses", card.suppresses)):
        lines.append(f"{name}: " + "  ".join(f"{visible_token(t.text)} {t.value:+.2f}" for t in tokens))
    return "\n".join(lines)


def sets_text(found: Sequence[SetInfo | FieldSet]) -> str:
    """One paragraph a set."""
    blocks = [_set_text(info) if isinstance(info, SetInfo) else _field_set_text(info) for info in found]
    return "\n".join(blocks) or "No sets."


def _set_text(info: SetInfo) -> str:
    state = f"{info.model_bytes / 1e6:.0f} MB" if info.model_ready else "fetched and converted on first use, 540 MB"
    return (
        f"{visible(info.name)}: {visible(info.description)}\n"
        f"  model         {visible(info.model)} ({state})\n"
        f"  dictionaries  {visible(info.folder)} ({info.dictionary_bytes / 1e6:.0f} MB): "
        f"{', '.join(map(visible, info.dictionaries))}"
    )


def _field_set_text(info: FieldSet) -> str:
    """A set of the field, and how to get what of it is missing."""
    text = (
        f"{info.name}: {info.repo} with {', '.join(info.dictionaries)}\n"
        f"  model         {visible(info.folder) if info.folder else 'not on this machine'}\n"
        f"  dictionaries  {info.here} of {info.of} on this machine"
    )
    return "".join([text, *(f"\n  to fetch      {command}" for command in info.fetch)])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
