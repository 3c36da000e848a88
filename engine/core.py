"""The engine: how each request is answered. One request at a time; cancelling is the job's."""

from __future__ import annotations

import time

import msgspec

from engine.answer import Answer, Question
from engine.circuits.tracer import Tracer
from engine.errors import BadRequest
from engine.features import Readings, read_prompt
from engine.job import Job
from engine.knowledge import feature_card, hint
from engine.labels.answers import best_labels, search, set_label
from engine.memory.use import memory_in_use
from engine.opening import OpenSet, describe, open_set
from engine.protocol import (
    AblationsRanked,
    AnyRequest,
    CardRead,
    Counted,
    Done,
    FeaturesFound,
    FeaturesResult,
    HintsRead,
    ImpactFound,
    LabelSet,
    LabelsFound,
    ListHints,
    MeasureControl,
    MeasureFaithfulness,
    MeasureImpact,
    MeasureStudy,
    MeasureSweep,
    NextTokensFound,
    Open,
    Opened,
    Prepare,
    RankAblations,
    Row,
    RowRead,
    Run,
    SearchLabels,
    SetLabel,
    ShowCard,
    Steer,
    Tokenised,
    Trace,
    TryText,
    Verify,
)
from engine.reading import plain_numbers
from engine.steering.impact import measure_impact
from engine.steering.ranking import rank_ablations
from engine.steering.steerer import Steerer
from engine.studies.measure import measure_study
from engine.trying import try_text


class Engine:
    """Holds one open set and the readings of the last prompt."""

    def __init__(self) -> None:
        self._opened: OpenSet | None = None
        self._readings: Readings | None = None
        self._tracer: Tracer | None = None
        self._steerer: Steerer | None = None

    @property
    def opened(self) -> OpenSet:
        """What is open. Raises BadRequest where nothing is."""
        if self._opened is None:
            raise BadRequest("No model is open yet.", "Send `open` first.")
        return self._opened

    def handle(self, request: AnyRequest, job: Job) -> None:
        """Answer one request with events; the last one is `Done`.

        Raises:
            SaescopeError: what went wrong, with a remedy.
            Cancelled: the job was cancelled.
        """
        started = time.perf_counter()
        match request:
            case Open():
                self._open(request, job)
            case Run():
                self._run(request, job)
            case Row():
                self._row(request, job)
            case ShowCard():
                job.emit(CardRead(id=job.id, card=feature_card(self.opened, request.feature)))
            case ListHints():
                hints = {str(f): hint(self.opened, f) for f in request.features}
                job.emit(HintsRead(id=job.id, hints=hints, labels=best_labels(self.opened, request.features)))
            case SearchLabels():
                job.emit(LabelsFound(id=job.id, result=search(self.opened, request)))
            case SetLabel():
                labels = set_label(self.opened, request)
                job.emit(LabelSet(id=job.id, feature=request.feature, labels=labels))
            case Prepare():
                self._steering().prepare(request, job)
            case Steer():
                self._steering().steer(request, job)
            case MeasureControl():
                self._steering().control(request, job)
            case MeasureSweep():
                self._steering().sweep(request, job)
            case MeasureImpact():
                job.emit(ImpactFound(id=job.id, result=measure_impact(self.opened, request, job)))
            case RankAblations():
                job.emit(AblationsRanked(id=job.id, result=rank_ablations(self.opened, request, job)))
            case Trace():
                self._tracing().trace(request, job)
            case Verify():
                self._tracing().verify(request, job)
            case MeasureFaithfulness():
                self._tracing().faithfulness(request, job)
            case MeasureStudy():
                measure_study(self.opened, request.settings, job)
            case TryText():
                job.emit(try_text(self.opened, request, job))
            case _:
                raise BadRequest(f"{type(request).__name__} is not a request of this engine.")
        memory = memory_in_use(self.opened.model.device)
        job.emit(Done(id=job.id, seconds=time.perf_counter() - started, memory=memory))

    def count(self, prompt: str, chat: bool) -> Counted | None:
        """How many tokens a text is, or None while no model is open."""
        if self._opened is None:
            return None
        return Counted(tokens=len(self._opened.ids(prompt, chat)), limit=self._opened.model.context)

    def _tracing(self) -> Tracer:
        if self._tracer is None:
            self._tracer = Tracer(self.opened)
        return self._tracer

    def _steering(self) -> Steerer:
        if self._steerer is None:
            self._steerer = Steerer(self.opened)
        return self._steerer

    def _open(self, request: Open, job: Job) -> None:
        started = time.perf_counter()
        self._opened = self._readings = self._tracer = self._steerer = None  # what was open makes room
        self._opened = open_set(request, job)
        job.emit(
            Opened(
                id=job.id,
                model=self._opened.info(),
                dictionaries=tuple(describe(d, self._opened.plan) for d in self._opened.dictionaries.values()),
                memory=memory_in_use(self._opened.model.device),
                seconds=time.perf_counter() - started,
                plan=self._opened.plan,
            )
        )

    def _run(self, request: Run, job: Job) -> None:
        opened = self.opened
        chosen = opened.choose(request.sources)
        ids = opened.checked_ids(request.prompt, request.chat)
        tokens = tuple(map(opened.model.tokenizer.token, ids))
        job.emit(Tokenised(id=job.id, tokens=tokens))
        question = Question(
            request.rank, request.top, request.per_site, request.per_token, request.next_tokens, request.keep_sinks
        )
        settings = {
            "rank": request.rank,
            "first_position": "ranked" if request.keep_sinks or len(ids) == 1 else "left out",
            "top": request.top,
            "activations": "f·‖W_dec‖" if opened.folded else "raw",
        }

        def found(answer: Answer) -> None:
            marked = (msgspec.structs.replace(t, sink=s) for t, s in zip(tokens, answer.sinks, strict=True))
            result = FeaturesResult(
                model=opened.model.name,
                prompt=request.prompt,
                chat=request.chat,
                rank=request.rank,
                tokens=tuple(marked),
                features=answer.hits,
                sites=answer.figures,
                per_token=answer.per_token,
                strength=answer.strength,
                provenance=opened.provenance(chosen, settings),
                seconds=answer.seconds,
            )
            job.emit(FeaturesFound(id=job.id, result=result))

        self._readings, following = read_prompt(opened.model, chosen, ids, question, job, found)
        if following:
            job.emit(NextTokensFound(id=job.id, next_tokens=following))

    def _row(self, request: Row, job: Job) -> None:
        feature = request.feature
        self.opened.find(feature.source, feature.index)
        reading = self._readings.by_source.get(feature.source) if self._readings else None
        if reading is None:
            raise BadRequest(f"{feature.source} has not read a prompt yet.", "Run the prompt first.")
        job.emit(RowRead(id=job.id, feature=feature, values=plain_numbers(reading.row(feature.index))))
