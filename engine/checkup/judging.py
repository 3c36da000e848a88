"""What the figures of a dictionary mean: one word, sentences, and whether it belongs where it is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.checkup.hooks import BETTER, place
from engine.checkup.published import L0, LOSS_MEAN, LOSS_ZERO, VARIANCE, Published, expected_site, published
from engine.checkup.results import CheckUp, Figure, HookReading, Losses, StoredComparison, Verdict
from engine.dictionary import Dictionary
from engine.names.models import mismatch
from engine.opening import OpenSet
from engine.training.evaluate import Figures

L0_FACTOR, L0_FAR = 1.6, 3.0
"""Within the first factor an L0 agrees with a published one; beyond the second the hook is doubted."""
SHARE_APART, SHARE_FAR = 0.06, 0.25
"""The same for explained variance and loss recovered, as differences: samples differ, and so do conventions."""
CLEARLY_BETTER = 0.08
"""By how much more variance another place must explain to be called the right one; less is a doubt."""
_POOR = 0.3


def judge(
    opened: OpenSet,
    dictionary: Dictionary,
    measured: Figures,
    readings: tuple[HookReading, ...],
    text: str,
    bos: bool,
    stored: StoredComparison | None,
) -> CheckUp:
    """A dictionary's check-up: what was measured on `text`, and what it means."""
    known = published(dictionary)
    figures = (
        _figure(L0, measured.l0, known),
        _figure(VARIANCE, measured.explained_variance, known),
        _figure(LOSS_ZERO, measured.loss_recovered_zero, known),
        _figure(LOSS_MEAN, measured.loss_recovered, known),
    )
    verdict, sentences = _verdict(dictionary, figures, readings, stored)
    if (other := mismatch(opened.model.name, dictionary.metadata.get("model_name"))) is not None:
        sentences.append(other)
    far = any(figure.far for figure in figures) or (stored is not None and stored.fit == "other")
    norms = dictionary.decoder_norm
    return CheckUp(
        source=dictionary.source,
        model=opened.model.name,
        hook=dictionary.site.hook,
        hook_out=dictionary.write_site.hook,
        form=dictionary.form,
        formula=dictionary.formula,
        features=dictionary.d_sae,
        sample=text,
        tokens=measured.tokens,
        bos=bos,
        figures=figures,
        losses=Losses(
            measured.loss_clean, measured.loss_spliced, measured.loss_mean_ablated, measured.loss_zero_ablated,
            measured.loss_tokens,
        ),
        silent=measured.dead_fraction,
        decoder_norms=(float(norms.min()), float(norms.median()), float(norms.max())),
        readings=readings,
        verdict=verdict,
        belongs=not far and verdict not in ("wrong hook", "doubtful hook", "poor"),
        sentences=tuple(sentences),
        notes=tuple(note for note in dictionary.notes if note not in sentences),
        stored=stored,
    )  # fmt: skip


def _figure(name: str, measured: float, known: dict[str, Published]) -> Figure:
    beside = known.get(name)
    if beside is None or not math.isfinite(measured):
        return Figure(name, measured)
    if name == L0:
        ratio = measured / beside.value if beside.value > 0 else math.inf
        agrees = 1 / L0_FACTOR <= ratio <= L0_FACTOR
        far = not 1 / L0_FAR <= ratio <= L0_FAR
        said = _l0_sentence(ratio)
    else:
        apart = measured - beside.value
        agrees, far = abs(apart) <= SHARE_APART, apart < -SHARE_FAR
        word = "Explained variance" if name == VARIANCE else "Loss recovered"
        said = f"{word} is {measured:.2f} where {beside.value:.2f} was published"
    sentence = "" if agrees else said + (": is the hook right?" if far else ".")
    return Figure(name, measured, beside.value, beside.origin, agrees, far, sentence)


def _l0_sentence(ratio: float) -> str:
    if ratio == 0:
        return "Nothing fires"
    times = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
    share = f"1/{1 / ratio:.0f}" if ratio < 0.1 else f"{ratio:.2f}"
    return f"L0 is {times} times the published one" if ratio > 1 else f"L0 is {share} of the published one"


def _verdict(
    dictionary: Dictionary,
    figures: Sequence[Figure],
    readings: Sequence[HookReading],
    stored: StoredComparison | None,
) -> tuple[Verdict, list[str]]:
    """One word, and sentences, the most important first."""
    told = [figure.sentence for figure in figures if figure.sentence]
    if stored is not None and stored.fit == "other":
        told.insert(0, "Its activations here are not those that were stored.")
    own, best = readings[0], max(readings, key=lambda reading: reading.explained_variance)
    expected = expected_site(dictionary)
    gain = best.explained_variance - own.explained_variance
    evs = f"(EV {best.explained_variance:.2f})", f"(EV {own.explained_variance:.2f})"
    if gain > CLEARLY_BETTER and best.explained_variance > _POOR:
        return "wrong hook", [f"It reads best at {_where(best)} {evs[0]}, not at {_where(own)} {evs[1]}.", *told]
    if expected is not None and place(expected) != place(dictionary.site):
        said = f"Its publishers say that it reads {expected.hook}; here it reads {dictionary.site.hook}."
        return "wrong hook", [said, *told]
    if gain > BETTER and best.explained_variance > _POOR:
        said = f"It reads better at {_where(best)} {evs[0]} than at {_where(own)} {evs[1]}: is the hook right?"
        return "doubtful hook", [said, *told]
    if told:
        return "differs", told
    if stored is not None and stored.fit == "same":
        return "agrees", []
    if own.explained_variance < _POOR:
        return "poor", ["It reconstructs little here: is this its model, and are its settings whole?"]
    if any(figure.agrees for figure in figures):
        return "agrees", []
    return "nothing to compare", ["No published figures are known here; it reads no other hook better."]


def _where(reading: HookReading) -> str:
    return reading.hook if reading.hook == reading.hook_out else f"{reading.hook} → {reading.hook_out}"
