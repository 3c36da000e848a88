"""`saescope labels …` and `get labels` as a user runs them, in processes of their own, against a server on loopback."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.e2e.command import Home, Ran, document, hidden_characters, is_one_line
from tests.engine.test_label_exports import explanation, written
from tests.nasty import NASTY
from tests.web_server import BucketServer, Fault, closed_port

NAME = "gpt2-small/7-res-jb"
BATCH = f"v1/{NAME}/explanations/batch-0.jsonl.gz"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "place")


def export(*texts: str) -> bytes:
    vectors = ([1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0])
    rows = (explanation(i, text, embedding=str(vectors[i % 3])) for i, text in enumerate(texts))
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def run(home: Home, *arguments: str, server: str = "") -> Ran:
    """As `Home.run`, with the address of the exports."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments], capture_output=True, cwd=home.root / "work", timeout=60,
        env={**home.environment, "SAESCOPE_EXPORTS": server or "http://127.0.0.1:1"}, check=False,
    )  # fmt: skip
    ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in ran.out + ran.err, ran.err
    assert hidden_characters(ran.out + ran.err) == set()
    return ran


def printed(home: Home, *arguments: str, server: str = "") -> str:
    ran = run(home, *arguments, server=server)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def found(home: Home, *arguments: str) -> Any:
    return document(printed(home, *arguments, "--json"))


def test_labels_are_fetched_found_written_and_removed(home: Home) -> None:
    with BucketServer({BATCH: export("names of cities", "names of towns", "closing brackets")}) as server:
        fetched = found_fetched(home, server)
    assert (fetched["labels"], fetched["embeddings"], fetched["notes"]) == (3, 3, [])
    lines = printed(home, "labels", "find", "names", "ci").splitlines()
    assert lines == ["gpt2-small@7-res-jb:0  names of cities  (gpt-4o-mini oai_token-act-pair)"]
    hits = found(home, "labels", "find", "names", "--top", "1")
    assert (hits["total"], len(hits["hits"])) == (2, 1)
    like = found(home, "labels", "find", "--like", "7-res-jb:0")
    assert [hit["index"] for hit in like["hits"]] == [1, 2]
    assert like["query"] == "names of cities"
    assert printed(home, "labels", "set", "7-res-jb:1", "hamlets").splitlines()[0] == "hamlets  (you)"
    assert found(home, "labels", "show", "gpt2-small@7-res-jb:1")[0] == {"text": "hamlets", "by": "you"}
    own = json.loads(printed(home, "labels", "export"))
    assert own == {"model": "gpt2-small", "source": "7-res-jb", "index": 1, "text": "hamlets"}
    listed = printed(home, "labels", "list")
    assert listed.startswith(f"{NAME}  4 labels of 3 features, 3 with embeddings\n    1 label from you\n")
    assert run(home, "labels", "remove", NAME) == Ran(0, "", f"saescope: 3 labels of {NAME} removed.\n")
    assert printed(home, "labels", "find", "names") == "No label has these words.\n"
    assert [each["labels"] for each in found(home, "labels", "list")] == [1]
    assert home.strays() == []


def found_fetched(home: Home, server: BucketServer) -> Any:
    (fetched,) = document(printed(home, "get", "labels", NAME, "--json", server=server.address))
    return fetched


def test_a_release_of_the_registry_is_known_by_its_name(home: Home) -> None:
    key = "v1/pythia-70m-deduped/e-res-sm/explanations/batch-0.jsonl"
    row = explanation(9, "his", modelId="pythia-70m-deduped", layer="e-res-sm")
    with BucketServer({key: json.dumps(row).encode()}) as server:
        name = "pythia-70m-deduped-res-sm/blocks.0.hook_resid_pre"
        assert printed(home, "get", "labels", name, server=server.address).startswith(
            "pythia-70m-deduped/e-res-sm  1 label,"
        )


