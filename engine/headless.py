"""The engine without a screen: one request after another in this process, for the command line and for scripts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from engine import default_model, paths, resolving, sets
from engine.documents import to_json
from engine.errors import BadRequest, SaescopeError
from engine.interrupts import interrupts_kept, interrupts_later
from engine.job import Job
from engine.protocol import (
    AnyRequest,
    CardRead,
    Event,
    FeatureCard,
    FeaturesFound,
    FeaturesResult,
    NextTokensFound,
    Open,
    Progress,
    Rank,
    Run,
    ShowCard,
    parse_feature,
)

Report = Callable[[str, int, int], None]
E = TypeVar("E", bound=Event)


class Headless:
    """An engine in this process; progress goes to `report`, everything else is returned."""

    def __init__(self, report: Report) -> None:
        with interrupts_later():
            from engine.core import Engine

        self.engine = Engine()
        self._report = report

    def ask(self, request: AnyRequest) -> list[Event]:
        """All events that answer a request, progress excepted."""
        events: list[Event] = []

        def emit(event: Event) -> None:
            if isinstance(event, Progress):
                self._report(event.text, event.done, event.total)
            else:
                events.append(event)

        try:
            with interrupts_kept():
                self.engine.handle(request, Job(request.id, emit))
        finally:
            self._report("", 0, 0)
        return events

    def grow(self, request: AnyRequest, kind: type[E]) -> E:
        """The last event of a kind that answers a request; interrupted, the last there was.

        Raises:
            KeyboardInterrupt: it was interrupted before there was one.
        """
        found: list[E] = []

        def emit(event: Event) -> None:
            if isinstance(event, Progress):
                self._report(event.text, event.done, event.total)
            elif isinstance(event, kind):
                found[:] = [event]

        try:
            with interrupts_kept():
                self.engine.handle(request, Job(request.id, emit))
        except KeyboardInterrupt:
            if not found:
                raise
        finally:
            self._report("", 0, 0)
        return found[-1]


def _only(events: list[Event], kind: type[E]) -> E:
    return next(event for event in events if isinstance(event, kind))


def features(
    opening: Open,
    prompt: str,
    *,
    top: int,
    rank: str,
    per_token: bool,
    sites: Sequence[str],
    keep_first: bool,
    chat: bool,
    report: Report,
) -> FeaturesResult:
    """The top features of a prompt; `sites` are sources or hook names."""
    if rank not in get_args(Rank):
        raise BadRequest(f"{rank!r} is not a ranking.", "Use max, sum or mean.")
    headless = Headless(report)
    headless.ask(opening)
    sources = tuple(source for site in sites for source in headless.engine.opened.sources_at(site))
    request = Run(
        id=2,
        prompt=prompt,
        chat=chat,
        rank=rank,  # type: ignore[arg-type]
        top=top,
        per_token=top if per_token else 1,
        sources=sources,
        next_tokens=5 if per_token else 0,
        keep_sinks=keep_first,
    )
    events = headless.ask(request)
    result = _only(events, FeaturesFound).result
    following = [event.next_tokens for event in events if isinstance(event, NextTokensFound)]
    return msgspec.structs.replace(result, next_tokens=following[0]) if following else result


def card(opening: Open, feature: str, *, report: Report) -> FeatureCard:
    """The card of one feature."""
    ref = parse_feature(feature)
    headless = Headless(report)
    headless.ask(opening)
    return _only(headless.ask(ShowCard(id=2, feature=ref)), CardRead).card


def places() -> dict[str, str | list[str]]:
    """Where the default model and dictionaries, settings, sessions, caches and logs lie."""
    try:
        dictionaries = resolving.resolve(None, ()).dictionaries
    except SaescopeError:  # the default set is damaged or gone: all the more reason to say where the rest lies
        dictionaries = ()
    return {
        "model": str(default_model.folder()),
        "dictionaries": [str(place.path) for place in dictionaries],
        "config": str(paths.config_dir()),
        "state": str(paths.state_dir()),
        "sessions": str(paths.sessions_dir()),
        "cache": str(paths.cache_dir()),
        "data": str(paths.data_dir()),
        "log": str(paths.log_file()),
    }


def features_json(result: FeaturesResult, per_token: bool) -> str:
    """The documented shape: model, tokens, features, provenance; with `per_token` also the features of each token."""
    document: dict[str, Any] = {
        "model": result.model,
        "prompt": result.prompt,
        "rank": result.rank,
        "tokens": result.tokens,
        "features": result.features,
        "sites": result.sites,
        "provenance": result.provenance,
    }
    if per_token:
        document["per_token"] = [
            [{"source": result.sites[f.site].source, "index": f.index, "activation": f.activation} for f in row]
            for row in result.per_token
        ]
        document["next_tokens"] = [
            [{"id": n.id, "text": n.text, "probability": n.probability} for n in row] for row in result.next_tokens
        ]
    return to_json(document)


def train_set(
    *,
    text: Sequence[Path],
    layers: str,
    name: str,
    out: Path | None,
    held_out: Sequence[Path],
    card_text: Sequence[Path],
    card_sources: Sequence[str],
    caps: Sequence[str],
    tokens: int | None,
    samples: int,
    latents: int,
    k: int,
    seed: int,
    work: Path | None,
    model: Path | None,
    device: str,
    dtype: str,
    report: Report,
) -> None:
    """`saescope train`: parse what was typed, open the model, run the pipeline."""
    from engine.loading import open_model
    from engine.training.pipeline import Recipe, train_set
    from engine.training.train import TrainSettings

    def emit(event: Event) -> None:
        if isinstance(event, Progress):
            report(event.text, event.done, event.total)

    if not re.fullmatch(r"\w[\w.-]*", name):
        raise BadRequest(f"{name!r} is not a name for a set.", "Use letters, digits, dots and hyphens.")
    if k > latents:
        raise BadRequest(f"Of {latents} features {k} cannot be active.", "Give a smaller --k or more --latents.")
    job = Job(0, emit)
    recipe = Recipe(
        layers=_layers(layers),
        name=name,
        text=tuple(text),
        held_out=tuple(held_out),
        card_text=tuple(card_text),
        card_sources=frozenset(card_sources) or None,
        caps=_caps(caps),
        tokens=tokens,
        settings=TrainSettings(samples=samples, latents=latents, k=k, seed=seed),
    )
    folder = model or default_model.ensure(job)
    opened = open_model(folder, device, dtype, name=default_model.NAME if model is None else None, job=job)
    for site in recipe.sites:
        opened.check_site(site)
    target = out or sets.user_sets_dir() / name
    reference = sets.DEFAULT_MODEL if model is None else str(folder.resolve())
    train_set(opened, recipe, target, work or paths.cache_dir() / "activations" / name, reference, job)
    report("", 0, 0)


def _layers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise BadRequest(f"{text!r} is not a list of layers.", "Write them like 4,9,14.")
    return tuple(sorted(set(map(int, parts))))


def _caps(given: Sequence[str]) -> dict[str, int]:
    caps = {}
    for entry in given:
        source, _, count = entry.partition("=")
        if not source or not count.isdigit():
            raise BadRequest(f"{entry!r} is not a cap.", "Write SOURCE=TOKENS, e.g. pydoc=500000.")
        caps[source] = int(count)
    return caps
