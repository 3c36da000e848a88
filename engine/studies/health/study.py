"""Dictionary health: reconstruction, frequencies, dead and rare features, and what the weights say, over any text.

After the 1L notebook (Nanda 2023): one pass over the text counts, further passes over a part of it measure losses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from engine.corpus.blocks import CONTEXTS_AHEAD, ahead
from engine.corpus.text import LeftOut, contexts_of, documents_of, name_of_text
from engine.errors import BadRequest, Cancelled
from engine.opening import OpenSet
from engine.studies.health import state as health_state
from engine.studies.health.state import State
from engine.studies.health.tables import Found, dictionaries_table, feature_tables, figures_of, histogram_tables
from engine.studies.health.tally import Firing, read_contexts
from engine.studies.health.weights import Weights, weights_of
from engine.studies.measure import Growing
from engine.studies.parts import chosen, result_of
from engine.study_results import StudyResult
from engine.study_settings.health import Health
from engine.training.corpus import Context
from engine.training.evaluate import mean_loss, replacements
from engine.training.tally import Tally, Trial

ROWS = 16
"""Contexts the model reads at a time."""
SAVE_EVERY = 5.0
"""Seconds between two states on disk: what a kill can cost."""


def measure(opened: OpenSet, settings: Health, growing: Growing) -> StudyResult:
    """Figures of every dictionary over the text, and tables of their features.

    Raises:
        BadRequest: the text cannot be read or holds too little, or the state to go on from is not of this study.
    """
    return _Study(opened, settings, growing).measure()


class _Study:
    def __init__(self, opened: OpenSet, settings: Health, growing: Growing) -> None:
        self.opened, self.settings, self.growing = opened, settings, growing
        self.dictionaries = chosen(opened, settings.sources)
        self.state: State = health_state.fresh(self.dictionaries, settings)
        self.file = Path(settings.resume).expanduser() if settings.resume is not None else None
        self.same = health_state.identity(opened, settings, self.dictionaries)
        self.weights: list[Weights] = []
        self.resumed = 0
        self.left_out = LeftOut()
        self._saved = time.perf_counter()

    def measure(self) -> StudyResult:
        settings = self.settings
        contexts = contexts_of(
            self.opened, documents_of(settings.text), settings.context, settings.tokens, self.left_out
        )
        stream: Iterator[Context] = ahead(contexts, self.growing.job, CONTEXTS_AHEAD)
        if self.file is not None:
            health_state.check_writable(self.file)
            health_state.load(self.file, self.same, self.state)
            if self.state.read:
                self.growing.progress("finding the place in the text", 0, self.state.tokens)
                self.resumed = self.state.tokens
            health_state.pass_over(stream, self.state, self.file, self.growing)
        try:
            self._read(stream)
            self._measure_losses()
        except Cancelled:  # raised between batches, or in the forward pass before anything of it is counted
            self._save()
            raise
        self._save()
        return self._result(whole=True)

    def _read(self, stream: Iterator[Context]) -> None:
        """Count over the rest of the text."""
        state, growing = self.state, self.growing
        while group := list(islice(stream, ROWS)):
            growing.rest()
            growing.progress("reading text", state.tokens, self.settings.tokens)
            read_contexts(self.opened.model, state.firings, group, growing.job)
            state.take(group)
            if growing.is_due:
                growing.grown(self._result(whole=False))
            if time.perf_counter() - self._saved > SAVE_EVERY:
                self._save()
        if not state.read:
            raise BadRequest("The text holds no stretch of 16 tokens or more.", "Give more or longer text.")

    def _measure_losses(self) -> None:
        """Losses with and without each dictionary, a pass over the chosen contexts for each."""
        contexts = self.state.spread.contexts
        if not contexts:
            return
        losses, growing, model = self.state.losses, self.growing, self.opened.model
        if "plain" not in losses:
            losses["plain"] = mean_loss(model, None, None, contexts, ROWS, growing.job, "plain loss")
        for firing in self.state.firings:
            source = firing.dictionary.source
            for how, replace in replacements(firing.dictionary, _as_tally(firing)).items():
                if (name := f"{source} {how}") in losses:
                    continue
                growing.rest()
                losses[name] = mean_loss(model, firing.dictionary, replace, contexts, ROWS, growing.job, f"{name} loss")
                if time.perf_counter() - self._saved > SAVE_EVERY:
                    self._save()
            if growing.is_due:
                growing.grown(self._result(whole=False))

    def _save(self) -> None:
        if self.file is not None:
            health_state.save(self.file, self.same, self.state)
        self._saved = time.perf_counter()

    def _result(self, *, whole: bool) -> StudyResult:
        """What is there; features one by one only in the end."""
        if not self.weights:
            self.growing.progress("reading weights")
            self.weights = [weights_of(dictionary) for dictionary in self.dictionaries]
        found = [
            Found.of(firing, weights, self.settings.rare, self.state)
            for firing, weights in zip(self.state.firings, self.weights, strict=True)
        ]
        figures, meanings = figures_of(found, self.state)
        tables, views = histogram_tables(found)
        more_tables, more_views, sets = feature_tables(found, self.settings.top) if whole else ([], [], [])
        return result_of(
            self.opened,
            self.dictionaries,
            self.settings,
            f"Health of {_named(self.dictionaries)} on {name_of_text(self.settings.text)}",
            figures=figures,
            meanings=meanings,
            tables=(dictionaries_table(found), *tables, *more_tables),
            views=(*views, *more_views),
            sets=tuple(sets),
            notes=tuple(self._notes(found)),
        )

    def _notes(self, found: Sequence[Found]) -> Iterator[str]:
        counted = min(f.firing.counted for f in found)
        yield (
            "First tokens of contexts and attention sinks (norm over four medians) count for nothing but losses. "
            "Losses are of all tokens, and the first position of a context is never replaced."
        )
        yield "Rare are features below the threshold, dead ones too; their mean encoder row is of rows as they are."
        if counted * self.settings.rare < 1:
            yield (
                f"{counted:,} counted tokens are few for a threshold of {self.settings.rare:g}: a feature that fires "
                "once is above it, so that only dead ones are rare."
            )
        yield from filter(None, [self.left_out.note()])
        if not self.settings.loss_tokens:
            yield "Losses were not measured."
        if any(f.dictionary.kind == "identity" for f in found):
            yield "Raw neurons have neither encoder nor decoder rows; every one that is not exactly zero fires."
        if any(f.dictionary.kind == "matching_pursuit" for f in found):
            yield "Matching pursuit has no encoder rows."
        if any(f.dictionary.write_site != f.dictionary.site for f in found):
            yield (
                "Of a transcoder, variance and losses are those of what it writes; its encoder and decoder rows are "
                "not compared, since they are of different spaces."
            )
        if any(f.dictionary.signed for f in found):
            yield "Activations that have a sign count by their size."
        if self.resumed:
            yield f"{self.resumed:,} tokens had been read before; the state is in {self.file}."


def _as_tally(firing: Firing) -> Tally:
    """What the mean ablation needs of it."""
    tally = Tally(Trial.own(firing.dictionary))
    tally.every = firing.variance
    return tally


def _named(dictionaries: Sequence[object]) -> str:
    sources = [str(getattr(d, "source", d)) for d in dictionaries]
    return ", ".join(sources) if len(sources) <= 3 else f"{len(sources)} dictionaries"
