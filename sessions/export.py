"""A session's marks as Neuronpedia quicklists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from engine.errors import SessionError
from engine.results import FeatureRef
from sessions.links import entry, has_page
from sessions.model import Session, neuronpedia_ids
from sessions.quicklist import FormChoice, grouped, quicklist_urls


class Exported(msgspec.Struct, frozen=True):
    """Addresses, and what had to be left out."""

    urls: tuple[str, ...]
    notes: tuple[str, ...] = ()


def export_quicklist(session: Session, name: str | None = None, form: FormChoice = "auto") -> Exported:
    """The addresses for the features marked in a session.

    Raises:
        SessionError: nothing is marked, or no marked feature has a page.
        BadRequest: the name is blank, or too long for an address.
    """
    if not session.marks:
        raise SessionError("No feature is marked in this session.", "Mark features with the space bar.")
    title = name if name is not None else session.title.strip() or "saescope features"
    return export_features(title, session.marks, neuronpedia_ids(session), form, ("marked features", "marked"))


def export_features(
    title: str,
    features: Sequence[FeatureRef],
    pages: Mapping[str, str],
    form: FormChoice,
    called: tuple[str, str],
) -> Exported:
    """The addresses for features in their order; `pages` are the Neuronpedia ids of sources.

    Those without a page are left out and said; `called` is what messages call all of them, and those left out.

    Raises:
        SessionError: none has a page.
        BadRequest: the title is blank, or too long for an address.
    """
    ids = {source: page for source, page in pages.items() if has_page(page)}  # an id comes from a file
    known = [entry(ids[ref.source], ref.index) for ref in features if ref.source in ids]
    without = ", ".join(sorted({ref.source for ref in features if ref.source not in ids}))
    if not known:
        raise SessionError(
            f"None of the {called[0]} has a Neuronpedia page (sources {without}).",
            "Only dictionaries with a neuronpedia_id in their cfg.json have pages.",
        )
    notes = []
    if left_out := len(features) - len(known):
        notes.append(f"Left out, for want of a Neuronpedia page: {left_out} {called[1]} of {without}.")
    urls = tuple(quicklist_urls(title, known, form))
    if form == "nested" and grouped(known) != known:
        notes.append("Nested addresses group features by source; the order inside a source is kept.")
    return Exported(urls, tuple(notes))
