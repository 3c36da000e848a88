"""Logit effects: which output tokens the decoder row of a feature raises and lowers.

W_dec[i] (· W_out, at the input of the map that writes into the stream) · γ · W_U, γ the gain of the final norm, which
TransformerLens folds into W_U; after the last block that is, with the norm's size frozen, the rest of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.corpus.text import LeftOut, name_of_text
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.knowledge import in_the_stream
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.results import FeatureRef
from engine.sites import Site
from engine.studies.health.weights import excess_kurtosis
from engine.studies.logits.norm import final_norm_of, frozen_norm, sizes_where_firing
from engine.studies.measure import Growing
from engine.studies.parts import bin_columns, features_of, result_of, table
from engine.study_results import AnyView, Bars, Column, Histogram, StudyResult, Table
from engine.study_settings.logits import Logits

_BINS = 60
_MOST_HISTOGRAMS = 12
_INSIDE_A_BLOCK = {"ln1_normalized", "ln2_normalized", "hook_mlp_in", "mlp_in"}
"""Kinds of sites that only a block's own maps read: what is there is not added to the stream."""


@dataclass(frozen=True)
class Effects:
    """Of one feature on every token of the vocabulary, [V], median zero, on the CPU.

    Attributes:
        through: with the gain of the final norm; the same as `plain` where the norm is not known.
        plain: W_dec · W_U alone, as on feature cards.
        direct: whether nothing but the final norm and the unembedding comes after.
        size: the median of what the norm divides by, where that was measured.
    """

    ref: FeatureRef
    through: Tensor
    plain: Tensor
    direct: bool
    size: float | None = None

    @property
    def shown(self) -> Tensor:
        """Logits per unit of activation; at a norm of size one where the size was not measured."""
        return self.through if self.size is None else self.through / self.size


def measure(opened: OpenSet, settings: Logits, growing: Growing) -> StudyResult:
    """The tokens every feature named promotes and suppresses most, and how its effects are distributed.

    Raises:
        BadRequest: a feature is not open, or its dictionary does not write into the residual stream by a linear map.
    """
    refs = features_of(opened, settings.features)
    effects: list[Effects] = []
    for number, ref in enumerate(refs):
        growing.progress("reading weights", number, len(refs))
        growing.rest()
        effects.append(_effects(opened, ref))
        if growing.is_due and not settings.tokens:  # without sizes effects would change their scale in between
            growing.grown(_result(opened, settings, effects))
    if not settings.tokens:
        return _result(opened, settings, effects)

    def sized(sizes: Mapping[FeatureRef, float], left_out: LeftOut) -> StudyResult:
        known = [replace(found, size=sizes[found.ref]) for found in effects]
        return _result(opened, settings, known, left_out)

    return sized(*sizes_where_firing(opened, settings, refs, growing, lambda *so_far: growing.grown(sized(*so_far))))


def _result(
    opened: OpenSet, settings: Logits, effects: Sequence[Effects], left_out: LeftOut | None = None
) -> StudyResult:
    refs = [found.ref for found in effects]
    notes = [*_notes(opened, effects, settings), *filter(None, [left_out.note() if left_out else None])]
    return result_of(
        opened,
        opened.choose(tuple({ref.source for ref in refs})),
        settings,
        f"Logit effects of {', '.join(map(str, refs[:3]))}{' …' if len(refs) > 3 else ''}",
        tables=(_tokens_table(opened, effects, settings.top), _features_table(effects), _distribution(effects)),
        views=tuple(_views(effects)),
        notes=tuple(notes),
    )


def logit_effects(model: LanguageModel, dictionary: Dictionary, index: int) -> tuple[Tensor, Tensor]:
    """[V] logits per unit of activation, with the final norm's gain and without; median zero, in float32 at least.

    Raises:
        BadRequest: what the dictionary writes does not go into the residual stream by a linear map.
    """
    site = dictionary.write_site
    row = dictionary.decoder[index].detach().to(torch.promote_types(model.dtype, torch.float32))
    direction = in_the_stream(model, site, row) if site.kind not in _INSIDE_A_BLOCK else None
    if direction is None:
        raise BadRequest(
            f"{dictionary.source} does not write into the residual stream: {site.hook} is not one linear map from it.",
            "Choose a dictionary at resid_post, mlp_out, attn_out, mlp_post or hook_z.",
        )
    direction = direction.to(model.device)
    unembedding = model.unembedding.to(direction.dtype)
    with torch.inference_mode():
        plain = unembedding @ direction
        through = unembedding @ (frozen_norm(model, direction))
    return _shifted(through), _shifted(plain)


def _shifted(logits: Tensor) -> Tensor:
    """Less the median, the mean of the two middle ones where their number is even."""
    return (logits - torch.quantile(logits.double(), 0.5).to(logits.dtype)).cpu()


def is_direct(model: LanguageModel, site: Site) -> bool:
    """Whether nothing but the final norm and the unembedding reads what is written at a site."""
    if site.layer != model.layers - 1 or site.kind == "embed":
        return False
    if site.kind in {"attn_out", "hook_z"}:  # where attention and MLP run side by side no MLP comes after it
        return any(getattr(model.config, name, False) for name in ("use_parallel_residual", "attn_only"))
    return site.kind in {"resid_post", "mlp_out", "mlp_raw_out", "mlp_post"}


