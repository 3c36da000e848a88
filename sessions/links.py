"""Addresses of Neuronpedia's pages: features, sources, searches, steering; and features read from addresses.

Every path segment and every value is percent-encoded. An address is only made, never opened: over SSH the browser is
on another machine.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

import msgspec

from engine.errors import BadRequest
from engine.text import has_lone_surrogate

SITE = "https://www.neuronpedia.org"
HOSTS = ("neuronpedia.org", "www.neuronpedia.org")
LONGEST_READ = 1_000_000
"""Characters of an address we look at: 10,000 features in the longest form, and no flood."""

EmbedPart = Literal["explanation", "plots", "test", "testfield", "activations", "link", "steer"]
"""What an embedded feature page can leave out."""
SortBy = Literal["frequency", "strength", "density"]

_INDEX = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")
_ID = re.compile(r"(?P<model>[^@\s]+)@(?P<source>[^@:\s]+):(?P<index>[^:\s]*)\Z")
_START = re.compile(r"(?:https?://)?(?:www\.)?neuronpedia\.org(?:[/:?#]|\Z)", re.IGNORECASE)
_FEATURE_FORM = f"Give MODEL@SOURCE:INDEX, or the address of its page, {SITE}/MODEL/SOURCE/INDEX."


class Entry(msgspec.Struct, frozen=True):
    """One feature as the site names it."""

    modelId: str
    layer: str
    index: str

    def __str__(self) -> str:
        return f"{self.modelId}@{self.layer}:{self.index}"


# --- pages ----------------------------------------------------------------------------------------------------------


def entry(neuronpedia_id: str, index: int) -> Entry:
    """A feature of the dictionary that Neuronpedia calls `model/source`.

    Raises:
        BadRequest: the id has another form.
    """
    model, source = _parts(neuronpedia_id)
    return Entry(model, source, str(index))


def has_page(neuronpedia_id: str | None) -> bool:
    """Whether an id, which comes from a file, has the form of one."""
    try:
        return neuronpedia_id is not None and bool(source_url(neuronpedia_id))
    except BadRequest:
        return False


def feature_url(neuronpedia_id: str, index: int) -> str:
    """The page of one feature."""
    item = entry(neuronpedia_id, index)
    return _page(item.modelId, item.layer, item.index)


def embed_url(neuronpedia_id: str, index: int, *, hide: Iterable[str] = (), test_text: str | None = None) -> str:
    """The page of one feature for a frame in another page, without the parts in `hide` (`EmbedPart`).

    Raises:
        BadRequest: there is no such part.
    """
    hidden = list(dict.fromkeys(hide))
    known = get_args(EmbedPart)
    if wrong := [part for part in hidden if part not in known]:
        raise BadRequest(f"A feature page has no part {wrong[0]!r}.", f"Its parts are {', '.join(known)}.")
    fields = {"embed": "true"} | {f"embed{part}": "false" for part in known if part in hidden}
    if test_text is not None:
        fields["defaulttesttext"] = test_text
    return feature_url(neuronpedia_id, index) + _query(fields)


def source_url(neuronpedia_id: str) -> str:
    """The page of one dictionary."""
    return _page(*_parts(neuronpedia_id))


def model_url(neuronpedia_id: str) -> str:
    """The page of a model, from its id or from one of its dictionaries'."""
    return _page(neuronpedia_id.partition("/")[0])


def steer_url(neuronpedia_id: str, index: int, strength: float | None = None) -> str:
    """The steering page with one feature; its strength multiplies the decoder row at unit norm.

    Raises:
        BadRequest: the strength is no finite number.
    """
    item = entry(neuronpedia_id, index)
    fields = {"source": item.layer, "index": item.index}
    if strength is not None:
        fields["strength"] = _number(strength)
    return _page(item.modelId, "steer") + _query(fields)


def topk_url(
    neuronpedia_id: str,
    text: str,
    *,
    density_threshold: float | None = None,
    ignore_bos: bool | None = None,
    sort_by: SortBy | None = None,
) -> str:
    """The search for the strongest features of one dictionary at every token of a text.

    Without a threshold the site hides features that fire on more than half of all tokens.

    Raises:
        BadRequest: the text is blank, or the threshold is not between 0 and 1.
    """
    model, source = _parts(neuronpedia_id)
    fields = {"modelId": model, "source": source, "text": _searched(text)}
    if density_threshold is not None:
        if not 0 <= density_threshold <= 1:
            raise BadRequest(f"The density threshold {density_threshold} is no share.", "Give a number from 0 to 1.")
        fields["densityThreshold"] = _number(density_threshold)
    if ignore_bos is not None:
        fields["ignoreBos"] = str(ignore_bos).lower()
    if sort_by is not None:
        fields["sortBy"] = sort_by
    return _page("search-topk-by-token") + _query(fields)


