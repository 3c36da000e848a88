"""Quicklists as they have been published: byte for byte from their features, and from the effects behind them.

`SAESCOPE_QUICKLISTS` names another folder with a `published.json` of the same form.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadRequest
from sessions.quicklist import (
    FORMS,
    HOST_LIMIT,
    LIMIT,
    PAGE,
    URL_LIMIT,
    Effect,
    Entry,
    Form,
    FormChoice,
    entry,
    feature_url,
    form_choice,
    grouped,
    quicklist_url,
    quicklist_urls,
    read_quicklist_url,
    source_of,
    strongest,
)
from tests.conftest import ROOT
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
    file = Path(folder) / "published.json" if folder else ROOT / "tests" / "data" / "quicklists_published.json"
    return msgspec.json.decode(file.read_bytes(), type=list[Published])


PUBLISHED = _published()
WITH_EFFECTS = [one for one in PUBLISHED if one.effects]
EXPLICIT: tuple[Form, ...] = ("published", "compact", "nested")
SETS = {"attn": "att-sm", "mlp": "mlp-sm", "resid": "res-sm"}
names = st.text(min_size=1, max_size=30).filter(str.strip)
indices = st.integers(0, 10**6).map(str)
entries = st.lists(st.builds(Entry, st.text(max_size=12), st.text(max_size=12), indices), min_size=1, max_size=9)
few_sources = st.lists(
    st.builds(Entry, st.just("gpt2-small"), st.sampled_from(["7-res-jb", "e-x", "11-att"]), indices),
    min_size=1,
    max_size=40,
)


def numbered(count: int) -> list[Entry]:
    return [entry("gpt2-small/7-res-jb", i) for i in range(count)]


def query_of(url: str) -> str:
    return url.partition("?")[2]


def test_there_are_published_lists() -> None:
    assert PUBLISHED
    if "SAESCOPE_QUICKLISTS" not in os.environ:
        assert WITH_EFFECTS
        assert any(one.url.startswith(PAGE) for one in PUBLISHED)


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.name)
def test_published_lists_are_rebuilt_byte_for_byte(one: Published) -> None:
    """Some were noted after the site had redirected them: their host and path differ, their lists do not."""
    form: Form = "published" if quote('", "') in one.url else "compact"
    rebuilt = quicklist_url(*read_quicklist_url(one.url), form)
    if one.url.startswith(PAGE):
        assert rebuilt == one.url
    else:
        assert one.url.startswith(("https://www.neuronpedia.org/quick-list", "https://neuronpedia.org/quick-list"))
        assert query_of(rebuilt) == query_of(one.url)


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.name)
def test_published_lists_are_read(one: Published) -> None:
    assert read_quicklist_url(one.url) == (one.name, one.features)


@pytest.mark.parametrize("one", WITH_EFFECTS, ids=lambda one: one.name)
def test_effects_become_the_published_list(one: Published) -> None:
    found = strongest(one.effects, len(one.features), one.model, one.sets)
    assert found == one.features
    assert query_of(quicklist_url(one.name, found)) == query_of(one.url)


@given(names, entries, st.sampled_from(EXPLICIT))
def test_what_is_built_is_read_back(name: str, features: list[Entry], form: Form) -> None:
    """Repeated features too: only `quicklist_urls` leaves them out."""
    url = quicklist_url(name, features, form)
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url
    assert read_quicklist_url(url) == (name, grouped(features) if form == "nested" else features)


@given(names, few_sources, st.sampled_from(FORMS))
def test_split_lists_are_read_back(name: str, features: list[Entry], form: FormChoice) -> None:
    longest = 1200
    urls = quicklist_urls(name, features, form, longest)
    assert all(len(url) <= longest for url in urls)
    parts = [read_quicklist_url(url) for url in urls]
    expected = [name] if len(urls) == 1 else [f"{name} ({n}/{len(urls)})" for n in range(1, len(urls) + 1)]
    assert [title for title, _ in parts] == expected
    found = [feature for _, part in parts for feature in part]
    distinct = list(dict.fromkeys(features))
    if form == "nested":
        assert sorted(found, key=str) == sorted(distinct, key=str)
        assert all(part == grouped(f for f in distinct if f in part) for _, part in parts)
    else:
        assert found == distinct


@given(few_sources)
def test_grouping_keeps_the_order_inside_a_source(features: list[Entry]) -> None:
    order = grouped(features)
    sources = [(f.modelId, f.layer) for f in order]
    assert sum(a != b for a, b in pairwise(sources)) + 1 == len(set(sources))
    for source in set(sources):
        of_source = [[f for f in some if (f.modelId, f.layer) == source] for some in (order, features)]
        assert of_source[0] == of_source[1]


@pytest.mark.parametrize("name", [text for text in NASTY if text.strip()] + ["a+b&c=d#e?f%20", "50 % of /all/;"])
def test_nasty_names_are_read_back(name: str) -> None:
    features = [Entry(name, name, "3")]
    assert read_quicklist_url(quicklist_url(name, features)) == (name, features)


def test_indices_are_strings() -> None:
    listed = json.loads(unquote(quicklist_url("x", numbered(12)).partition("&features=")[2]))
    assert listed[11] == {"modelId": "gpt2-small", "layer": "7-res-jb", "index": "11"}
    assert list(listed[0]) == ["modelId", "layer", "index"]


def test_a_name_is_quoted_as_the_site_does() -> None:
    assert quicklist_url("he/she & “漢”", numbered(1)).startswith(
        f"{PAGE}?name=he/she%20%26%20%E2%80%9C%E6%BC%A2%E2%80%9D&features=%5B%7B%22modelId%22%3A%20%22"
    )


def test_the_site_shows_150_features_in_14_kb() -> None:
    assert LIMIT == 150
    assert URL_LIMIT < HOST_LIMIT == 14_000
    assert quicklist_urls("all", numbered(LIMIT), longest=20_000) == [quicklist_url("all", numbered(LIMIT))]


def test_the_lengths_of_the_three_forms() -> None:
    features = [Entry("gemma-2-2b", "20-gemmascope-res-16k", str(10_000 + i)) for i in range(LIMIT)]
    published, compact, nested = (len(quicklist_url("all", features, form)) for form in EXPLICIT)
    assert published - compact == 18 * LIMIT - 3  # ": " three times a feature and ", " twice, and once between features
    assert published > compact > HOST_LIMIT
    assert nested < 1_400


@pytest.mark.parametrize(("count", "sizes"), [(151, [150, 1]), (300, [150, 150]), (301, [150, 150, 1])])
def test_longer_lists_are_split_and_numbered(count: int, sizes: list[int]) -> None:
    for urls in (
        quicklist_urls("many", numbered(count), "nested"),
        quicklist_urls("many", numbered(count), longest=99_999),
    ):
        parts = [read_quicklist_url(url) for url in urls]
        assert [name for name, _ in parts] == [f"many ({n}/{len(sizes)})" for n in range(1, len(sizes) + 1)]
        assert [len(features) for _, features in parts] == sizes
        assert [feature for _, features in parts for feature in features] == numbered(count)


@pytest.mark.parametrize("form", EXPLICIT)
def test_the_limit_counts_every_character(form: Form) -> None:
    whole = quicklist_url("ü & co", numbered(40), form)
    assert quicklist_urls("ü & co", numbered(40), form, len(whole)) == [whole]
    first, second = quicklist_urls("ü & co", numbered(40), form, len(whole) - 1)
    count = len(read_quicklist_url(first)[1])
    assert len(quicklist_url("ü & co (1/2)", numbered(count), form)) <= len(whole) - 1
    assert len(quicklist_url("ü & co (1/2)", numbered(count + 1), form)) > len(whole) - 1
    assert len(second) < len(first)


@pytest.mark.parametrize("form", FORMS)
def test_a_part_takes_what_fits(form: FormChoice) -> None:
    """A thousand features: the numbers of the parts have two digits, which costs room as well."""
    features = [Entry("gemma-2-2b", f"{i % 26}-gemmascope-res-16k", str(i * 13)) for i in range(1_000)]
    urls = quicklist_urls("all of them", features, form, 8_000)
    used: Form = "compact" if form == "auto" else form
    start = 0
    for number, url in enumerate(urls, 1):
        title, part = read_quicklist_url(url)
        assert title == f"all of them ({number}/{len(urls)})"
        assert len(url) <= 8_000
        more = features[start : start + len(part) + 1]
        start += len(part)
        fits = len(more) <= LIMIT and len(quicklist_url(title, more, used)) <= 8_000
        assert start == len(features) or not fits
    assert start == len(features)
    assert len(urls) > (9 if form != "nested" else 6)


def test_auto_is_the_published_form_unless_compact_needs_fewer_addresses() -> None:
    for count in (1, 30, 105, 116):
        assert quicklist_urls("x", numbered(count)) == [quicklist_url("x", numbered(count))]
    assert len(quicklist_url("x", numbered(130))) > URL_LIMIT
    assert quicklist_urls("x", numbered(130)) == [quicklist_url("x", numbered(130), "compact")]
    assert quicklist_urls("x", numbered(200)) == quicklist_urls("x", numbered(200), "published")
    assert len(quicklist_urls("x", numbered(260))) == 2
    assert len(quicklist_urls("x", numbered(260), "published")) == 3


def test_a_name_that_fills_an_address_is_refused() -> None:
    with pytest.raises(BadRequest, match="Not even one feature fits into an address of 13,500 characters"):
        quicklist_urls("n" * URL_LIMIT, numbered(3))


def test_duplicates_are_left_out_before_splitting() -> None:
    features = [*numbered(100), *numbered(100)]
    assert quicklist_urls("x", features) == [quicklist_url("x", numbered(100))]
    other = Entry("gpt2-small", "8-res-jb", "0")
    assert read_quicklist_url(quicklist_urls("x", [other, *numbered(2), other])[0])[1] == [other, *numbered(2)]


def test_the_nested_form_needs_numbers() -> None:
    with pytest.raises(BadRequest, match="'x' is no number"):
        quicklist_url("n", [Entry("m", "l", "x")], "nested")


def test_forms_have_names() -> None:
    assert [form_choice(name) for name in ("auto", "published", "compact", "nested")] == list(FORMS)
    with pytest.raises(BadRequest, match=r"'Nested' is not a form .* Use auto, published, compact or nested"):
        form_choice("Nested")


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


def test_error_nodes_are_no_features() -> None:
    effects = [
        Effect("resid_3", 32_768, 9.0), Effect("mlp_11", "ε", 8.0), Effect("attn_0", "error", -7.0),
        Effect("embed", -1, 6.0), Effect("resid_3", 32_767, 0.5), Effect("mlp_11", 4, 0.4),
    ]  # fmt: skip
    found = strongest(effects, 2, "pythia-70m-deduped", SETS)
    assert [str(e) for e in found] == ["pythia-70m-deduped@3-res-sm:32767", "pythia-70m-deduped@11-mlp-sm:4"]
    wide = {("m", "res-sm"): 32_767}
    assert [e.index for e in strongest(effects, 2, "m", SETS, wide)] == ["32768", "4"]


def test_a_further_folder_of_lists_goes_through_the_same_tests(tmp_path: Path) -> None:
    """Another model with other sets and more layers, redirected, compact and nested lists, and error nodes."""
    sets = {"attn": "att-xy", "mlp": "mlp-xy", "resid_mid": "mid-xy__l0-9", "resid": "res-xy"}
    effects = [
        {"site": "resid_mid_10", "index": 7, "effect": -3.0}, {"site": "attn_11", "index": "ε", "effect": 2.9},
        {"site": "embed", "index": 5, "effect": 2.0}, {"site": "mlp_10", "index": 12, "effect": 1.5},
        {"site": "resid_mid_10", "index": 8, "effect": 1.0}, {"site": "attn_11", "index": 3, "effect": -0.5},
        {"site": "resid_12", "index": -1, "effect": 0.4}, {"site": "mlp_0", "index": 0, "effect": 0.1},
    ]  # fmt: skip
    order = [("10-mid-xy__l0-9", 7), ("10-mid-xy__l0-9", 8), ("e-res-xy", 5), ("10-mlp-xy", 12), ("11-att-xy", 3)]
    features = [entry(f"other-1b/{source}", index) for source, index in order]
    name = "Größte 5/8 (ε dropped)"

    def published(name: str, url: str, **more: object) -> dict[str, object]:
        return {"name": name, "url": url, "features": msgspec.to_builtins(features), **more}

    compact = quicklist_url("compact", features, "compact").replace(PAGE, "https://www.neuronpedia.org/quick-list/")
    lists = [
        published(name, quicklist_url(name, features), effects=effects, model="other-1b", sets=sets),
        published("redirected", quicklist_url("redirected", features).replace(PAGE, "https://www.neuronpedia.org/quick-list")),
        published("compact", compact),
    ]  # fmt: skip
    assert _verdict(tmp_path, lists) == "8 passed"
    wrong = [published(name, quicklist_url(name, features), effects=effects[2:], model="other-1b", sets=sets)]
    assert _verdict(tmp_path, wrong) == "1 failed, 3 passed"


def _verdict(folder: Path, lists: list[dict[str, object]]) -> str:
    """What the tests of published lists say of a folder."""
    (folder / "published.json").write_text(json.dumps(lists), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "-k", "published_list", __file__],
        cwd=ROOT, env={**os.environ, "SAESCOPE_QUICKLISTS": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return re.sub(r"(, \d+ deselected.*| in [\d.]+s.*)", "", done.stdout.strip().splitlines()[-1])
