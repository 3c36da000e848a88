"""Random walks from a prompt's features, and what the model says on the way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.circuits.precision import computing_in
from engine.circuits.states import sink_places
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.memory.use import telling_out_of_memory
from engine.opening import OpenSet
from engine.studies.measure import Growing
from engine.studies.walk.passes import Passes
from engine.studies.walk.reading import Readings
from engine.studies.walk.steps import WAYS, Start, Way, possible, walker
from engine.studies.walk.tables import Found, Text, Walked, drawn_of, result
from engine.study_results import StudyResult
from engine.study_settings.walk import Walk

_ROUNDING = 1e-6
"""What rounding alone gives as a divergence, in nats."""


def measure(opened: OpenSet, settings: Walk, growing: Growing) -> StudyResult:
    """Walk from what the dictionary reads at the walked positions, W walks of every kind.

    At every step the point is read by the dictionary again, and put into the model in place of what was there: KL and
    loss of the next token, and at some steps the text that follows. Computed in float32, or the model's float64.

    Raises:
        BadRequest: an empty prompt or one of a single token, a way that is not one, a transcoder.
        OutOfMemory: a pass over the prompt does not fit.
    """
    ways = _ways(settings.ways)
    source = _source(opened, settings.source)
    ids = opened.checked_ids(settings.prompt, False, settings.tokens)
    if len(ids) < 2:
        raise BadRequest("The prompt is one token, and the first one is an attention sink.", "Use a longer prompt.")
    with telling_out_of_memory(), computing_in(opened.model, torch.float32) as dtype:
        growing.progress("reading the prompt")
        walk = _Walk(opened, settings, opened.dictionaries[source].in_precision(dtype), ids, ways, growing)
        return walk.whole()


def _ways(given: tuple[str, ...]) -> tuple[Way, ...]:
    if unknown := [way for way in given if way not in WAYS]:
        raise BadRequest(f"{unknown[0]!r} is not a way to walk.", f"Use {', '.join(WAYS)}.")
    return tuple(way for way in WAYS if not given or way in given)


def _source(opened: OpenSet, given: str | None) -> str:
    if given is not None:
        source = opened.sources_at(given)[0]
        if not _fits(opened.dictionaries[source]):
            raise BadRequest(
                f"{source} writes elsewhere than it reads, or reads whole prompts: one cannot walk from what it reads.",
                "Choose a sparse autoencoder of single tokens.",
            )
        return source
    fitting = sorted((d for d in opened.dictionaries.values() if _fits(d)), key=lambda d: d.site.depth)
    if not fitting:
        raise BadRequest("No open dictionary writes where it reads.", "Open a sparse autoencoder of single tokens.")
    return fitting[(len(fitting) - 1) // 2].source


def _fits(dictionary: Dictionary) -> bool:
    return dictionary.site == dictionary.write_site and not dictionary.whole_prompt and not dictionary.is_transcoder


@dataclass
class _Waiting:
    """Steps whose rows have not been through the model yet."""

    steps: list[int]
    moved: list[Tensor]
    figures: list[Tensor]
    lengths: list[Tensor]


class _Walk:
    """One study under way: the start, the passes, and what was found."""

    def __init__(
        self, opened: OpenSet, settings: Walk, dictionary: Dictionary, ids: list[int], ways: tuple[Way, ...],
        growing: Growing,
    ) -> None:  # fmt: skip
        self._opened, self._settings, self._growing = opened, settings, growing
        self._dictionary = dictionary
        model = opened.model
        x = model.capture(torch.tensor([ids], device=model.device), [dictionary.site], growing.job)[dictionary.site]
        with torch.inference_mode():
            held = x[0].reshape(len(ids), -1).to(dictionary.precision)
            sinks = sink_places(held[None])[0]
            sinks[0] = True
            places = torch.arange(len(ids), device=held.device)
            positions = places[-1:] if settings.positions == "last" else places[~sinks]
            if not len(positions):
                raise BadRequest("Every token of the prompt is an attention sink.", "Use a longer prompt.")
            here = held[positions]
            features = dictionary.encode(here)
            base = here if settings.errors == "keep" else dictionary.decode(features, here)
        self._start = Start(dictionary, here, features)
        possibly, left_out = possible(self._start, ways, settings.measured, asked=bool(settings.ways))
        self._shift = base - here
        """What leaving the errors out changes before the first step, [P, d]."""
        self._readings = Readings(dictionary, base)
        self._passes = Passes(model, ids, dictionary.site, positions, growing.job)
        self._likeliest = int(self._passes.plain.argmax())
        self._ways = possibly
        self._found = Found(
            prompt=settings.prompt,
            tokens=tuple(model.tokenizer.token(ids[p]).text for p in positions.tolist()),
            sink=bool(sinks[-1]) and settings.positions == "last",
            norm=float(here.norm(dim=1).mean()),
            active=float((features != 0).sum(1).double().mean()),
            likeliest=model.tokenizer.token(self._likeliest).text,
            ways=possibly,
            notes=left_out,
            drawn=drawn_of(len(possibly), settings.steps, settings.walks),
        )

    def so_far(self) -> StudyResult:
        return result(self._opened, self._dictionary, self._settings, self._found)

    def whole(self) -> StudyResult:
        """Walk every way that is possible."""
        for way in self._ways:
            self._go(way)
        return self.so_far()

    def _go(self, way: Way) -> None:
        """All walks of one kind, and the texts of the first of them."""
        settings, start = self._settings, self._start
        steps = walker(start, way, settings.walks, settings.length, settings.measured, settings.seed)
        speaking = _spread(settings.steps, settings.texts) if settings.tokens else []
        spoken: list[tuple[int, Tensor]] = []
        waiting = _Waiting([], [], [], [])
        for step in range(settings.steps + 1):
            self._growing.job.check()
            lengths = torch.full((settings.walks, 2), torch.nan, dtype=torch.float64)
            if step:
                taken = steps.step()
                for column, norms in enumerate(taken):
                    if norms is not None:
                        lengths[:, column] = norms.double().mean(1).cpu()
            moved = steps.moved()
            waiting.steps.append(step)
            waiting.moved.append(moved)
            waiting.figures.append(self._readings.figures(moved, steps.walked()))
            waiting.lengths.append(lengths)
            if step in speaking or (not step and settings.tokens and not self._found.texts):
                spoken.append((step, moved[0]))
            if len(waiting.steps) * settings.walks >= self._passes.rows or step == settings.steps:
                self._measure(way, waiting)
                waiting = _Waiting([], [], [], [])
        self._speak(way, spoken)

    def _measure(self, way: Way, waiting: _Waiting) -> None:
        """Put the points that wait into the model."""
        walks, size = self._settings.walks, self._passes.rows
        with torch.inference_mode():
            added = torch.cat(waiting.moved) + self._shift
        found = []
        for first in range(0, len(added), size):
            self._growing.rest()
            found.append(self._next_token(added[first : first + size]))
        figures = torch.cat(found).view(len(waiting.steps), walks, -1)
        for place, step in enumerate(waiting.steps):
            row = torch.cat([waiting.lengths[place], waiting.figures[place], figures[place]], 1)
            drawn, points = self._found.drawn, None
            if step in drawn.steps:
                with torch.inference_mode():
                    points = waiting.moved[place][: drawn.walks].mean(1).cpu()
            self._found.walked.append(Walked(way, step, row.mean(0), row[: drawn.walks].clone(), points))
        done = len(self._found.walked)
        total = len(self._found.ways) * (self._settings.steps + 1)
        self._growing.progress(f"walking: {way}", done, total)
        if self._growing.is_due:
            self._growing.grown(self.so_far())

    @torch.inference_mode()
    def _next_token(self, added: Tensor) -> Tensor:
        """KL(plain ‖ walked) in nats, the loss of the token likeliest without, and whether it still is: [R, 3]."""
        plain, after = self._passes.plain, self._passes.next_token(added)
        kl = (plain.exp() * (plain - after)).sum(1)
        kl = torch.where(kl > _ROUNDING, kl, 0.0)
        same = after.argmax(1) == self._likeliest
        return torch.stack([kl, -after[:, self._likeliest], same.double()], 1).cpu()

    def _speak(self, way: Way, spoken: list[tuple[int, Tensor]]) -> None:
        """Texts of the first walk, in one batch; each way takes its numbers from the walk's own row."""
        size = self._passes.rows
        rows = {walked.step: walked.figures[0] for walked in self._found.walked if walked.way == way}
        for first in range(0, len(spoken), size):
            self._growing.rest()
            self._growing.progress(f"continuing the text: {way}", first, len(spoken))
            part = spoken[first : first + size]
            with torch.inference_mode():
                added = torch.stack([moved for _, moved in part]) + self._shift
            texts = self._passes.texts(added, self._settings.tokens)
            for (step, _), text in zip(part, texts, strict=True):
                self._found.texts.append(Text("start" if not step else way, step, rows[step], text))


def _spread(steps: int, count: int) -> list[int]:
    """`count` of the steps 1 to `steps`, evenly, the last among them."""
    count = min(count, steps)
    return sorted({round(steps * n / count) for n in range(1, count + 1)})
