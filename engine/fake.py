"""A fake engine that speaks the real protocol: instant, deterministic, with faults on demand. For tests and demos.

`python -m engine.fake [GATE]` serves it as a process, which opens once the file GATE exists. Tokens are words; a
feature fires where a word's checksum says so.
The prompt steers it: `/slow N` works N seconds, `/fail` reports an error, `/die` ends the process. A label
`/fail` is refused.
"""

from __future__ import annotations

import os
import re
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from engine import fake_circuit, fake_labels, fake_steering, fake_study
from engine.errors import BadRequest, PromptTooLong
from engine.job import Job
from engine.protocol import (
    AnyRequest,
    CardRead,
    Circuit,
    CircuitSite,
    Context,
    Counted,
    DictionaryInfo,
    Done,
    FeatureCard,
    FeatureRef,
    FeaturesFound,
    FeaturesResult,
    HintsRead,
    Hit,
    LabelSet,
    LabelsFound,
    ListHints,
    MeasureControl,
    MeasureFaithfulness,
    MeasureImpact,
    MeasureStudy,
    MeasureSweep,
    Memory,
    ModelInfo,
    NextToken,
    NextTokensFound,
    Open,
    Opened,
    Prepare,
    Provenance,
    RankAblations,
    Row,
    RowRead,
    Run,
    SearchLabels,
    SetLabel,
    ShowCard,
    SiteFigures,
    Steer,
    Token,
    TokenFeature,
    Tokenised,
    TokenValue,
    Trace,
    TryText,
    Verify,
)

LAYERS = (4, 9, 14)
FEATURES = 4096
CONTEXT = 512
_WORDS = re.compile(r"\s*\S+|\s+")


