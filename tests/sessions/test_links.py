"""Addresses of single pages: every part of them is encoded, and a feature's comes back as the feature."""

from __future__ import annotations

import math
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadRequest
from sessions.links import (
    SITE,
    Entry,
    embed_url,
    entry,
    feature_url,
    has_page,
    inference_url,
    is_address,
    is_feature_id,
    model_url,
    parse_link,
    source_url,
    steer_url,
    topk_url,
)
from sessions.listing import Listed, link, listed_text, means_features, read_features
from sessions.quicklist import quicklist_url
from tests import samples
from tests.e2e.command import hidden_characters
from tests.nasty import NASTY

GPT2 = "gpt2-small/7-res-jb"
GEMMA = "gemma-2-2b/20-gemmascope-res-16k__l0-71"
segments = st.text(min_size=1, max_size=12).filter(lambda text: text not in (".", ".."))
indices = st.integers(0, 999_999_999)


def asked(url: str) -> tuple[str, dict[str, str]]:
    """Path and fields of an address of the site."""
    assert url.isascii()
    assert url.isprintable()
    parts = urlsplit(url)
    assert f"{parts.scheme}://{parts.netloc}" == SITE
    return parts.path, {key: value for key, (value,) in parse_qs(parts.query, keep_blank_values=True).items()}


# --- pages ----------------------------------------------------------------------------------------------------------


def test_pages_of_a_dictionary() -> None:
    assert feature_url(GEMMA, 12) == f"{SITE}/gemma-2-2b/20-gemmascope-res-16k__l0-71/12"
    assert source_url(GEMMA) == f"{SITE}/gemma-2-2b/20-gemmascope-res-16k__l0-71"
    assert model_url(GEMMA) == model_url("gemma-2-2b") == f"{SITE}/gemma-2-2b"


@given(segments, st.text(min_size=1, max_size=12).filter(lambda text: text not in (".", "..")), indices)
def test_every_part_of_a_page_is_encoded(model: str, source: str, index: int) -> None:
    model = model.replace("/", "") or "m"
    if model in (".", ".."):
        model = "m"
    url = feature_url(f"{model}/{source}", index)
    assert asked(url)[0].count("/") == 3
    if model != "api" and source.strip("/"):
        assert parse_link(url) == Entry(model, source, str(index))
        assert parse_link(url.replace("www.", "")) == Entry(model, source, str(index))


@pytest.mark.parametrize("page", ["", "gpt2-small", "/7-res-jb", "gpt2-small/", "../x", "m/..", "a\udcff/b"])
def test_what_is_no_neuronpedia_id_has_no_page(page: str) -> None:
    assert not has_page(page)
    with pytest.raises(BadRequest, match="model/source"):
        feature_url(page, 1)


def test_an_id_that_is_one_has_a_page() -> None:
    assert has_page(GPT2)
    assert not has_page(None)


# --- embedding, steering, searching ---------------------------------------------------------------------------------


def test_an_embedded_page() -> None:
    assert embed_url(GPT2, 3) == f"{SITE}/gpt2-small/7-res-jb/3?embed=true"
    parts = ("explanation", "plots", "test", "testfield", "activations", "link", "steer")
    path, fields = asked(embed_url(GPT2, 3, hide=reversed(parts), test_text="a & b=c é\n"))
    assert path == "/gpt2-small/7-res-jb/3"
    assert fields == {"embed": "true", **{f"embed{part}": "false" for part in parts}, "defaulttesttext": "a & b=c é\n"}
    assert asked(embed_url(GPT2, 3, hide=["plots", "plots"]))[1] == {"embed": "true", "embedplots": "false"}
    with pytest.raises(BadRequest, match="no part 'plot'") as caught:
        embed_url(GPT2, 3, hide=["plot"])
    assert "testfield" in caught.value.remedy


@pytest.mark.parametrize(
    ("strength", "written"),
    [(10, "10"), (10.0, "10"), (-0.25, "-0.25"), (1e21, "1000000000000000000000"), (0.1, "0.1")],
)
def test_the_steering_page(strength: float, written: str) -> None:
    path, fields = asked(steer_url(GPT2, 3, strength))
    assert path == "/gpt2-small/steer"
    assert fields == {"source": "7-res-jb", "index": "3", "strength": written}


def test_a_steering_page_without_a_strength() -> None:
    assert asked(steer_url(GPT2, 3))[1] == {"source": "7-res-jb", "index": "3"}
    assert parse_link(steer_url(GEMMA, 3, 4)) == entry(GEMMA, 3)
    for strength in (math.nan, math.inf):
        with pytest.raises(BadRequest, match="not a strength"):
            steer_url(GPT2, 3, strength)


