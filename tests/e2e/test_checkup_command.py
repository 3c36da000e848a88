"""`saescope doctor --dictionary`: the real command on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import main
from tests import tiny
from tests.e2e.command import Home, here, is_one_line
from tests.web_server import BucketServer, closed_port

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "words.txt"
    file.write_text("in the end of the sea and the moon in a house by the river, " * 20)
    return file


@pytest.fixture(scope="module")
def perfect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAELens dictionary that loses nothing wherever it reads: relu(x) − relu(−x) = x."""
    sae = tiny.sae("standard", hook=HOOK, metadata={"prepend_bos": False, "l0": 32.0})
    with torch.no_grad():
        eye = torch.eye(tiny.D_MODEL)
        sae.W_enc.copy_(torch.cat([eye, -eye], 1))
        sae.W_dec.copy_(torch.cat([eye, -eye], 0))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    folder = tmp_path_factory.mktemp("dictionary") / "1-res-good"
    sae.save_model(folder)
    return folder


def test_a_dictionary_is_checked_against_its_model(
    tmp_path: Path, llama_folder: Path, perfect: Path, text: Path
) -> None:
    home = Home(tmp_path / "home")
    asked = ("doctor", "--model", str(llama_folder), "--dictionary", str(perfect), "--text", str(text))
    ran = home.run(*asked, "--json")
    assert ran.code == 0, ran.err
    (found,) = json.loads(ran.out)
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert figures["explained_variance"]["measured"] == pytest.approx(1.0, abs=1e-6)
    assert figures["l0"]["measured"] == 32.0
    assert figures["l0"]["origin"] == "its configuration"
    assert figures["loss_recovered_zero"]["measured"] == pytest.approx(1.0, abs=1e-4)
    assert found["verdict"] == "agrees"
    assert found["sample"] == "words.txt"
    told = here(*asked)
    assert told.startswith("1-res-good of llama: agrees with what was published\n")
    assert "measured on" in told
    assert "32.0 by its configuration: agrees" in told


def test_a_random_dictionary_is_no_fit(llama_folder: Path, dictionary_folders: tuple[Path, ...], text: Path) -> None:
    asked = ["doctor", "-m", str(llama_folder), "--text", str(text)]
    done = CliRunner().invoke(main.app, [*asked, "-d", str(dictionary_folders[0])])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == "1-res-tiny of llama: does not fit"


def test_of_several_the_first_line_says_how_many_do_not_belong(
    llama_folder: Path, dictionary_folders: tuple[Path, ...], perfect: Path, text: Path
) -> None:
    asked = [
        "doctor",
        "-m",
        str(llama_folder),
        "--text",
        str(text),
        "-d",
        str(perfect),
        "-d",
        str(dictionary_folders[0]),
    ]
    done = CliRunner().invoke(main.app, [*asked, "--bos", "off"])
    assert done.exit_code == 1, done.stderr
    assert done.stdout.splitlines()[:3] == [
        "1 of 2 dictionaries do not belong where they are read, or are in doubt:",
        "  1-res-tiny  does not fit",
        "  1-res-good  agrees with what was published",
    ]


def test_neuronpedia_is_asked_and_its_absence_told_at_once(
    llama_folder: Path, perfect: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "1-res-good"
    shutil.copytree(perfect, folder)
    settings = json.loads((folder / "cfg.json").read_text())
    settings["metadata"]["neuronpedia_id"] = "tiny/1-res-good"
    (folder / "cfg.json").write_text(json.dumps(settings))
    asked = ["doctor", "-m", str(llama_folder), "-d", str(folder), "--text", str(text), "--activations", "neuronpedia"]
    with BucketServer({}) as server:
        monkeypatch.setenv("SAESCOPE_NEURONPEDIA", server.address)
        found = CliRunner().invoke(main.app, [*asked, "--json"])
    (checked,) = json.loads(found.stdout)
    assert checked["stored"]["fit"] == "nothing"
    assert checked["stored"]["sentence"].endswith("4 features of tiny/1-res-good not there.")
    assert server.asked_for("/api/feature/tiny/1-res-good/") == 4
    monkeypatch.setenv("SAESCOPE_NEURONPEDIA", closed_port())
    done = CliRunner().invoke(main.app, asked)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cannot be reached" in done.stderr
    assert is_one_line(done.stderr)


def test_what_cannot_be_checked_is_one_line(tmp_path: Path, llama_folder: Path, perfect: Path, text: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"layer": "9-res", "index": "0", "tokens": [], "values": []}\n')
    for more, said in (
        (("--text", str(tmp_path / "none.txt")), "There is no file"),
        (("--activations", str(tmp_path / "none.jsonl")), "or the word neuronpedia."),
        (("--activations", "neuronpedia"), "their files have no neuronpedia_id."),
        (("--text", str(text), "--activations", str(rows)), "holds no activations of 1-res-good. It holds 9-res."),
    ):
        done = CliRunner().invoke(main.app, ["doctor", "-m", str(llama_folder), "-d", str(perfect), *more])
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr
        assert is_one_line(done.stderr)
    done = CliRunner().invoke(main.app, ["doctor", "--activations", "neuronpedia"])
    assert (done.exit_code, done.stdout) == (2, "")


def test_without_a_dictionary_the_doctor_looks_at_the_machine(tmp_path: Path) -> None:
    ran = Home(tmp_path / "home").run("doctor", "--json")
    assert ran.code == 0
    assert "packages" in json.loads(ran.out)
