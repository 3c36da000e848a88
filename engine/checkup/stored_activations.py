"""What a dictionary gives here beside activations that were stored, under each convention they may have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.checkup.results import Convention, Fit, StoredComparison
from engine.checkup.stored_rows import Row, StoredRows
from engine.dictionary import Dictionary
from engine.job import Job
from engine.opening import OpenSet

_AT_ONCE = 8
_UNIT = 1e-3
"""Decoder rows this near to norm 1 need no folding."""
_SAME_MEDIAN, _SAME_R, _NEAR_R = 0.02, 0.98, 0.9


def compare(opened: OpenSet, dictionary: Dictionary, stored: StoredRows, job: Job) -> StoredComparison:
    """Compare with stored rows: raw or folded, with or without BOS, whichever fits."""
    rows = sorted(stored.rows, key=lambda row: len(row.ids))
    if not rows:
        return StoredComparison(
            stored.origin, 0, 0, stored.skipped, "nothing", (), f"Nothing to compare with: {stored.why}.",
            stored.notes,
        )  # fmt: skip
    bos_id = opened.model.tokenizer.bos_id
    folds = (False, True) if bool(((dictionary.decoder_norm - 1).abs() > _UNIT).any()) else (dictionary.is_folded,)
    found: list[Convention] = []
    for bos in (False, True) if bos_id is not None else (False,):
        pairs = _here(opened, dictionary, rows, bos_id if bos else None, job)
        found += [_convention(dictionary, pairs, rows, folded, bos) for folded in folds]
    # Without a difference the plainer convention is named: raw, and without BOS, which was tried first.
    found.sort(key=lambda c: (round(c.median_deviation, 4), -round(c.correlation, 4), c.folded))
    fit, sentence = _judged(found[0], len(folds) > 1 or dictionary.is_folded)
    return StoredComparison(
        origin=stored.origin,
        rows=len(rows),
        features=len({row.index for row in rows}),
        skipped=stored.skipped,
        fit=fit,
        conventions=tuple(found),
        sentence=sentence,
        notes=stored.notes,
    )


def _here(
    opened: OpenSet, dictionary: Dictionary, rows: Sequence[Row], bos_id: int | None, job: Job
) -> list[tuple[Tensor, Tensor]]:
    """What every row's feature is on its tokens here and as stored; a BOS token itself is left out of both."""
    found: list[tuple[Tensor, Tensor]] = []
    own_bos, first = opened.model.tokenizer.bos_id, [] if bos_id is None else [bos_id]
    for group in [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]:
        job.progress(
            f"comparing stored activations {'without' if bos_id is None else 'with'} BOS", len(found), len(rows)
        )
        skips = [int(own_bos is not None and row.ids[0] == own_bos) for row in group]
        texts = [[*first, *row.ids[skip:]] for row, skip in zip(group, skips, strict=True)]
        batch = torch.zeros(len(group), max(map(len, texts)), dtype=torch.long)
        for number, ids in enumerate(texts):  # padded at the right, which a causal model never sees
            batch[number, : len(ids)] = torch.tensor(ids)
        caught = opened.model.capture(batch.to(opened.model.device), [dictionary.site], job)[dictionary.site]
        for row, skip, ids, x in zip(group, skips, texts, caught, strict=True):
            with torch.inference_mode():
                index = torch.tensor([row.index], device=x.device)
                values = dictionary.feature_rows(x[: len(ids)].flatten(1), index, whole=True)[0].float().cpu()
            found.append((values[len(first) :], torch.tensor(row.values[skip:])))
    return found


def _convention(
    dictionary: Dictionary, pairs: Sequence[tuple[Tensor, Tensor]], rows: Sequence[Row], folded: bool, bos: bool
) -> Convention:
    """How well one convention fits: deviations where either fires, as shares of the row's stored maximum."""
    deviations, ours, theirs = [], [], []
    for (here, stored), row in zip(pairs, rows, strict=True):
        norm = float(dictionary.decoder_norm[row.index])
        factor = 1.0 if folded == dictionary.is_folded else norm if folded else 1 / max(norm, 1e-8)
        value = here * factor
        scale = float(stored.abs().max()) or float(value.abs().max()) or 1.0
        fires = (value != 0) | (stored != 0)
        deviations.append(((value - stored).abs() / scale)[fires])
        ours.append(value)
        theirs.append(stored)
    apart = torch.cat(deviations)
    if not len(apart):
        apart = torch.zeros(1)
    together = torch.corrcoef(torch.stack([torch.cat(ours), torch.cat(theirs)]).double())[0, 1]
    return Convention(folded, bos, float(apart.median()), float(apart.max()), float(together.nan_to_num(0.0)))


def _judged(best: Convention, named: bool) -> tuple[Fit, str]:
    """How well the best convention fits; `named` where raw and folded differ."""
    which = ("f·‖W_dec‖" if best.folded else "raw f") if named else "f (decoder rows have norm 1)"
    how = f"{which}, {'with' if best.bos else 'without'} BOS"
    quality = (
        f"median deviation {best.median_deviation:.2%}, largest {best.largest_deviation:.1%}, r {best.correlation:.3f}"
    )
    if best.median_deviation <= _SAME_MEDIAN and best.correlation > _SAME_R:
        return "same", f"The stored activations are {how}: {quality}."
    if best.correlation > _NEAR_R:
        return "near", f"The stored activations come nearest to {how}, but are not the same: {quality}."
    return "other", f"The stored activations are not those of this dictionary here; nearest is {how}: {quality}."
