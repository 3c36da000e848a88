"""A session's marks as Neuronpedia quicklists."""

from __future__ import annotations

import msgspec

from engine.errors import SessionError
from sessions.model import Session, neuronpedia_ids
from sessions.quicklist import entry, quicklist_urls


class Exported(msgspec.Struct, frozen=True):
    """Addresses, and what had to be left out."""

    urls: tuple[str, ...]
    notes: tuple[str, ...] = ()


def export_quicklist(session: Session, name: str | None = None) -> Exported:
    """The addresses for the features marked in a session.

    Raises:
        SessionError: nothing is marked, or no marked feature has a page.
    """
    if not session.marks:
        raise SessionError("No feature is marked in this session.", "Mark features with the space bar.")
    pages = neuronpedia_ids(session)
    known = [entry(pages[ref.source], ref.index) for ref in session.marks if ref.source in pages]
    without = sorted({ref.source for ref in session.marks if ref.source not in pages})
    if not known:
        raise SessionError(
            f"None of the marked features has a Neuronpedia page (sources {', '.join(without)}).",
            "Only dictionaries with a neuronpedia_id in their cfg.json have pages.",
        )
    left_out = len(session.marks) - len(known)
    notes = (
        (f"Left out, for want of a Neuronpedia page: {left_out} marked of {', '.join(without)}.",) if left_out else ()
    )
    title = name or session.title or "saescope features"
    return Exported(tuple(quicklist_urls(title, known)), notes)
