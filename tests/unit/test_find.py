"""What lies in a folder is told by names and configurations, without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from engine.commands.getting import dictionaries
from engine.errors import DictionaryMissing
from engine.formats.find import find
from engine.formats.unknown import FILES
from tests.conftest import RunPython


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"{}")
    return root


def test_every_form_is_told_from_its_files(tmp_path: Path) -> None:
    files(
        tmp_path,
        "a/cfg.json", "a/sae_weights.safetensors",
        "b/cfg.json", "b/sae.safetensors",
        "c/ae.pt", "c/config.json",
        "d/25.pt", "d/25_cfg.json",
        "e/notes.txt",
    )  # fmt: skip
    assert [(place.form, place.weights[0].name) for place in find(tmp_path)] == [
        ("saelens", "sae_weights.safetensors"),
        ("sparsify", "sae.safetensors"),
        ("dictionary_learning", "ae.pt"),
        ("notebook", "25.pt"),
    ]
    for place in find(tmp_path):
        assert find(place.path) == [place]


def test_the_layout_of_feature_circuits(tmp_path: Path) -> None:
    names = ["embed", "attn_out_layer0", "mlp_out_layer0", "resid_out_layer0", "resid_out_layer10", "resid_out_layer2"]
    for name in names:
        files(tmp_path, f"dictionaries/pythia-70m-deduped/{name}/10_32768/ae.pt")
        files(tmp_path, f"dictionaries/pythia-70m-deduped/{name}/10_32768/checkpoints/ae_500.pt")
    found = [place.source for place in find(tmp_path / "dictionaries")]
    assert found == [
        "attn_out_layer0", "embed", "mlp_out_layer0", "resid_out_layer0", "resid_out_layer2", "resid_out_layer10",
    ]  # fmt: skip
    (one,) = find(tmp_path / "dictionaries/pythia-70m-deduped/resid_out_layer2")
    assert (one.source, one.path.name) == ("resid_out_layer2", "10_32768")


def test_places_that_would_have_one_name_get_longer_ones(tmp_path: Path) -> None:
    files(tmp_path, "sizes/resid_out_layer3/0_8192/ae.pt", "sizes/resid_out_layer3/10_32768/ae.pt")
    assert [place.source for place in find(tmp_path / "sizes")] == [
        "resid_out_layer3-0_8192",
        "resid_out_layer3-10_32768",
    ]
    files(tmp_path, "models/one/resid_3/x/ae.pt", "models/two/resid_3/x/ae.pt", "models/two/resid_4/x/ae.pt")
    assert [place.source for place in find(tmp_path / "models")] == ["one-resid_3-x", "two-resid_3-x", "resid_4"]


def test_trainers_at_one_submodule_keep_their_numbers(tmp_path: Path) -> None:
    files(tmp_path, *(f"run/resid_post_layer_8/trainer_{n}/ae.pt" for n in (0, 2, 10)))
    sources = ["resid_post_layer_8-trainer_0", "resid_post_layer_8-trainer_2", "resid_post_layer_8-trainer_10"]
    assert [place.source for place in find(tmp_path / "run")] == sources
    (one,) = find(tmp_path / "run/resid_post_layer_8/trainer_10")
    assert one.source == sources[-1]
    files(tmp_path, "plain/trainer_1/ae.pt", "plain/my sae: @1/ae.pt")
    assert [place.source for place in find(tmp_path / "plain")] == ["my-sae-1", "plain-trainer_1"]


def test_a_file_is_a_place_too(tmp_path: Path) -> None:
    files(tmp_path, "resid_1/ae.pt", "resid_1/checkpoints/ae_500.pt", "resid_1/other.pt", "layers.1/sae.safetensors")
    files(tmp_path, "layers.1/cfg.json")
    (whole,) = find(tmp_path / "resid_1/ae.pt")
    assert (whole.path, whole.source) == (tmp_path / "resid_1", "resid_1")
    (half,) = find(tmp_path / "resid_1/checkpoints/ae_500.pt")
    assert (half.path.name, half.source) == ("ae_500.pt", "resid_1-ae_500")
    (point,) = find(tmp_path / "layers.1/sae.safetensors")
    assert (point.form, point.path.name) == ("sparsify", "layers.1")
    with pytest.raises(DictionaryMissing, match="no dictionary"):
        find(tmp_path / "resid_1/other.pt")


def test_an_identity_needs_no_weights(tmp_path: Path) -> None:
    files(tmp_path, "mlp_0/config.json")
    (tmp_path / "mlp_0/config.json").write_text(json.dumps({"trainer": {"dict_class": "IdentityDict"}}))
    (place,) = find(tmp_path)
    assert (place.form, place.weights) == ("dictionary_learning", ())


@pytest.mark.parametrize(
    ("names", "says", "remedy"),
    [
        (["sae_weights.safetensors"], "without the cfg.json of SAELens", "Copy cfg.json"),
        (["sae.safetensors", "config.json"], "without the cfg.json of sparsify", "Copy cfg.json"),
        (["a/b/sae_weights.safetensors"], "without the cfg.json of SAELens (a/b)", "Copy cfg.json"),
        (["layer_0.safetensors", "layer_1.safetensors"], "without the config.yaml", "model_kind"),
        (["W_enc_0.safetensors", "config.yaml"], "config.yaml does not say what W_enc_0", "feature_input_hook"),
        (["autoencoder.pt"], "it has autoencoder.pt", "ae.pt"),
        (["weights.npz"], "it has weights.npz", "params.npz"),
        (["mine.safetensors"], "it has mine.safetensors", "sae_weights.safetensors"),
        ([], "it is empty", "Copy the files"),
        (["x.txt"], "form that is known.", "It holds x.txt."),
    ],
)
def test_what_was_seen_in_place_of_a_dictionary_is_named(
    tmp_path: Path, names: list[str], says: str, remedy: str
) -> None:
    with pytest.raises(DictionaryMissing) as caught:
        find(files(tmp_path, *names))
    assert caught.value.message.startswith(f"{tmp_path} holds no dictionary of a form that is known")
    assert says in caught.value.message
    assert remedy in caught.value.remedy


def test_a_configuration_that_is_no_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    files(tmp_path, "layer_0.safetensors")
    (tmp_path / "config.yaml").write_text("model_kind: transcoder_set\nfeature_input_hook: [mlp\n")
    with pytest.raises(DictionaryMissing, match=r"config\.yaml is not valid YAML \(line 3\)"):
        find(tmp_path)


def test_a_models_folder_is_told_as_one(tmp_path: Path) -> None:
    files(tmp_path, "model.safetensors", "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(DictionaryMissing, match="It is a model: give it with --model"):
        find(tmp_path)


def test_every_form_says_which_files_it_needs() -> None:
    result = CliRunner().invoke(_listing(), ["--forms"])
    for text in (*FILES.values(), "neurons:KIND", "hf://OWNER/NAME", "-m gpt2-small", "FOLDER@HOOK"):
        assert text in result.stdout


def _listing() -> typer.Typer:
    app = typer.Typer()
    app.command()(dictionaries)
    return app


@pytest.mark.parametrize("content", ["[1]", "{", '{"trainer": 1}', "[" * 100_000, '{"model_type": "llama"}'])
def test_a_configuration_of_something_else_is_passed_by(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DictionaryMissing, match="no dictionary of a form"):
        find(tmp_path)


def test_nothing_is_looked_for_too_deep_or_forever(tmp_path: Path) -> None:
    files(tmp_path, "1/2/3/ae.pt", "1/2/3/4/ae.pt", "x/1/2/3/ae.pt")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert tmp_path / "1/2/3" in [place.path for place in find(tmp_path)]
    assert all(len(place.path.relative_to(tmp_path).parts) <= 3 for place in find(tmp_path))
    with pytest.raises(DictionaryMissing, match="no folder"):
        find(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_passed_by(tmp_path: Path) -> None:
    files(tmp_path, "open/ae.pt", "closed/ae.pt")
    (tmp_path / "closed").chmod(0)
    try:
        assert [place.path.name for place in find(tmp_path)] == ["open"]
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_finding_needs_no_torch(run_python: RunPython, tmp_path: Path) -> None:
    files(tmp_path, "c/ae.pt", "d/25.pt", "d/25_cfg.json")
    done = run_python(
        "import sys; from pathlib import Path; from engine.formats.find import find;"
        "print(len(find(Path(sys.argv[1]))), [m for m in ('torch', 'numpy', 'safetensors') if m in sys.modules])",
        str(tmp_path),
    )
    assert done.stdout.strip() == "2 []", done.stderr
