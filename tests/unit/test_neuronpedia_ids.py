"""An audit of every id of Neuronpedia in the registry: of the layer and the kind of site that its dictionary reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from engine.names import neuronpedia, registry
from engine.names.layout import hook_of
from engine.names.models import repo_of
from engine.names.registry import Entry, release_of

COUNT = 2441
ALLOWED = {
    # The last residual stream, which has no block behind it: numbered as if it stood before a thirteenth.
    ("gpt2-small-res-jb", "blocks.11.hook_resid_post"): "gpt2-small/12-res-jb",
}
"""Right although the number is not the layer."""
UNEXPLAINED = {
    # Layer and width are right; which of the L0 it is cannot be told without the pages, so the registry's word stands.
    ("gemma-scope-9b-pt-res", "layer_20/width_131k/average_l0_114"): "gemma-2-9b/20-gemmascope-res-131k__l0-12",
}
"""The suffix names another L0 than the dictionary's."""

KINDS = {
    "res": r"resid_(pre|mid|post)$", "att": r"(hook_z|hook_attn_out)$", "mlp": r"hook_mlp_out$",
    "transcoder": r"(ln2\.hook_normalized|mlp\.hook_in|hook_mlp_in)$",
}  # fmt: skip
"""What a source of each kind reads."""


def named() -> Iterator[tuple[Entry, str]]:
    for entry in registry.all_entries():
        if (identity := neuronpedia.corrected(entry)) is not None:
            yield entry, identity


def kinds_in(identity: str) -> set[str]:
    """The kinds of sites that the name of a source speaks of."""
    return KINDS.keys() & set(re.split(r"[-_]", identity.split("/", 1)[1].split("__")[0]))


def layer_of(entry: Entry) -> int | None:
    """The layer of the hook that is read, or the one its path names; None for an embedding."""
    if release_of(entry).loader == "mntss_clt_layer_transcoder":
        return int(entry.path)
    match = re.search(r"blocks\.(\d+)\.", hook_of(entry) or "")
    return int(match[1]) if match else None


def fits(entry: Entry, identity: str) -> bool:
    """Whether a source is of the layer and kind of site that is read; `e` is the stream before the first block."""
    hook = hook_of(entry)
    if hook is not None and not all(re.search(KINDS[kind], hook) for kind in kinds_in(identity)):
        return False
    number = identity.split("/", 1)[1].split("-", 1)[0]
    if number == "e":
        return hook in ("blocks.0.hook_resid_pre", "hook_embed")
    return number == str(layer_of(entry))


def test_every_id_is_of_the_layer_and_site_that_are_read() -> None:
    wrong = {(e.release, e.id): identity for e, identity in named() if not fits(e, identity)}
    assert wrong == ALLOWED


def test_how_many_there_are_and_that_no_two_share_one() -> None:
    identities = [identity for _, identity in named()]
    assert len(identities) == COUNT
    assert [identity for identity, times in Counter(identities).items() if times > 1] == []
    assert sum(entry.neuronpedia is not None for entry in registry.all_entries()) == COUNT


@pytest.mark.parametrize("place", neuronpedia.CORRECTED)
def test_each_correction_is_still_needed(place: tuple[str, str]) -> None:
    entry = next(e for e in registry.entries(place[0]) if e.id == place[1])
    assert entry.neuronpedia is not None
    assert not fits(entry, entry.neuronpedia), "the registry is right now: drop the correction"
    assert fits(entry, neuronpedia.CORRECTED[place])


def test_the_audit_sees_every_kind_of_site() -> None:
    seen = Counter(kind for _, identity in named() for kind in kinds_in(identity))
    assert min(seen[kind] for kind in KINDS) > 50
    entry = next(e for e in registry.entries("gpt2-small-res-jb") if e.id == "blocks.7.hook_resid_pre")
    assert fits(entry, "gpt2-small/7-res-jb")
    for wrong in ("gpt2-small/8-res-jb", "gpt2-small/7-att-jb", "gpt2-small/7-mlp_32k-oai", "gpt2-small/e-res-jb"):
        assert not fits(entry, wrong)


def test_width_and_l0_of_gemma_scope_agree() -> None:
    wrong = {}
    for entry, identity in named():
        if (match := re.search(r"gemmascope-\w+-(\d+[km])__l0-(\d+)$", identity)) is None:
            continue
        assert f"width_{match[1]}" in entry.path, entry.name
        if entry.l0 != float(match[2]):
            wrong[entry.release, entry.id] = identity
    assert wrong == UNEXPLAINED


def test_models_have_repositories_and_those_are_the_registrys() -> None:
    for entry, identity in named():
        model = identity.split("/")[0]
        repo = repo_of(model)
        assert repo is not None, model
        of_release = release_of(entry).model
        if "/" in of_release:
            assert repo.lower() == of_release.lower()
        else:
            assert repo.lower().split("/")[1] in (of_release.lower(), "gpt2")
    assert len(neuronpedia.models()) == 28
    assert neuronpedia.model_of("EleutherAI/pythia-70m-deduped") == "pythia-70m-deduped"
    assert neuronpedia.model_of("gpt2") == "gpt2-small"
    assert neuronpedia.model_of("nothing") is None


def test_there_and_back() -> None:
    for entry, identity in named():
        assert neuronpedia.entries_for_source(*identity.split("/", 1)) == (entry,)


def test_the_sources_of_the_field() -> None:
    for model, source, hook in (
        ("pythia-70m-deduped", "e-res-sm", "blocks.0.hook_resid_pre"),
        ("pythia-70m-deduped", "5-res-sm", "blocks.5.hook_resid_post"),  # after the block
        ("gpt2-small", "7-res-jb", "blocks.7.hook_resid_pre"),  # before it
        ("gpt2-small", "0-att-kk", "blocks.0.attn.hook_z"),
    ):
        assert [hook_of(entry) for entry in neuronpedia.entries_for_source(model, source)] == [hook]
    for model, source in (("pythia-70m-deduped", "e-att-sm"), ("gpt2-small", "99-res-jb"), ("", "x")):
        assert neuronpedia.entries_for_source(model, source) == ()
    plain = neuronpedia.entries_for_set("gemma-2-2b", "gemmascope-res-16k")
    assert [entry.release for entry in plain] == ["gemma-scope-2b-pt-res-canonical"] * 26
    assert len(neuronpedia.entries_for_set("pythia-70m-deduped", "sae_bench-topk-res-4k")) == 24