def inference_url(
    model: str,
    text: str,
    *,
    source_set: str | None = None,
    sources: Sequence[str] = (),
    positions: Sequence[int] = (),
    ignore_bos: bool | None = None,
) -> str:
    """The search for the features of a set that fire most on a text: in all its sources unless some are given.

    `positions` are the tokens to rank by, counted with BOS as 0; all where empty.
    """
    fields = {"sourceSet": source_set} if source_set else {}
    fields["selectedLayers"] = json.dumps(list(sources), separators=(",", ":"))
    fields["sortIndexes"] = json.dumps(list(positions), separators=(",", ":"))
    if ignore_bos is not None:
        fields["ignoreBos"] = str(ignore_bos).lower()
    fields["q"] = _searched(text)
    return model_url(model) + _query(fields)


# --- reading --------------------------------------------------------------------------------------------------------


def is_address(text: str) -> bool:
    """Whether a text is meant as an address of the site, well formed or not."""
    return bool(_START.match(text.strip()))


def is_feature_id(text: str) -> bool:
    """Whether a text has the form `MODEL@SOURCE:INDEX`."""
    return bool(_ID.match(text.strip()))


def parse_link(text: str) -> Entry:
    """The feature of `MODEL@SOURCE:INDEX`, or of the address of its page, its steering page or its JSON.

    Raises:
        BadRequest: it is neither.
    """
    if is_address(text):
        return _feature_of(site_page(text))
    if not (match := _ID.match(text.strip())):
        raise BadRequest(f"{shown(text)} names no feature.", _FEATURE_FORM)
    return Entry(match["model"], match["source"], _checked_index(match["index"]))


def site_page(url: str) -> SplitResult:
    """An address of the site in its parts, scheme or not, `www` or not.

    Raises:
        BadRequest: it is too long, not text, or an address of something else.
    """
    if len(url) > LONGEST_READ:
        raise BadRequest(f"The address has {len(url):,} characters.", f"Up to {LONGEST_READ:,} are read.")
    if has_lone_surrogate(url):
        raise BadRequest("The address is not text: it holds bytes that are no UTF-8.", "Copy it again.")
    stripped = url.strip()
    try:
        parts = urlsplit(stripped if "://" in stripped.partition("?")[0] else f"https://{stripped}")
        host = parts.hostname
    except ValueError as error:
        raise BadRequest(f"{shown(url)} is no address: {error}.", f"Addresses begin with {SITE}/.") from None
    if parts.scheme not in ("http", "https") or host not in HOSTS:
        raise BadRequest(f"{shown(url)} is no address of Neuronpedia.", f"Addresses begin with {SITE}/.")
    return parts


def is_index(text: str) -> bool:
    """Whether a text is an index as the site writes one: decimal, no sign, no leading zero."""
    return bool(_INDEX.match(text))


def shown(value: object) -> str:
    """A value from outside as an error quotes it, cut."""
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 70 and not (isinstance(value, str) and len(value) > 60) else f"{text[:66]}…"


def _feature_of(parts: SplitResult) -> Entry:
    try:
        segments = [unquote(part, errors="strict") for part in parts.path.strip("/").split("/")]
        query = parse_qs(parts.query, errors="strict", max_num_fields=50)
    except ValueError:
        raise BadRequest("The address is not text: it holds bytes that are no UTF-8.", "Copy it again.") from None
    match segments:
        case [model, "steer"] if "source" in query and "index" in query:
            source, index = query["source"][0], query["index"][0]
        case [model, source, index] | ["api", "feature", model, source, index]:
            pass
        case _:
            raise BadRequest(f"{shown(parts.path)} is not the page of a feature.", _FEATURE_FORM)
    if not (model and source):
        raise BadRequest(f"{shown(parts.path)} is not the page of a feature.", _FEATURE_FORM)
    return Entry(model, source, _checked_index(index))


def _checked_index(text: str) -> str:
    if not is_index(text):
        raise BadRequest(f"{shown(text)} is not the index of a feature.", _FEATURE_FORM)
    return text


# --- parts of an address --------------------------------------------------------------------------------------------


def _parts(neuronpedia_id: str) -> tuple[str, str]:
    model, _, source = neuronpedia_id.partition("/")
    if not model or not source:
        raise BadRequest(f"{shown(neuronpedia_id)} is not a Neuronpedia id.", "It has the form model/source.")
    return model, source


def _page(*segments: str) -> str:
    for segment in segments:
        if has_lone_surrogate(segment) or segment in ("", ".", ".."):
            raise BadRequest(f"{shown(segment)} is no part of a Neuronpedia id.", "It has the form model/source.")
    return "/".join([SITE, *(quote(segment, safe="") for segment in segments)])


def _query(fields: dict[str, str]) -> str:
    for value in fields.values():
        if has_lone_surrogate(value):
            raise BadRequest(f"{shown(value)} is not text.", "Give Unicode text.")
    return "?" + urlencode(fields, quote_via=quote, safe="")


def _searched(text: str) -> str:
    if not text.strip():
        raise BadRequest("A search needs a text.", "Give one.")
    return text


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise BadRequest(f"{value} is not a strength.", "Give a finite number.")
    return str(int(value)) if value == int(value) else repr(float(value))
