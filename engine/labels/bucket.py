"""Listings of a public S3 bucket (ListObjectsV2), read with distrust."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

from engine.errors import DownloadFailed
from engine.web import Web

_LARGEST_LISTING = 8 << 20  # a thousand keys are 400 kB
_MOST_PAGES = 200


@dataclass(frozen=True)
class Object:
    """A file in the bucket."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class Listing:
    """What lies directly below a prefix."""

    objects: tuple[Object, ...]
    prefixes: tuple[str, ...]


def list_below(web: Web, base: str, prefix: str) -> Listing:
    """All files and folders directly below a prefix, which ends in `/`.

    Raises:
        DownloadFailed: the server cannot be asked, or answers with something else than a listing.
    """
    objects: list[Object] = []
    prefixes: list[str] = []
    parameters = {"list-type": "2", "prefix": prefix, "delimiter": "/"}
    tokens: set[str] = set()
    while True:
        page = _parsed(web.text(f"{base}/", parameters, _LARGEST_LISTING, "a listing"), base)
        objects += (_object(entry, base) for entry in page.findall("{*}Contents"))
        prefixes += (_field(entry, "Prefix") for entry in page.findall("{*}CommonPrefixes"))
        if _field(page, "IsTruncated") != "true":
            return Listing(
                tuple(each for each in objects if each.key.startswith(prefix)),
                tuple(each for each in prefixes if each.startswith(prefix)),
            )
        token = _field(page, "NextContinuationToken")
        if not token or token in tokens or len(tokens) >= _MOST_PAGES:
            raise _no_listing(base, "its listing has no end")
        tokens.add(token)
        parameters["continuation-token"] = token


def _parsed(text: str, base: str) -> ElementTree.Element:
    """The root of a listing. A document that declares anything of its own is refused: entities could fill memory."""
    if "<!" in text:
        raise _no_listing(base, "its answer is a web page, or XML with declarations")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise _no_listing(base, f"its answer is not XML: {error}") from None
    if root.tag.rpartition("}")[2] != "ListBucketResult":
        raise _no_listing(base, f"its answer is a {root.tag.rpartition('}')[2]!r}")
    return root


def _object(entry: ElementTree.Element, base: str) -> Object:
    key, size = _field(entry, "Key"), _field(entry, "Size")
    if not key or not (size.isascii() and size.isdigit() and len(size) < 16):
        raise _no_listing(base, "a file in it has no name or size")
    return Object(key, int(size), _field(entry, "ETag"))


def _field(entry: ElementTree.Element, name: str) -> str:
    return (entry.findtext(f"{{*}}{name}") or "").strip()


def _no_listing(base: str, why: str) -> DownloadFailed:
    return DownloadFailed(
        f"{base} does not answer with the listing of a bucket: {why}.",
        "Check SAESCOPE_EXPORTS, and whether a proxy asks for a login.",
    )