def test_the_search_by_token() -> None:
    path, fields = asked(topk_url(GPT2, "a & b"))
    assert path == "/search-topk-by-token"
    assert fields == {"modelId": "gpt2-small", "source": "7-res-jb", "text": "a & b"}
    given_all = topk_url(GPT2, "x", density_threshold=0.01, ignore_bos=False, sort_by="density")
    assert asked(given_all)[1] | {"text": ""} == {
        "modelId": "gpt2-small", "source": "7-res-jb", "text": "", "densityThreshold": "0.01", "ignoreBos": "false",
        "sortBy": "density",
    }  # fmt: skip
    assert asked(topk_url(GPT2, "x", density_threshold=1, ignore_bos=True))[1]["densityThreshold"] == "1"
    for threshold in (-0.1, 1.1, math.nan):
        with pytest.raises(BadRequest, match="is no share"):
            topk_url(GPT2, "x", density_threshold=threshold)
    with pytest.raises(BadRequest, match="needs a text"):
        topk_url(GPT2, " \n")


def test_the_search_by_inference() -> None:
    path, fields = asked(inference_url("gpt2-small", "a+b c", source_set="res-jb"))
    assert path == "/gpt2-small"
    assert fields == {"sourceSet": "res-jb", "selectedLayers": "[]", "sortIndexes": "[]", "q": "a+b c"}
    url = inference_url("m", "q", source_set="s", sources=["5-s", "e-s"], positions=[0, 3], ignore_bos=True)
    assert asked(url)[1] | {"q": ""} == {
        "sourceSet": "s", "selectedLayers": '["5-s","e-s"]', "sortIndexes": "[0,3]", "ignoreBos": "true", "q": "",
    }  # fmt: skip


@pytest.mark.parametrize("text", [text for text in NASTY if text.strip()])
def test_texts_of_any_kind_are_asked_for(text: str) -> None:
    assert asked(topk_url(GPT2, text))[1]["text"] == text
    assert asked(inference_url("m", text))[1]["q"] == text
    assert asked(embed_url(GPT2, 3, test_text=text))[1]["defaulttesttext"] == text


def test_a_text_that_is_none_is_refused() -> None:
    with pytest.raises(BadRequest, match="is not text"):
        topk_url(GPT2, "a\udcff")


# --- features from what was pasted ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "gpt2-small@7-res-jb:3",
        "  gpt2-small@7-res-jb:3\n",
        "https://www.neuronpedia.org/gpt2-small/7-res-jb/3",
        "http://neuronpedia.org/gpt2-small/7-res-jb/3/",
        "neuronpedia.org/gpt2-small/7-res-jb/3?embed=true#x",
        "WWW.Neuronpedia.org/gpt2-small/7-res-jb/3",
        "https://www.neuronpedia.org/api/feature/gpt2-small/7-res-jb/3",
        "https://neuronpedia.org/gpt2-small/steer?index=3&source=7-res-jb",
    ],
)
def test_a_feature_is_read(text: str) -> None:
    assert parse_link(text) == Entry("gpt2-small", "7-res-jb", "3")


@pytest.mark.parametrize(
    "text",
    [
        "7-res-jb:3", "gpt2-small@7-res-jb", "gpt2-small@7-res-jb:03", "gpt2-small@7-res-jb:-3", "a@b:٣", "a@b:1e3",
        "a b@c:3", f"a@b:{'9' * 5_000}", "https://neuronpedia.org/gpt2-small/7-res-jb", "https://neuronpedia.org/a/b/03",
        "https://neuronpedia.org/a/b/c/3", "https://neuronpedia.org/%FF/b/3", "https://neuronpedia.org//b/3",
        "https://neuronpedia.org/a//3", "https://example.com/a/b/3", "https://neuronpedia.org.evil.com/a/b/3",
        "https://neuronpedia.org@evil.com/a/b/3", "https://neuronpedia.org:99999999/a/b/3/4", 
        f"neuronpedia.org/{'a' * 10**6}/b/3",        "\ud800@b:3x", "neuronpedia.org/\ud800/b/3", *NASTY,
    ],
    ids=lambda text: repr(text[:40]),
)  # fmt: skip
def test_what_names_no_feature_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_link(text)
    assert len(str(caught.value)) < 300
    assert caught.value.remedy


