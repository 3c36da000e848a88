"""Neuronpedia quicklists: addresses that show a list of features on one page.

Three forms say the same to the site. `published` is the one lists have been published in, byte for byte. `compact`
leaves out the blanks in its JSON. `nested` names every source once and its features as "[[1,2]]": a list of one source
in a tenth of the length, but grouped by source. A list holds at most 150 features, and the site's host refuses long
addresses; longer lists are split and numbered. Indices are strings; error nodes have no page and never appear.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qs, quote

import msgspec

from engine.errors import BadRequest
from engine.text import has_lone_surrogate
from sessions.effects import Effect, source_of, strongest
from sessions.links import Entry, entry, feature_url, is_index, shown, site_page

__all__ = [
    "FORMS", "HOST_LIMIT", "LIMIT", "PAGE", "URL_LIMIT", "Effect", "Entry", "Form", "FormChoice", "entry",
    "feature_url", "form_choice", "grouped", "quicklist_url", "quicklist_urls", "read_quicklist_url", "source_of",
    "strongest",
]  # fmt: skip

Form = Literal["published", "compact", "nested"]
FormChoice = Literal["auto", "published", "compact", "nested"]
FORMS: tuple[FormChoice, ...] = get_args(FormChoice)

LIMIT = 150
"""Features the site shows of one list."""
HOST_LIMIT = 14_000
"""Characters of an address that the site's host documents as its limit."""
URL_LIMIT = HOST_LIMIT - 500
"""What we make: the site redirects to a longer address, and a sign-in may add to it."""
PAGE = "https://neuronpedia.org/quick-list/"
_READ_LIMIT = 10_000
_FORM = "A quicklist address has the form …/quick-list/?name=…&features=[…]."
_KEYS = ("modelId", "layer", "index")
_Index = Annotated[int, msgspec.Meta(ge=0, le=999_999_999)]
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


# --- writing --------------------------------------------------------------------------------------------------------


def form_choice(name: str) -> FormChoice:
    """A form as typed.

    Raises:
        BadRequest: there is none of that name.
    """
    for form in FORMS:
        if form == name:
            return form
    raise BadRequest(f"{name!r} is not a form of quicklists.", f"Use {', '.join(FORMS[:-1])} or {FORMS[-1]}.")


def quicklist_url(name: str, features: Sequence[Entry], form: Form = "published") -> str:
    """The address of one list, however long; `nested` groups its features by source.

    Raises:
        BadRequest: no features, more than 150, or no name that is text; for `nested`, an index that is no number.
    """
    if not name.strip() or has_lone_surrogate(name):
        raise BadRequest("A quicklist needs a name.", "Give one with --name.")
    if not features:
        raise BadRequest("A quicklist needs at least one feature.", "Mark features with the space bar.")
    if len(features) > LIMIT:
        raise BadRequest(f"A quicklist holds {LIMIT} features; these are {len(features)}.", "Split the list.")
    rows = _nested(features) if form == "nested" else features
    listed = json.dumps(msgspec.to_builtins(rows), separators=None if form == "published" else (",", ":"))
    return f"{PAGE}?name={quote(name)}&features={quote(listed)}"


def quicklist_urls(
    name: str, features: Iterable[Entry], form: FormChoice = "auto", longest: int = URL_LIMIT
) -> list[str]:
    """Addresses of at most 150 features and `longest` characters, duplicates left out; several are numbered `(1/3)`.

    `auto` is the published form, or the compact one where that needs fewer addresses; both keep the order.

    Raises:
        BadRequest: as `quicklist_url`, or name and ids are too long for any address.
    """
    distinct = list(dict.fromkeys(features))
    if form != "auto":
        return _split(name, distinct, form, longest)
    published = _split(name, distinct, "published", longest)
    compact = _split(name, distinct, "compact", longest) if len(published) > 1 else published
    return compact if len(compact) < len(published) else published


