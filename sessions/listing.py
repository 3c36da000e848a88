"""What `saescope import` and `saescope link` do with what was typed: addresses and ids into features, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from engine.errors import BadRequest
from engine.results import DictionaryInfo
from engine.text import visible
from sessions import links
from sessions.links import Entry, is_address, is_feature_id, parse_link, site_page
from sessions.quicklist import read_quicklist_url
from sessions.registered import models_with

_HOW = "Give quicklist addresses, addresses of features, or MODEL@SOURCE:INDEX, one a line."


class Listed(msgspec.Struct, frozen=True):
    """Features read from addresses, in their order, and the names of the lists they stood in."""

    names: tuple[str, ...]
    features: tuple[Entry, ...]


class Linked(msgspec.Struct, frozen=True):
    """A feature and the address that was asked for."""

    feature: str
    url: str


def means_features(argument: str) -> bool:
    """Whether the argument of `saescope import` is an address, a feature, or - rather than a file's name."""
    text = argument.strip()
    if text == "-" or "://" in text.partition("?")[0] or is_address(text):
        return True
    return is_feature_id(text) and not Path(argument).exists()


def read_features(text: str) -> Listed:
    """The features of addresses and ids, one a line; blank lines do not count.

    Raises:
        BadRequest: a line is none of these, or there are none; names the line where there are several.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise BadRequest("There are no addresses.", _HOW)
    names: list[str] = []
    features: list[Entry] = []
    for number, line in lines:
        try:
            if is_feature_id(line) or not _is_list(line):
                features.append(parse_link(line))
            else:
                name, listed = read_quicklist_url(line)
                names.append(name)
                features += listed
        except BadRequest as error:
            where = f"Line {number}: " if len(lines) > 1 else ""
            raise BadRequest(f"{where}{error.message}", error.remedy) from None
    return Listed(tuple(names), tuple(features))


def listed_text(listed: Listed) -> str:
    """One feature a line, as `read_features` reads it again."""
    return "\n".join(visible(str(feature)) for feature in listed.features)


def link(
    feature: str,
    dictionaries: Iterable[DictionaryInfo] = (),
    *,
    steer: float | None = None,
    embed: bool = False,
    hide: Sequence[str] = (),
    search: str | None = None,
) -> Linked:
    """The address for a feature given as SOURCE:INDEX, MODEL@SOURCE:INDEX or an address: its page, or one of three.

    `steer` is a strength, `search` a text; `hide` names parts of the embedded page. A source without a model is looked
    up among the dictionaries, then in SAELens' registry.

    Raises:
        BadRequest: no such feature is known, several models have the source, or more than one address was asked for.
    """
    if (steer is not None) + (embed or bool(hide)) + (search is not None) > 1:
        raise BadRequest("Only one of --steer, --embed and --search makes an address.", "Give one of them.")
    entry = _entry_of(feature, dictionaries)
    page, index = f"{entry.modelId}/{entry.layer}", int(entry.index)
    if steer is not None:
        url = links.steer_url(page, index, steer)
    elif embed or hide:
        url = links.embed_url(page, index, hide=hide)
    elif search is not None:
        url = links.topk_url(page, search)
    else:
        url = links.feature_url(page, index)
    return Linked(str(entry), url)


def _entry_of(feature: str, dictionaries: Iterable[DictionaryInfo]) -> Entry:
    text = feature.strip()
    source, _, index = text.rpartition(":")
    if "@" in text or is_address(text) or not source or ":" in source or "/" in source:
        return parse_link(text)
    if not links.is_index(index):
        raise BadRequest(f"{links.shown(index)} is not the index of a feature.", "Write SOURCE:INDEX, e.g. 7-res-jb:3.")
    for info in dictionaries:
        if info.source == source:
            if info.neuronpedia is None or not links.has_page(info.neuronpedia):
                raise BadRequest(
                    f"{links.shown(source)} has no pages on Neuronpedia.",
                    "Only dictionaries with a neuronpedia_id in their cfg.json have pages.",
                )
            if int(index) >= info.d_sae:
                raise BadRequest(
                    f"{source} has no feature {index}.", f"It has {info.d_sae:,} features, numbered from 0."
                )
            return links.entry(info.neuronpedia, int(index))
    models = models_with(source)
    if len(models) == 1:
        return Entry(models[0], source, index)
    if models:
        shown = ", ".join(models[:4]) + (", …" if len(models) > 4 else "")
        raise BadRequest(f"{len(models)} models have a source {source}: {shown}.", "Write MODEL@SOURCE:INDEX.")
    raise BadRequest(f"No model is known that has a source {links.shown(source)}.", "Write MODEL@SOURCE:INDEX.")


def _is_list(line: str) -> bool:
    """Whether a line is to be read as a quicklist; what is neither is told as one, the commoner of the two."""
    if not (is_address(line) or "://" in line.partition("?")[0]):
        return False
    try:
        path = site_page(line).path
    except BadRequest:
        return True
    return path.rstrip("/") == "/quick-list" or len(path.strip("/").split("/")) < 2