def test_what_looks_like_an_address_or_a_feature() -> None:
    assert is_address("neuronpedia.org")
    assert is_address(" https://www.neuronpedia.org/x")
    assert not is_address("neuronpedia.organ/x")
    assert not is_address("./neuronpedia.org/x")
    assert is_feature_id("a@b:3")
    assert not is_feature_id("b:3")


def test_the_argument_of_import_is_an_address_or_a_file(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    for text in ("-", "https://example.com/x", "neuronpedia.org/quick-list/?name=x", " a@b:3"):
        assert means_features(text)
    for text in ("circuit.pt", "/a/b@c.pt", "C:3", "a?b://c"):
        assert not means_features(text)
    with open("a@b:3", "w"):
        pass
    assert not means_features("a@b:3")


# --- saescope import and saescope link ------------------------------------------------------------------------------


def test_lines_of_addresses_are_read_in_their_order() -> None:
    features = [Entry("m", "1-a", "5"), Entry("m", "2-b", "7"), Entry("m", "1-a", "5")]
    first, second = quicklist_url("one", features), quicklist_url("zwei é", features[1:])
    listed = read_features("\r\n".join([first, "", "gpt2-small@7-res-jb:3", feature_url(GEMMA, 4), second]))
    assert listed.names == ("one", "zwei é")
    assert listed.features == (*features, entry(GPT2, 3), entry(GEMMA, 4), *features[1:])
    assert read_features(listed_text(listed)) == Listed((), listed.features)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (" \n\n", "There are no addresses."),
        ("7-res-jb:3", "'7-res-jb:3' names no feature."),
        ("\na@b:3\nx", "Line 3: 'x' names no feature."),
        ("https://example.com/x", "'https://example.com/x' is no address of Neuronpedia."),
        ("a@b:3\nneuronpedia.org/quick-list/?name=x&features=[]", "Line 2: The address lists no features."),
        ("neuronpedia.org/m/x", "'/m/x' is not the page of a feature."),
        ("neuronpedia.org", "The page '' is no quicklist."),
    ],
)
def test_a_line_that_is_wrong_is_named(text: str, wrong: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_features(text)
    assert caught.value.message == wrong


def test_features_from_the_web_are_printed_safely() -> None:
    listed = Listed((), (Entry("\x1b[31m", "\u202e", "3"),))
    assert listed_text(listed) == "␛[31m@⟨202E⟩:3"
    assert hidden_characters(listed_text(listed)) == set()


def test_the_link_of_a_feature() -> None:
    made = link("gpt2-small@7-res-jb:3")
    assert (made.feature, made.url) == ("gpt2-small@7-res-jb:3", feature_url(GPT2, 3))
    assert link(feature_url(GPT2, 3)) == made
    assert link("gpt2-small@7-res-jb:3", steer=-2.5).url == steer_url(GPT2, 3, -2.5)
    assert link("gpt2-small@7-res-jb:3", embed=True).url == embed_url(GPT2, 3)
    assert link("gpt2-small@7-res-jb:3", hide=["plots"]).url == embed_url(GPT2, 3, hide=["plots"])
    assert link("gpt2-small@7-res-jb:3", search="a b").url == topk_url(GPT2, "a b")
    with pytest.raises(BadRequest, match="Only one of"):
        link("gpt2-small@7-res-jb:3", embed=True, steer=1)


def test_a_source_without_its_model() -> None:
    """It is looked up among what is open, then in SAELens' registry."""
    dictionaries = samples.opened().dictionaries
    assert link("9-res-fk:31", dictionaries).url == f"{SITE}/fake-1l/9-res-fk/31"
    assert link("7-res-jb:3", dictionaries).feature == "gpt2-small@7-res-jb:3"
    assert link("e-res-sm:3").feature == "pythia-70m-deduped@e-res-sm:3"
    width = next(info.d_sae for info in dictionaries if info.source == "9-res-fk")
    for text, wrong in (
        ("4-res-fk:3", "'4-res-fk' has no pages"),
        (f"9-res-fk:{width}", f"9-res-fk has no feature {width}."),
        ("9-res-none:3", "No model is known that has a source '9-res-none'"),
        ("9-res-fk:03", "'03' is not the index of a feature"),
        ("9-res-fk", "'9-res-fk' names no feature"),
    ):
        with pytest.raises(BadRequest) as caught:
            link(text, dictionaries)
        assert wrong in caught.value.message


def test_a_source_of_several_models_is_not_guessed() -> None:
    with pytest.raises(BadRequest, match=r"models have a source .*MODEL@SOURCE:INDEX"):
        link("9-gemmascope-2-res-16k:3")