class FakeEngine:
    """Answers like `engine.core.Engine`, from arithmetic."""

    def __init__(self, gate: Path | None = None) -> None:
        self._gate = gate
        self._open = False
        self._words: list[str] = []
        self._circuit: Circuit | None = None
        self._steering = fake_steering.FakeSteering(_PROVENANCE)
        self._labels = fake_labels.FakeLabels(tuple(d.source for d in _DICTIONARIES))

    def count(self, prompt: str, chat: bool) -> Counted | None:
        return Counted(tokens=len(_words(prompt)), limit=CONTEXT) if self._open else None

    def handle(self, request: AnyRequest, job: Job) -> None:
        match request:
            case Open():
                self._opened(job)
            case Run():
                self._run(request, job)
            case Row():
                job.emit(RowRead(id=job.id, feature=request.feature, values=_row(self._words, request.feature)))
            case ShowCard():
                card = msgspec.structs.replace(fake_card(request.feature), labels=self._labels.of(request.feature))
                job.emit(CardRead(id=job.id, card=card))
            case ListHints():
                hints = {str(f): f"·word{f.index % 7} ·{f.source}" for f in request.features}
                job.emit(HintsRead(id=job.id, hints=hints, labels=self._labels.best(request.features)))
            case SearchLabels():
                job.emit(LabelsFound(id=job.id, result=self._labels.search(request)))
            case SetLabel():
                job.emit(LabelSet(id=job.id, feature=request.feature, labels=self._labels.put(request)))
            case Prepare():
                pass  # whatever it asks for is at hand
            case Steer():
                self._steering.steer(request, job, _words(request.prompt), _orders(request.prompt, job))
            case MeasureControl():
                self._steering.control(request, job, _orders(request.steer.prompt, job))
            case MeasureSweep():
                self._steering.sweep(request, job, _orders(request.steer.prompt, job))
            case MeasureImpact():
                self._impact(request, job)
            case RankAblations():
                self._ablations(request, job)
            case Trace():
                self._trace(request, job)
            case Verify():
                fake_circuit.verify(request, job, self._circuit)
            case MeasureFaithfulness():
                fake_circuit.measure(request, job, self._circuit)
            case MeasureStudy():
                fake_study.measure(request.settings, job, _DICTIONARIES, _PROVENANCE)
            case TryText():
                words = _words(request.text)
                fake_study.try_text(request, job, words, _row(words, request.feature), 44.1)
            case _:
                raise BadRequest(f"{type(request).__name__} is not a request of this engine.")
        job.emit(Done(id=job.id, seconds=0.01, memory=_MEMORY))

    def _opened(self, job: Job) -> None:
        job.progress("loading the fake model", 0, 100)
        while self._gate is not None and not self._gate.exists():
            time.sleep(0.1)
            job.progress("loading the fake model", 50, 100)
        self._open = True
        job.emit(Opened(id=job.id, model=_MODEL, dictionaries=_DICTIONARIES, memory=_MEMORY, seconds=0.01))

    def _run(self, request: Run, job: Job) -> None:
        words = _words(request.prompt)
        if not words:
            raise BadRequest("The prompt is empty.", "Type some text.")
        if len(words) > CONTEXT:
            raise PromptTooLong(f"The prompt has {len(words)} tokens; the model reads {CONTEXT}.", "Shorten it.")
        self._words = words
        tokens = tuple(Token(id=zlib.crc32(w.encode()) % 49152, text=w, sink=i == 0) for i, w in enumerate(words))
        job.emit(Tokenised(id=job.id, tokens=tokens))
        _obey(request.prompt, job)
        job.emit(FeaturesFound(id=job.id, result=_result(request, tokens, words)))
        following = tuple((NextToken(1, " of", 0.41), NextToken(2, " is", 0.22)) for _ in words)
        if request.next_tokens:
            job.emit(NextTokensFound(id=job.id, next_tokens=following))

    def _impact(self, request: MeasureImpact, job: Job) -> None:
        _obey(request.prompt, job, seconds_each=0.1)
        self._steering.impact(request, job, _words(request.prompt), [(d.source, d.hook) for d in _DICTIONARIES])

    def _ablations(self, request: RankAblations, job: Job) -> None:
        words = _words(request.prompt)
        asked = Run(id=request.id, prompt=request.prompt, top=request.candidates, sources=request.sources)
        found = _result(asked, tuple(map(fake_steering.token, words)), words)
        strongest = [(hit.ref, hit.activation, hit.position) for hit in found.features]
        self._steering.ablations(request, job, words, strongest, _orders(request.prompt, job))

    def _trace(self, request: Trace, job: Job) -> None:
        prompt = request.prompt or (request.pairs[0].clean if request.pairs else "")
        request = msgspec.structs.replace(request, prompt=prompt)
        self._circuit = fake_circuit.trace(
            request, job, _words(prompt), _SITES, _PROVENANCE, lambda: _obey(prompt, job)
        )


def _words(text: str) -> list[str]:
    return _WORDS.findall(text)


def _obey(prompt: str, job: Job, seconds_each: float | None = None) -> None:
    """Do what the prompt orders."""
    if "/die" in prompt:
        os._exit(3)
    if "/fail" in prompt:
        raise BadRequest("This prompt asks the fake engine to fail.", "Ask for something else.")
    if match := re.search(r"/slow (\d+)", prompt):
        end = time.monotonic() + (seconds_each if seconds_each is not None else float(match[1]))
        while time.monotonic() < end:
            job.check()
            time.sleep(0.01)


def _orders(prompt: str, job: Job) -> Callable[[], None]:
    """What to do before every word that is generated."""
    return lambda: _obey(prompt, job, seconds_each=0.05)


def _activation(word: str, feature: FeatureRef) -> float:
    """One word in nine fires a feature, with a value of 1 to 40."""
    checksum = zlib.crc32(f"{word.strip()}|{feature}".encode())
    return round(1 + checksum % 3900 / 100, 2) if checksum % 9 == 0 else 0.0


def _row(words: list[str], feature: FeatureRef) -> tuple[float, ...]:
    return tuple(5000.0 if i == 0 else _activation(w, feature) for i, w in enumerate(words))


