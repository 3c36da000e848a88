"""Quicklist addresses as people paste them: every form is read, and what is wrong with one is named."""

from __future__ import annotations

import json
from time import perf_counter
from urllib.parse import quote, unquote

import msgspec
import pytest

from engine.errors import BadRequest
from sessions.quicklist import PAGE, Entry, quicklist_url, read_quicklist_url
from tests.nasty import NASTY
from tests.sessions.test_quicklists import numbered

BAD_INDICES = ("007", "-1", "", "1.0", "٣", "[1,2]", " 3", "1e3")
BAD_NESTS = (
    "[[-1]]", "[[1.5]]", "[[true]]", "[[007]]", '[["1"]]', "[[1]", "[[1]]]", "[[[1]]]", "[[1],2]", "[[null]]"
)  # fmt: skip


def listing(features: str, page: str = PAGE) -> str:
    return f"{page}?name=x&features={quote(features)}"


def row(index: str) -> str:
    return json.dumps([{"modelId": "m", "layer": "l", "index": index}])


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        (f"{PAGE}?name=x", "has no features; in a shell it needs quotes"),
        (f"{PAGE}?features=[]", "has no name"),
        (f"{PAGE}?name=%20&features=[]", "The name in the address is empty"),
        (f"{PAGE}?name=%FF&features=[]", "bytes that are no UTF-8"),
        (f"{PAGE}?name=x&features=[\ud800]", "bytes that are no UTF-8"),
        (f"{PAGE}?" + "a=b&" * 99, "more than 50 fields"),
        (listing("[]"), "lists no features"),
        (listing("[["), "are not JSON"),
        (listing("{}"), "an object, not a list"),
        (listing("3"), "a number, not a list"),
        (listing("[3]"), "Feature 1 is a number, not an object"),
        (listing(row("1")[:-1] + ",null]"), "Feature 2 is null, not an object"),
        (listing('[{"modelId":"m","layer":"l"}]'), "Feature 1 has no index"),
        (listing('[{"modelId":"m","layer":"l","index":3}]'), "The index of feature 1 is a number, not text"),
        (listing('[{"modelId":"m","layer":5,"index":"3"}]'), "The layer of feature 1 is a number, not text"),
        (listing('[{"modelId":["m"],"layer":"l","index":"3"}]'), "The modelId of feature 1 is a list, not text"),
        *((listing(row(bad)), f"The index {bad!r} of feature 1") for bad in BAD_INDICES),
        (listing(row("1" * 5_000)), "The index '1111"),
        (listing(row("[[]]")), "lists no features"),
        *((listing(row(bad)), "no list of lists of numbers") for bad in BAD_NESTS),
        (listing(row("[[" + "9" * 5_000 + "]]")), "no list of lists of numbers"),
        (listing(row("[[" + "1," * 10_000 + "1]]")), "lists more than 10,000 features"),
        (listing("[" * 100_000), "nested too deeply"),
        (listing(row("[" * 100_000)), "no list of lists of numbers"),
        (listing(row("1"), "https://example.com/quick-list/"), "no address of Neuronpedia"),
        (listing(row("1"), "https://neuronpedia.org@evil.com/quick-list/"), "no address of Neuronpedia"),
        (listing(row("1"), "ftp://neuronpedia.org/quick-list/"), "no address of Neuronpedia"),
        (listing(row("1"), "https://neuronpedia.org/quick-lists/"), "The page '/quick-lists/' is no quicklist"),
        (listing(row("1"), "https://neuronpedia.org:x\u2100/quick-list/"), "is no address"),
    ],
    ids=lambda text: text[:60],
)  # fmt: skip
def test_what_is_wrong_is_named(url: str, wrong: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_quicklist_url(url)
    assert wrong in caught.value.message
    assert len(str(caught.value)) < 300
    assert "quick-list/" in caught.value.remedy


def test_a_feature_that_cannot_be_read_leaves_the_rest_counted() -> None:
    good = '{"modelId":"m","layer":"l","index":"[[1,2]]"}'
    with pytest.raises(BadRequest, match=r"Feature 2 has no layer\. 4 features can be read, without what cannot\."):
        read_quicklist_url(listing(f'[{good},{{"modelId":"m"}},{good}]'))
    with pytest.raises(BadRequest, match=r"Feature 1 is null, not an object\. So it is with 1 more\. 2 features"):
        read_quicklist_url(listing(f"[null,3,{good}]"))


def test_a_flood_is_refused_at_once() -> None:
    began = perf_counter()
    for flood in (listing("[" * 10_000_000), listing("[" + "1," * 5_000_000), "x" * 10_000_000):
        with pytest.raises(BadRequest, match=r"characters\. A quicklist"):
            read_quicklist_url(flood)
    many = "[" + ",".join(['{"modelId":"m","layer":"l","index":"[[' + "1," * 999 + '1]]"}'] * 11) + "]"
    with pytest.raises(BadRequest, match="more than 10,000 features"):
        read_quicklist_url(listing(many))
    assert perf_counter() - began < 5


def test_nested_rows_are_expanded_where_they_stand() -> None:
    rows = [("m", "1-a", "[[1,2],[3]]"), ("m", "2-b", "7"), ("m", "1-a", "[[2],[],[2]]")]
    listed = json.dumps([dict(zip(("modelId", "layer", "index"), one, strict=True)) for one in rows])
    found = read_quicklist_url(listing(listed))[1]
    assert [(f.layer, f.index) for f in found] == [
        ("1-a", "1"), ("1-a", "2"), ("1-a", "3"), ("2-b", "7"), ("1-a", "2"), ("1-a", "2"),
    ]  # fmt: skip


def test_a_nested_list_names_a_source_once() -> None:
    features = [Entry("m", "1-a", "5"), Entry("m", "2-b", "7"), Entry("m", "1-a", "3"), Entry("n", "1-a", "3")]
    listed = json.loads(unquote(quicklist_url("x", features, "nested").partition("&features=")[2]))
    assert [tuple(row.values()) for row in listed] == [("m", "1-a", "[[5,3]]"), ("m", "2-b", "7"), ("n", "1-a", "3")]


def test_addresses_as_they_are_pasted() -> None:
    plain = quicklist_url("a b", numbered(2)).removeprefix("https://")
    assert read_quicklist_url(f"  {plain}\n") == ("a b", numbered(2))
    assert read_quicklist_url(f"HTTP://WWW.{plain.replace('neuronpedia', 'NeuronPedia')}&embed=true#top")[
        1
    ] == numbered(2)
    listed = json.dumps(msgspec.to_builtins(numbered(2)))
    assert read_quicklist_url(f"https://www.neuronpedia.org/quick-list?name=a b&features={listed}") == (
        "a b",
        numbered(2),
    )


@pytest.mark.parametrize("page", [PAGE, "https://www.neuronpedia.org/quick-list", "https://neuronpedia.org/quick-list"])
def test_compact_and_other_addresses_of_the_site_are_read(page: str) -> None:
    features = numbered(2)
    listed = json.dumps(msgspec.to_builtins(features), separators=(",", ":"))
    assert read_quicklist_url(f"{page}?name=x%20y&features={quote(listed)}") == ("x y", features)
    assert read_quicklist_url(f"{page}?features={quote(listed)}&name=x+y") == ("x y", features)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://neuronpedia.org",
        PAGE,
        f"{PAGE}?name=x",
        f"{PAGE}?features=[]",
        f"{PAGE}?name=x&features=",
        f"{PAGE}?name=x&features=[",
        f"{PAGE}?name=x&features={{}}",
        f'{PAGE}?name=x&features=[{{"modelId":"m","layer":"l","index":3}}]',
        f'{PAGE}?name=x&features=[{{"modelId":"m","layer":"l"}}]',
        f"{PAGE}?name=x&features=[\ud800]",
        "https://[x/quick-list?name=x&features=[]",
        *NASTY,
    ],
)
def test_what_is_no_quicklist_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="quick-list/"):
        read_quicklist_url(url)