def test_files_are_imported(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    written(folder / "explanations.jsonl.gz", [explanation(1), explanation(2, ""), "{"])
    written(folder / "notes.jsonl", [{"Name": "resid_5/3", "Annotation": "verbs"}])
    ran = run(home, "labels", "import", str(folder), "--model", "mine", "--map", "resid={}-res")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "2 labels from 2 files: mine/7-res-jb, mine/5-res"
    assert "1 damaged line left out (line 3)" in ran.out
    cut = folder / "explanations.jsonl.gz"
    cut.write_bytes(cut.read_bytes()[:-9])
    ran = run(home, "labels", "import", str(folder), "--model", "mine", "--map", "resid={}-res")
    assert ran.code == 1
    assert "cut off or damaged" in ran.out
    assert ran.err == "saescope: 1 of 2 files could not be read; the others were imported.\n"
    assert [each["labels"] for each in found(home, "labels", "list")] == [1, 1]


def test_own_labels_move_to_another_home(home: Home, tmp_path: Path) -> None:
    for index, text in enumerate(text for text in NASTY if text.strip() and "\0" not in text):
        assert run(home, "labels", "set", "--force", f"m@s:{index}", "--", text).code == 0
        if index > 3:
            break
    file = tmp_path / "mine.jsonl"
    printed(home, "labels", "export", str(file))
    other = Home(tmp_path / "other")
    printed(other, "labels", "import", str(file))
    assert printed(other, "labels", "export") == file.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("labels", "find"), "either words or --like"),
        (("labels", "find", "x", "--like", "m@s:1"), "either words or --like"),
        (("labels", "find", "x", "--source", "nowhere"), "no labels of nowhere"),
        (("labels", "find", "--like", "m@s:1"), "m@s:1 has no label, and so no embedding to compare"),
        (("labels", "find", "--like", "nonsense"), "is not a feature"),
        (("labels", "set", "9-res:1", "x"), "does not say of which model"),
        (("labels", "set", "--force", "m@s:99999999999", "x"), "is not a feature"),
        (("labels", "set", "m@s:1", "x"), "No dictionary is known as m@s. --force keeps it"),
        (("labels", "set", "gpt2-smal@7-res-jb:1", "x"), "Did you mean gpt2-small@7-res-jb? --force"),
        (("labels", "set", "gpt2-small@7-res-jb:999999999", "x"), "no feature 999999999; no dictionary has so many"),
        (("labels", "set", "SmolLM2-135M-Instruct@13-res-sc:4096", "x"), "no feature 4096; its last is 4095"),
        (("labels", "find", ""), "There is no word to look for. Give at least one word"),
        (("labels", "find", "...", "!"), "There is no word to look for."),
        (("labels", "import", "missing.jsonl"), "cannot be read"),
        (("labels", "import", ".", "--map", "resid"), "maps nothing"),
        (("labels", "remove", "a/b"), "no labels of a/b"),
        (("labels", "export", "."), "is a folder"),
        (("get", "labels", "\x1b[31mred"), "no source of a model"),
    ],
)
def test_what_cannot_be_done_is_told_on_one_line(home: Home, arguments: tuple[str, ...], said: str) -> None:
    ran = run(home, *arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert is_one_line(ran.err)
    assert said in ran.err
    assert home.strays() == []


def test_fetching_that_fails_is_told_on_one_line(home: Home) -> None:
    with BucketServer({BATCH: export("a")}) as server:
        server.misbehave("batch-0", Fault(status=429, headers={"Retry-After": "9000"}))
        failed = [run(home, "get", "labels", NAME, server=server.address)]
        failed.append(run(home, "get", "labels", "gpt2-small/8-res-jb", server=server.address))
    failed.append(run(home, "get", "labels", NAME, server=closed_port()))
    for ran, said in zip(
        failed, ("asks to wait 9000 s", "There are gpt2-small/7-res-jb.", "cannot be reached"), strict=True
    ):
        assert (ran.code, ran.out) == (1, "")
        assert is_one_line(ran.err)
        assert said in ran.err
    assert not (home.root / "data").exists()


def test_a_damaged_store_is_told_on_one_line(home: Home) -> None:
    (home.root / "data").mkdir()
    (home.root / "data" / "labels.db").write_bytes(os.urandom(9000))
    for arguments in (("labels", "list"), ("labels", "find", "x"), ("labels", "set", "m@s:1", "x")):
        ran = run(home, *arguments)
        assert ran.code == 1
        assert is_one_line(ran.err)
        assert "labels.db is damaged" in ran.err