def _result(request: Run, tokens: tuple[Token, ...], words: list[str]) -> FeaturesResult:
    sources = [d.source for d in _DICTIONARIES if not request.sources or d.source in request.sources]
    hits = []
    for source in sources:
        for index in range(0, 60 * 31, 31):
            row = _row(words, FeatureRef(source, index))
            counted = row[1:] or row
            best = max(counted)
            if best > 0:
                score = {"max": best, "sum": sum(counted), "mean": sum(counted) / len(counted)}[request.rank]
                hits.append(Hit(source, index, score, row.index(best, len(row) - len(counted)), row))
    hits.sort(key=lambda h: (-h.activation, h.source, h.index))
    per_token = tuple(
        tuple(
            sorted(
                (
                    TokenFeature(site, index, value)
                    for site, source in enumerate(sources)
                    for index in range(0, 40 * 31, 31)
                    if (value := _row(words, FeatureRef(source, index))[position]) > 0
                ),
                key=lambda f: -f.activation,
            )
        )
        for position in range(len(words))
    )
    return FeaturesResult(
        model=_MODEL.name,
        prompt=request.prompt,
        chat=request.chat,
        rank=request.rank,
        tokens=tokens,
        features=tuple(hits[: request.top]) + _more_of_each_site(hits, request),
        sites=tuple(
            SiteFigures(s, f"blocks.{s.split('-')[0]}.hook_resid_post", 32.0, 0.85, 100, 40.0) for s in sources
        ),
        per_token=per_token,
        strength=tuple(max((f.activation for f in row), default=0.0) / 40 for row in per_token),
        provenance=_PROVENANCE,
        seconds=0.01,
    )


def _more_of_each_site(hits: list[Hit], request: Run) -> tuple[Hit, ...]:
    first = (
        hit
        for source in {h.source for h in hits}
        for hit in [h for h in hits if h.source == source][: request.per_site]
    )
    return tuple(sorted(set(first) - set(hits[: request.top]), key=lambda h: (-h.activation, h.source, h.index)))


def fake_card(ref: FeatureRef) -> FeatureCard:
    """A card with every field filled."""
    tokens = tuple(TokenValue(f" word{i}", 40.0 if i == 6 else (12.0 if i == 5 else 0.0)) for i in range(12))
    return FeatureCard(
        ref=ref,
        density=0.0031,
        max_activation=44.1,
        contexts=tuple(Context("web", tokens, 6) for _ in range(10)),
        promotes=tuple(TokenValue(f" up{i}", 1.5 - i / 10) for i in range(10)),
        suppresses=tuple(TokenValue(f" down{i}", -1.5 + i / 10) for i in range(10)),
        histogram=(320, 200, 140, 90, 60, 40, 30, 22, 16, 11, 8, 6, 4, 3, 2, 1),
        corpus_tokens=300_000,
    )


_MEMORY = Memory(used=1 << 30, total=16 << 30)
_MODEL = ModelInfo(
    name="fake-1l", folder="/nowhere", architecture="FakeForCausalLM", layers=16, d_model=8, context=CONTEXT,
    parameters=1_000_000, device="cpu", dtype="float32", sha256="f" * 64, bos="off", chat=True,
)  # fmt: skip
_DICTIONARIES = tuple(
    DictionaryInfo(
        source=f"{layer}-res-fk", hook=f"blocks.{layer}.hook_resid_post", layer=layer, architecture="topk",
        formula="top 32 of (x − b_dec)·W_enc + b_enc, relu", d_in=8, d_sae=FEATURES, folder="/nowhere",
        sha256="d" * 64, neuronpedia=f"fake-1l/{layer}-res-fk" if layer == 9 else None, has_cards=True,
    )
    for layer in LAYERS
)  # fmt: skip
_SITES = tuple(CircuitSite(d.source, d.hook, d.layer, d.d_sae, 0.0, 0.0, 0) for d in _DICTIONARIES)
_PROVENANCE = Provenance(
    model="fake-1l", model_sha256="f" * 64, dictionaries={d.source: d.sha256 for d in _DICTIONARIES},
    hooks={d.source: d.hook for d in _DICTIONARIES}, device="cpu", dtype="float32", bos="off", settings={},
    versions={"saescope": "0"},
)  # fmt: skip


def main() -> None:
    from engine.server import Server, protect_stdout

    outgoing = protect_stdout()
    gate = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    Server(FakeEngine(gate), sys.stdin.buffer, outgoing).serve()


if __name__ == "__main__":
    main()
