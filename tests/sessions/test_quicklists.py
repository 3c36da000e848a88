"""Quicklists as they have been published: byte for byte from their features, and from the effects behind them.

`SAESCOPE_QUICKLISTS` names another folder with a `published.json` of the same form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadRequest
from sessions.quicklist import (
    LIMIT,
    PAGE,
    Effect,
    Entry,
    entry,
    feature_url,
    quicklist_url,
    quicklist_urls,
    read_quicklist_url,
    source_of,
    strongest,
)
from tests.nasty import NASTY


class Published(msgspec.Struct, frozen=True):
    """One published list; some come with the effects they were made from."""

    name: str
    url: str
    features: list[Entry]
    effects: list[Effect] = []
    model: str = ""
    sets: dict[str, str] = {}


def _published() -> list[Published]:
    folder = os.environ.get("SAESCOPE_QUICKLISTS")
    default = Path(__file__).resolve().parent.parent / "data" / "quicklists_published.json"
    file = Path(folder) / "published.json" if folder else default
    return msgspec.json.decode(file.read_bytes(), type=list[Published])


PUBLISHED = _published()
WITH_EFFECTS = [one for one in PUBLISHED if one.effects]
SETS = {"attn": "att-sm", "mlp": "mlp-sm", "resid": "res-sm"}
names = st.text(min_size=1, max_size=30).filter(str.strip)
entries = st.lists(
    st.builds(Entry, st.text(max_size=12), st.text(max_size=12), st.integers(0, 10**6).map(str)), min_size=1, max_size=9
)


def numbered(count: int) -> list[Entry]:
    return [entry("gpt2-small/7-res-jb", i) for i in range(count)]


def query_of(url: str) -> str:
    return url.partition("?")[2]


def test_there_are_published_lists() -> None:
    assert PUBLISHED
    assert WITH_EFFECTS
    assert any(one.url.startswith(PAGE) for one in PUBLISHED)


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.name)
def test_published_lists_are_rebuilt_byte_for_byte(one: Published) -> None:
    """Some were noted after the site had redirected them: their host and path differ, their lists do not."""
    rebuilt = quicklist_url(*read_quicklist_url(one.url))
    if one.url.startswith(PAGE):
        assert rebuilt == one.url
    else:
        assert one.url.startswith("https://www.neuronpedia.org/quick-list?")
        assert query_of(rebuilt) == query_of(one.url)


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.name)
def test_published_lists_are_read(one: Published) -> None:
    assert read_quicklist_url(one.url) == (one.name, one.features)


@pytest.mark.parametrize("one", WITH_EFFECTS, ids=lambda one: one.name)
def test_effects_become_the_published_list(one: Published) -> None:
    found = strongest(one.effects, len(one.features), one.model, one.sets)
    assert found == one.features
    assert query_of(quicklist_url(one.name, found)) == query_of(one.url)


@given(names, entries)
def test_what_is_built_is_read_back(name: str, features: list[Entry]) -> None:
    url = quicklist_url(name, features)
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url
    assert read_quicklist_url(url) == (name, features)


@pytest.mark.parametrize("name", [text for text in NASTY if text.strip()] + ["a+b&c=d#e?f%20", "50 % of /all/;"])
def test_nasty_names_are_read_back(name: str) -> None:
    features = [Entry(name, name, "3")]
    assert read_quicklist_url(quicklist_url(name, features)) == (name, features)


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


def test_indices_are_strings() -> None:
    listed = json.loads(unquote(quicklist_url("x", numbered(12)).partition("&features=")[2]))
    assert listed[11] == {"modelId": "gpt2-small", "layer": "7-res-jb", "index": "11"}
    assert list(listed[0]) == ["modelId", "layer", "index"]


def test_a_name_is_quoted_as_the_site_does() -> None:
    assert quicklist_url("he/she & “漢”", numbered(1)).startswith(
        f"{PAGE}?name=he/she%20%26%20%E2%80%9C%E6%BC%A2%E2%80%9D&features=%5B%7B%22modelId%22%3A%20%22"
    )


def test_150_features_are_one_list() -> None:
    assert quicklist_urls("all", numbered(LIMIT)) == [quicklist_url("all", numbered(LIMIT))]
    assert LIMIT == 150


@pytest.mark.parametrize(("count", "sizes"), [(151, [150, 1]), (300, [150, 150]), (301, [150, 150, 1])])
def test_longer_lists_are_split_and_numbered(count: int, sizes: list[int]) -> None:
    parts = [read_quicklist_url(url) for url in quicklist_urls("many", numbered(count))]
    assert [name for name, _ in parts] == [f"many ({n}/{len(sizes)})" for n in range(1, len(sizes) + 1)]
    assert [len(features) for _, features in parts] == sizes
    assert [feature for _, features in parts for feature in features] == numbered(count)


def test_duplicates_are_left_out_before_splitting() -> None:
    features = [*numbered(LIMIT), *numbered(LIMIT)]
    assert quicklist_urls("x", features) == [quicklist_url("x", numbered(LIMIT))]
    other = Entry("gpt2-small", "8-res-jb", "0")
    assert read_quicklist_url(quicklist_urls("x", [other, *numbered(2), other])[0])[1] == [other, *numbered(2)]


@pytest.mark.parametrize("name", ["", "   ", "\n", "a\udcff"])
def test_a_list_needs_a_name(name: str) -> None:
    with pytest.raises(BadRequest, match="name"):
        quicklist_url(name, numbered(1))


def test_a_list_needs_features_and_not_too_many() -> None:
    with pytest.raises(BadRequest, match="at least one"):
        quicklist_url("x", [])
    with pytest.raises(BadRequest, match="at least one"):
        quicklist_urls("x", [])
    with pytest.raises(BadRequest, match="150 features; these are 151"):
        quicklist_url("x", numbered(151))


def test_the_page_of_a_feature() -> None:
    assert feature_url("gpt2-small/7-res-jb", 23247) == "https://www.neuronpedia.org/gpt2-small/7-res-jb/23247"
    assert feature_url("m x/a/b?c#d", 3) == "https://www.neuronpedia.org/m%20x/a%2Fb%3Fc%23d/3"


@pytest.mark.parametrize("text", ["", "gpt2-small", "/7-res-jb", "gpt2-small/"])
def test_what_is_no_neuronpedia_id_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="model/source"):
        entry(text, 1)


@pytest.mark.parametrize(
    ("site", "source"),
    [("attn_0", "0-att-sm"), ("mlp_3", "3-mlp-sm"), ("resid_5", "5-res-sm"), ("resid_10", "10-res-sm")],
)
def test_sites_have_sources(site: str, source: str) -> None:
    assert source_of(site, SETS) == source


def test_the_embedding_belongs_to_the_residual_set() -> None:
    assert source_of("embed", SETS) == "e-res-sm"
    assert source_of("embed", {**SETS, "embed": "emb"}) == "e-emb"


@pytest.mark.parametrize(
    ("site", "sets"), [("mlp_0", {"resid": "res-jb"}), ("embed", {"mlp": "m"}), ("head_1", SETS), ("resid", SETS)]
)
def test_sites_without_a_source_are_refused(site: str, sets: Mapping[str, str]) -> None:
    with pytest.raises(BadRequest, match="no Neuronpedia source"):
        source_of(site, sets)


@pytest.mark.parametrize("site", ["", "resid_", "resid_x", "resid_5_error", "resid_5\n", "Resid_5", "embed_2"])
def test_what_is_no_site_is_refused(site: str) -> None:
    with pytest.raises(BadRequest, match="no Neuronpedia source"):
        source_of(site, SETS)


def test_the_strongest_are_grouped_by_site_in_the_order_met() -> None:
    effects = [Effect("mlp_0", 1, 0.1), Effect("attn_2", 2, -0.9), Effect("mlp_0", 3, 0.5), Effect("attn_2", 4, -0.2)]
    assert [(e.layer, e.index) for e in strongest(effects, 3, "m", SETS)] == [
        ("2-att-sm", "2"),
        ("2-att-sm", "4"),
        ("0-mlp-sm", "3"),
    ]
    assert len(strongest(effects, 99, "m", SETS)) == 4
    assert strongest(effects, 0, "m", SETS) == []
