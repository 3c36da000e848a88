"""Activations that Neuronpedia stored, beside what the same dictionary gives here.

A file holds one JSON object a line, also gzipped: `modelId`, `layer` (the source), `index`, `tokens`, `values`. Rows
are streamed and never trusted to be in order. Tokens are text there and are matched to ids one by one: re-encoding the
joined text could cut it elsewhere.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from engine.checkup.results import Convention, StoredComparison
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.job import Job
from engine.opening import OpenSet
from engine.text import visible
from engine.tokenizer import TextTokenizer

MOST_ROWS = 200
_LONGEST_LINE = 1 << 24
_MOST_LINES = 2_000_000
_UNIT = 1e-3
"""Decoder rows this near to norm 1 need no folding."""


@dataclass(frozen=True)
class Row:
    """One stored text with one feature's activation on every token."""

    index: int
    ids: tuple[int, ...]
    values: tuple[float, ...]


def compare_stored(opened: OpenSet, dictionary: Dictionary, file: Path, job: Job) -> StoredComparison:
    """Compare with the rows of `file` that are of this dictionary, at most 200.

    Raises:
        BadRequest: the file cannot be read, or holds no row of this dictionary.
    """
    rows, skipped = read_rows(file, dictionary, opened.model.tokenizer, opened.model.context - 1)
    bos_id = opened.model.tokenizer.bos_id
    folds = (False, True) if bool(((dictionary.decoder_norm - 1).abs() > _UNIT).any()) else (dictionary.is_folded,)
    boss = (False, True) if bos_id is not None else (False,)
    found: list[Convention] = []
    for bos in boss:
        job.progress("comparing stored activations", len(found), len(boss) * len(folds))
        pairs = [_here(opened, dictionary, row, bos_id if bos else None) for row in rows]
        found += [_convention(dictionary, pairs, rows, folded, bos) for folded in folds]
    # Without a difference the plainer convention is named: raw, and the BOS rule that is in force.
    found.sort(key=lambda c: (round(c.median_deviation, 4), -round(c.correlation, 4), c.folded))
    values = sum(int(((here != 0) | (stored != 0)).sum()) for here, stored in pairs)
    return StoredComparison(
        file=file.name,
        rows=len(rows),
        values=values,
        skipped=skipped,
        conventions=tuple(found),
        sentence=_sentence(found, len(folds) > 1, dictionary.is_folded),
    )


def _here(opened: OpenSet, dictionary: Dictionary, row: Row, bos_id: int | None) -> tuple[Tensor, Tensor]:
    """What the feature is on the row's tokens here and in the file; a BOS token itself is left out of both."""
    own_bos = opened.model.tokenizer.bos_id
    begins = own_bos is not None and row.ids[0] == own_bos
    text, stored = (row.ids[1:], row.values[1:]) if begins else (row.ids, row.values)
    ids = text if bos_id is None else (bos_id, *text)
    batch = torch.tensor([list(ids)], device=opened.model.device)
    x = opened.model.capture(batch, [dictionary.site])[dictionary.site][0].flatten(1)
    with torch.inference_mode():
        index = torch.tensor([row.index], device=x.device)
        values = dictionary.feature_rows(x, index, whole=True)[0].float().cpu()
    return values[len(ids) - len(text) :], torch.tensor(stored)


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
    together = torch.corrcoef(torch.stack([torch.cat(ours), torch.cat(theirs)]))[0, 1]
    return Convention(folded, bos, float(apart.median()), float(apart.max()), float(together.nan_to_num(0.0)))


def _sentence(found: Sequence[Convention], foldable: bool, is_folded: bool) -> str:
    best = found[0]
    which = ("f·‖W_dec‖" if best.folded else "raw f") if foldable or is_folded else "f (decoder rows have norm 1)"
    how = f"{which}, {'with' if best.bos else 'without'} BOS"
    quality = (
        f"median deviation {best.median_deviation:.2%}, largest {best.largest_deviation:.1%}, r {best.correlation:.3f}"
    )
    if best.median_deviation <= 0.02 and best.correlation > 0.98:
        return f"The stored activations are {how}: {quality}."
    if best.correlation > 0.9:
        return f"The stored activations come nearest to {how}, but are not the same: {quality}."
    return f"The stored activations are not those of this dictionary here; nearest is {how}: {quality}."


# --- reading --------------------------------------------------------------------------------------------------------


def read_rows(file: Path, dictionary: Dictionary, tokenizer: TextTokenizer, longest: int) -> tuple[list[Row], int]:
    """The first rows of this dictionary, and how many were skipped because their tokens are not the tokenizer's.

    Raises:
        BadRequest: unreadable, no JSON lines, or nothing in it is of this dictionary.
    """
    named = dictionary.metadata.get("neuronpedia_id")
    source = str(named).partition("/")[2] if named else dictionary.source
    spellings = Spellings(tokenizer)
    rows: list[Row] = []
    skipped, others = 0, set()
    for record in _records(file):
        if (layer := record.get("layer")) is not None and layer != source:
            others.add(str(layer))
            continue
        if (row := _row(record, spellings, dictionary.d_sae, longest)) is None:
            skipped += 1
        else:
            rows.append(row)
        if len(rows) == MOST_ROWS:
            break
    if rows:
        return rows, skipped
    if skipped:
        raise BadRequest(
            f"The tokens of {skipped} rows of {source} in {file.name} are not those of this model.",
            "Is it a file of the model that is open?",
        )
    held = f"It holds {', '.join(sorted(map(visible, others))[:5])}." if others else "It holds no rows at all."
    raise BadRequest(f"{file.name} holds no activations of {source}.", held)


def _row(record: dict[str, Any], spellings: Spellings, d_sae: int, longest: int) -> Row | None:
    """A row whose every token is one of the tokenizer's; None for any other."""
    tokens, values = record.get("tokens"), record.get("values")
    try:
        index = int(record.get("index", -1))
    except (TypeError, ValueError):
        return None
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        return None
    if not 1 < len(tokens) <= longest or not 0 <= index < d_sae:
        return None
    ids = [spellings.id_of(token) if isinstance(token, str) else None for token in tokens]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if None in ids or len(numbers) != len(values):
        return None
    return Row(index, tuple(i for i in ids if i is not None), tuple(numbers))


class Spellings:
    """From a token's text, however Neuronpedia spells it, to its id."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._ids: dict[str, int] = {}
        for token_id in range(tokenizer.size):
            stored = tokenizer.stored_token(token_id)
            if stored is None:
                continue
            shown = tokenizer.token(token_id)
            # The bytes as text come first; the vocabulary's own spelling is used where they are no whole character.
            readable = stored.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n").replace("ĉ", "\t")
            for text in (shown.text, stored, readable, shown.text.replace("\n", "↵")):
                self._ids.setdefault(text, token_id)

    def id_of(self, text: str) -> int | None:
        return self._ids.get(text)


def _records(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with _open(file) as lines:
            for number in range(1, _MOST_LINES):
                line = lines.readline(_LONGEST_LINE)
                if not line:
                    return
                if len(line) == _LONGEST_LINE:
                    raise BadRequest(f"{file.name}, line {number} is longer than 16 MB.", "Give an export file.")
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError("no object")
                    yield record
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror or error}.", "Check the name of the file.") from None
    except (ValueError, EOFError, zlib.error, RecursionError):
        raise BadRequest(
            f"{file.name} is damaged or no file of JSON lines.", "Give an activations/batch-N.jsonl.gz of an export."
        ) from None


def _open(file: Path) -> IO[str]:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8")
    return file.open(encoding="utf-8")