# --- results ----------------------------------------------------------------------------------------------------------


def _effects(opened: OpenSet, ref: FeatureRef) -> Effects:
    dictionary = opened.find(ref.source, ref.index)
    through, plain = logit_effects(opened.model, dictionary, ref.index)
    return Effects(ref, through, plain, is_direct(opened.model, dictionary.write_site))


def _tokens_table(opened: OpenSet, effects: Sequence[Effects], top: int) -> Table:
    rows = []
    for found in effects:
        shown = found.shown
        for largest, kind in ((True, "promoted"), (False, "suppressed")):
            best = shown.topk(min(top, len(shown)), largest=largest)
            for place, (value, token) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True), 1):
                text = opened.model.tokenizer.token(token).text
                rows.append((found.ref, kind, place, text, token, value, float(found.plain[token])))
    columns = (
        Column("feature", "feature"),
        Column("direction", help="promoted or suppressed"),
        Column("rank", "count"),
        Column("token", "token"),
        Column("id", "count", "The token's id."),
        Column(
            "effect",
            "signed",
            "Change of its logit per unit of activation with the gain of the final norm, over that of the median "
            "token; at a norm of size one unless the size was measured.",
        ),
        Column("without gain", "signed", "W_dec · W_U over its median, as on feature cards."),
    )
    return table("tokens", "Tokens promoted and suppressed", columns, rows)


def _features_table(effects: Sequence[Effects]) -> Table:
    """How the effects on all tokens are distributed: a few strong ones show as skewness and kurtosis."""
    columns = (
        Column("feature", "feature"),
        Column("way", help="direct: through all that comes after; lens: later layers are left out."),
        Column("norm size", "number", "Median of what the final norm divides by where the feature fires; if measured."),
        Column("deviation", "number", "Standard deviation of the effect over the vocabulary."),
        Column("skewness", "signed", "Third standardised moment of the effect; large where it promotes few tokens."),
        Column("kurtosis", "number", "Excess kurtosis of the effect; 0 for a normal distribution."),
        Column("agreement", "signed", "Correlation of the effect with and without the gain."),
    )
    rows = []
    for found in effects:
        shown = found.shown.double()
        off = shown - shown.mean()
        deviation = off.square().mean().sqrt()
        rows.append(
            (
                found.ref,
                "direct" if found.direct else "lens",
                found.size,
                float(deviation),
                float(off.pow(3).mean() / deviation**3),
                float(excess_kurtosis(shown[None])),
                float(torch.corrcoef(torch.stack([shown, found.plain.double()]))[0, 1]),
            )
        )
    return table("features", "Features", columns, rows)


def _distribution(effects: Sequence[Effects]) -> Table:
    """Histograms over the vocabulary in bins that the features share."""
    drawn = effects[:_MOST_HISTOGRAMS]
    shown = torch.stack([found.shown.double() for found in drawn])
    low, high = float(shown.min()), float(shown.max())
    edges = torch.linspace(low, high if high > low else low + 1, _BINS + 1, dtype=torch.float64)
    counts = []
    for row in shown:
        place = (torch.bucketize(row, edges, right=True) - 1).clamp(0, _BINS - 1)
        counts.append(torch.bincount(place, minlength=_BINS).tolist())
    columns = (
        *bin_columns("Effect", "signed"),
        *(Column(str(found.ref), "count", "Tokens of the vocabulary.") for found in drawn),
    )
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), *counts, strict=True)
    return table("distribution", "Tokens of the vocabulary by effect", columns, rows)


def _views(effects: Sequence[Effects]) -> Iterator[AnyView]:
    yield Bars(title="Logit effects", table="tokens", label="token", values=("effect",))
    for found in effects[:_MOST_HISTOGRAMS]:
        yield Histogram(
            title=f"Effects of {found.ref} on all tokens",
            table="distribution",
            low="low",
            high="high",
            counts=(str(found.ref),),
            log=True,
        )


def _notes(opened: OpenSet, effects: Sequence[Effects], settings: Logits) -> Iterator[str]:
    model = opened.model
    if any(found.direct for found in effects):
        yield (
            "direct: only the final norm, its size frozen, and the unembedding come after. The norm's bias and a cap "
            "on logits are left out."
        )
    if not all(found.direct for found in effects):
        yield "lens: later layers are left out, as if the feature's direction went straight to the final norm."
    if final_norm_of(model) is None:
        yield f"The final norm of {model.name} is not known: effects are without its gain."
    elif settings.tokens:
        yield (
            f"Effects are divided by the norm's size, the median over tokens of {name_of_text(settings.text)} on which "
            "the feature fires, or over all where it fires on none."
        )
    else:
        yield "Effects are at a norm of size one: comparable within a feature; --tokens measures the size."
    if len(effects) > _MOST_HISTOGRAMS:
        yield f"Histograms are of the first {_MOST_HISTOGRAMS} features."
