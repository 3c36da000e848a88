"""What names of models and dictionaries mean where those of the field are here, and what is said where they are not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine import sets
from engine.errors import BadRequest, DictionaryMismatch, DictionaryMissing, ModelMissing, SaescopeError
from engine.resolving import resolve
from tests import named_models as named
from tests import tiny
from tests.named_models import opened

pytestmark = pytest.mark.usefixtures("alone")


# --- pythia-70m-deduped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "dictionaries", "repo", "sources"),
    [
        ("pythia-70m-deduped", ["res-sm"], named.PYTHIA, ["e-res-sm", *(f"{n}-res-sm" for n in range(6))]),
        ("pythia-70m-deduped", ["3-att-sm", "mlp-sm"], named.PYTHIA, ["3-att-sm", *(f"{n}-mlp-sm" for n in range(6))]),
        ("EleutherAI/pythia-70m-deduped", ["e-res-sm"], named.PYTHIA, ["e-res-sm"]),
        (None, ["pythia-70m-deduped-att-sm"], named.PYTHIA, [f"{n}-att-sm" for n in range(6)]),
        (None, ["pythia-70m-deduped-res-sm/blocks.3.hook_resid_post"], named.PYTHIA, ["3-res-sm"]),
        (None, ["gpt2-small-res-jb/blocks.1?.hook_resid_pre"], named.GPT2, ["10-res-jb", "11-res-jb"]),
        ("gpt2", ["12-res-jb"], named.GPT2, ["12-res-jb"]),
        ("openai-community/gpt2", [], named.GPT2, [f"{n}-res-jb" for n in range(13)]),
        ("gelu-1l", [], named.GELU, ["run1"]),
        ("gelu-1l", ["run2"], named.GELU, ["run2"]),
        (named.GELU, [f"hf://{named.RUNS}"], named.GELU, ["run1", "run2"]),
        ("gelu-1l", [f"hf://{named.RUNS}/47.pt@main"], named.GELU, ["run2"]),
    ],
)
@pytest.mark.parametrize("where", ["mirror", "hub"])
def test_names(
    built: Path, monkeypatch: pytest.MonkeyPatch, where: str, model: str | None, dictionaries: list[str], repo: str,
    sources: list[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("SAESCOPE_MIRROR" if where == "mirror" else "HF_HUB_CACHE", str(built / where))
    opening = resolve(model, dictionaries)
    inside = built / where / repo if where == "mirror" else _snapshot(built / where, repo)
    assert opening.model == inside
    assert opening.name == {named.PYTHIA: "pythia-70m-deduped", named.GPT2: "gpt2-small", named.GELU: "gelu-1l"}[repo]
    assert [place.source for place in opening.dictionaries] == sources
    assert all(file.is_file() and built / where in file.parents for p in opening.dictionaries for file in p.weights)


def _snapshot(cache: Path, repo: str) -> Path:
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / named.COMMIT


# --- gpt2-small -------------------------------------------------------------------------------------------------------


# --- gelu-1l ----------------------------------------------------------------------------------------------------------


# --- folders, hooks, neurons ------------------------------------------------------------------------------------------


def test_a_folder_of_folders_and_a_hook_behind_it(mirror: Path, tmp_path: Path) -> None:
    repo = mirror / named.SAM_MARKS.format("mlp")
    assert [p.source or p.path.name for p in resolve("pythia-70m-deduped", [str(repo)]).dictionaries] == [
        f"{layer}-mlp-sm" for layer in range(6)
    ]
    run = tmp_path / "own"
    run.mkdir()
    (run / "5.pt").write_bytes((mirror / named.RUNS / "25.pt").read_bytes())
    (run / "5_cfg.json").write_text("{}")
    with pytest.raises(DictionaryMismatch, match="which hook") as unsaid:
        opened("gelu-1l", str(run))
    assert "FOLDER@HOOK" in unsaid.value.remedy
    _, answer = opened("gelu-1l", f"{run}@blocks.0.mlp.hook_post")
    assert answer.dictionaries[0].hook == "blocks.0.mlp.hook_post"


def test_a_hook_that_the_files_contradict_is_refused(mirror: Path) -> None:
    folder = mirror / named.SAM_MARKS.format("res") / "2-res-sm"
    _, answer = opened("pythia-70m-deduped", f"{folder}@blocks.2.hook_resid_post")
    assert answer.dictionaries[0].hook == "blocks.2.hook_resid_post"
    for name in (str(folder), "2-res-sm", "pythia-70m-deduped-res-sm/blocks.2.hook_resid_post"):
        with pytest.raises(DictionaryMismatch, match=r"reads blocks\.2\.hook_resid_post, and blocks\.3") as no:
            opened("pythia-70m-deduped", f"{name}@blocks.3.hook_resid_post")
        assert no.value.remedy == "Leave out @blocks.3.hook_resid_post."


def test_one_hook_for_several_dictionaries(mirror: Path) -> None:
    for name in (str(mirror / named.JOSEPH_BLOOM), "res-jb", "gpt2-small-res-jb"):
        with pytest.raises(BadRequest, match=r"blocks\.0\.hook_resid_pre was named for 13 dictionaries"):
            resolve("gpt2-small", [f"{name}@blocks.0.hook_resid_pre"])


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "dictionaries", "error", "said"),
    [
        ("gpt2-smal", [], BadRequest, ["no set called 'gpt2-smal'", "Did you mean gpt2-small"]),
        ("gpt2-smal", ["res-jb"], ModelMissing, ["no model called gpt2-smal", "Did you mean gpt2-small"]),
        ("gpt2-medium", ["res-jb"], ModelMissing, ["gpt2-medium is not on this machine", "saescope get"]),
        ("gpt2-medium", [], BadRequest, ["Which dictionaries for gpt2-medium?", "--dictionary"]),
        ("nobody/nothing", [], ModelMissing, ["nobody/nothing", "--dictionary"]),
        ("", [], BadRequest, ["no set called ''"]),
        ("", ["res-jb"], BadRequest, ["empty name"]),
        ("gpt2-small", [""], BadRequest, ["empty name"]),
        ("gpt2-small", ["res-jbb"], DictionaryMissing, ["dictionaries of gpt2-small", "Did you mean res-jb"]),
        ("gpt2-small", ["nonsense"], DictionaryMissing, ["'nonsense'", "It has att_128k-oai"]),
        ("gelu-1l", ["res-jb"], DictionaryMissing, ["dictionaries of gelu-1l", "It has run1, run2."]),
        (None, ["run1"], DictionaryMissing, ["'run1'", "Did you mean --model gelu-1l --dictionary run1?"]),
        (None, ["gpt2-small-res-jv"], DictionaryMissing, ["'gpt2-small-res-jv'", "Did you mean gpt2-small-res-jb"]),
        (None, ["gpt2-small-res-jb/blocks.12.hook_resid_pre"], DictionaryMissing, ["no dictionary 'blocks.12"]),
        (None, ["gpt2-small-mlp-tm"], DictionaryMissing, ["None of the 12", "saescope get", "SAESCOPE_MIRROR"]),
        ("gpt2-small", ["hf://nobody/nothing"], DictionaryMissing, ["nobody/nothing is not on"]),
        ("gpt2-small", ["hf://nobody"], BadRequest, ["hf://OWNER/NAME"]),
        ("gpt2-small", ["./nowhere"], DictionaryMissing, ["no folder ./nowhere"]),
        ("gpt2-small", ["12-res-jb@blocks.1.nowhere"], BadRequest, ["'blocks.1.nowhere' is not known"]),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_at_once(
    mirror: Path, model: str | None, dictionaries: list[str], error: type[SaescopeError], said: list[str]
) -> None:
    start = time.monotonic()
    with pytest.raises(error) as caught:
        resolve(model, dictionaries)
    assert time.monotonic() - start < 2
    for words in said:
        assert words in str(caught.value), str(caught.value)
    assert caught.value.remedy


def test_without_any_copy_everything_of_the_field_is_missing() -> None:
    for name in sets.FIELD_SETS:
        with pytest.raises(ModelMissing, match="is not on this machine") as caught:
            resolve(name, ())
        assert f"saescope get model {name}" in caught.value.remedy
    assert [(s.folder, s.here, s.of) for s in sets.field_sets()] == [(None, 0, 19), (None, 0, 13), (None, 0, 1)]
    assert sets.field_sets()[2].fetch == (
        "saescope get model gelu-1l", "saescope get dictionary hf://NeelNanda/sparse_autoencoder/25.pt",
    )  # fmt: skip


def test_the_sets_of_the_field_say_what_of_them_is_here(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sets.field_sets()
    assert [(s.name, s.repo, s.here, s.of, s.fetch) for s in whole] == [
        ("pythia-70m-deduped", named.PYTHIA, 19, 19, ()),
        ("gpt2-small", named.GPT2, 13, 13, ()),
        ("gelu-1l", named.GELU, 1, 1, ()),
    ]
    assert whole[1].folder == str(mirror / named.GPT2)
    part = tmp_path / "part"
    for repo in (named.GPT2, f"{named.JOSEPH_BLOOM}/blocks.0.hook_resid_pre"):
        (part / repo).parent.mkdir(parents=True, exist_ok=True)
        (part / repo).symlink_to(mirror / repo)
    monkeypatch.setenv("SAESCOPE_MIRROR", str(part))
    assert (sets.field_sets()[1].here, sets.field_sets()[1].fetch) == (
        1,
        ("saescope get dictionary gpt2-small-res-jb",),
    )


# --- what does not belong together ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "dictionary", "said"),
    [
        (
            "gelu-1l", "gpt2-small-res-jb/blocks.3.hook_resid_pre",
            "blocks.3.hook_resid_pre does not exist: gelu-1l has 1 layers. Open the model",
        ),
        (
            "pythia-70m-deduped", "{own}/wide",
            "wide reads 24 numbers per token; blocks.1.hook_resid_post of pythia-70m-deduped has 32. Open gpt2-small.",
        ),
        (
            "pythia-70m-deduped", "{own}/tokens",
            "tokens was trained with another tokenizer than pythia-70m-deduped has. Open gpt2-small.",
        ),
        ("gpt2-small", "{own}/wide@blocks.2.hook_resid_post", "wide says that it reads blocks.1.hook_resid_post, and"),
        ("pythia-70m-deduped", "12-res-jb", "none of the dictionaries of pythia-70m-deduped. "),
    ],
)  # fmt: skip
def test_wrong_pairs_are_refused_in_one_sentence(
    mirror: Path, tmp_path: Path, model: str, dictionary: str, said: str
) -> None:
    meta = {"model_name": "gpt2-small", "vocabulary_sha256": "0" * 64}
    tiny.save_dictionary(tmp_path / "wide", "standard", d_in=24, metadata={"model_name": "gpt2-small"})
    tiny.save_dictionary(tmp_path / "tokens", "standard", metadata=meta)
    with pytest.raises(SaescopeError) as refused:
        opened(model, dictionary.format(own=tmp_path))
    assert said in str(refused.value), str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_was_made_for_another_model_says_so_and_opens(mirror: Path) -> None:
    _, answer = opened("pythia-70m-deduped", "gpt2-small-res-jb/blocks.3.hook_resid_pre")
    assert "It was made for gpt2-small; the model that is open is pythia-70m-deduped." in answer.dictionaries[0].notes