def grouped(features: Iterable[Entry]) -> list[Entry]:
    """Features as `nested` orders them: sources in the order first met, the order inside a source kept."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for feature in features:
        groups.setdefault((feature.modelId, feature.layer), []).append(feature)
    return [feature for group in groups.values() for feature in group]


def _nested(features: Sequence[Entry]) -> list[Entry]:
    """One row a source; a single index stays as it is, which is shorter."""
    groups: dict[tuple[str, str], list[str]] = {}
    for feature in features:
        if not is_index(feature.index):
            raise BadRequest(f"The index {shown(feature.index)} is no number.", "Use the compact form.")
        groups.setdefault((feature.modelId, feature.layer), []).append(feature.index)
    return [Entry(*source, f"[[{','.join(ids)}]]" if len(ids) > 1 else ids[0]) for source, ids in groups.items()]


def _split(name: str, features: Sequence[Entry], form: Form, longest: int) -> list[str]:
    """As few addresses as taking as many features as fit each time gives."""
    total = 1
    while True:  # a larger total only makes names longer and parts more, so this comes to rest
        urls = _parts(name, features, form, longest, total)
        if len(urls) == total:
            return urls
        total = len(urls)


def _parts(name: str, features: Sequence[Entry], form: Form, longest: int, total: int) -> list[str]:
    urls: list[str] = []
    start = 0
    while start < len(features) or not urls:
        title = name if total == 1 else f"{name} ({len(urls) + 1}/{total})"
        most = min(LIMIT, len(features) - start)
        ends = range(start + 1, start + most + 1)
        count = bisect_right(ends, longest, key=lambda end: len(quicklist_url(title, features[start:end], form)))
        if most and not count:
            raise BadRequest(
                f"Not even one feature fits into an address of {longest:,} characters.", "Give a shorter --name."
            )
        urls.append(quicklist_url(title, features[start : start + count], form))
        start += count
    return urls


def accepted(text: str) -> str:
    """How features are given to `saescope import`, with what `model/source/index` would be so written."""
    parts = text.strip().strip("/").split("/")
    meant = f" Did you mean {parts[0]}@{parts[1]}:{parts[2]}?" if len(parts) == 3 and is_index(parts[2]) else ""
    return f"Give an address in quotes, or MODEL@SOURCE:INDEX.{meant}"


# --- reading --------------------------------------------------------------------------------------------------------


def read_quicklist_url(url: str) -> tuple[str, list[Entry]]:
    """Name and features of a quicklist address of any form and host; order and duplicates are kept.

    Lists longer than the site shows are read too.

    Raises:
        BadRequest: it is not such an address; says what is wrong with it.
    """
    try:
        page = site_page(url)
        if page.path.rstrip("/") != "/quick-list":
            raise BadRequest(f"The page {shown(page.path)} is no quicklist.")
        name, listed = (_field(page.query, key) for key in ("name", "features"))
        return name, _entries(listed)
    except BadRequest as error:
        raise BadRequest(error.message, _FORM) from None


def _field(query: str, key: str) -> str:
    try:
        values = parse_qs(query, keep_blank_values=True, errors="strict", max_num_fields=50).get(key, [])
    except UnicodeDecodeError:
        raise BadRequest("The address holds bytes that are no UTF-8.") from None
    except ValueError:
        raise BadRequest("The address has more than 50 fields.") from None
    if not values:
        raise BadRequest(f"The address has no {key}; in a shell it needs quotes, for & ends a command.")
    if not values[0].strip():
        raise BadRequest(f"The {key} in the address is empty.")
    return values[0]


def _entries(listed: str) -> list[Entry]:
    try:
        rows = msgspec.json.decode(listed)
    except RecursionError:
        raise BadRequest("The features in the address are nested too deeply.") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"The features in the address are not JSON: {error}.") from None
    if not isinstance(rows, list):
        raise BadRequest(f"The features in the address are {_kind(rows)}, not a list.")
    found: list[Entry] = []
    wrong: list[str] = []
    for number, row in enumerate(rows, 1):
        try:
            found += _expanded(number, row)
        except BadRequest as error:
            wrong.append(error.message)
        if len(found) > _READ_LIMIT:
            raise BadRequest(f"The address lists more than {_READ_LIMIT:,} features.")
    if wrong:
        more = f" So it is with {len(wrong) - 1} more." if len(wrong) > 1 else ""
        fine = f" {_counted(len(found))} can be read, without what cannot." if found else ""
        raise BadRequest(f"{wrong[0]}{more}{fine}")
    if not found:
        raise BadRequest("The address lists no features.")
    return found


def _expanded(number: int, row: Any) -> list[Entry]:
    """The features of one row: one, or as many as its nested index names."""
    if not isinstance(row, dict):
        raise BadRequest(f"Feature {number} is {_kind(row)}, not an object.")
    for key in _KEYS:
        if key not in row:
            raise BadRequest(f"Feature {number} has no {key}.")
        if not isinstance(row[key], str):
            raise BadRequest(f"The {key} of feature {number} is {_kind(row[key])}, not text.")
    model, layer, index = (row[key] for key in _KEYS)
    if not index.startswith("[["):
        if not is_index(index):
            raise BadRequest(f"The index {shown(index)} of feature {number} is not a number as the site writes it.")
        return [Entry(model, layer, index)]
    try:
        nested = msgspec.json.decode(index, type=list[list[_Index]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"The index of feature {number} is no list of lists of numbers: {error}.") from None
    if sum(map(len, nested)) > _READ_LIMIT:
        raise BadRequest(f"The index of feature {number} lists more than {_READ_LIMIT:,} features.")
    return [Entry(model, layer, str(one)) for group in nested for one in group]


def _counted(count: int) -> str:
    return "1 feature" if count == 1 else f"{count:,} features"


def _kind(value: object) -> str:
    return "null" if value is None else _KINDS[type(value)]
