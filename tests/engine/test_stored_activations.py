"""Stored activations beside those here: from files, and from a server on loopback that answers well and badly."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkup.examine import Stored, check_up
from engine.checkup.neuronpedia import SERVER, Neuronpedia
from engine.checkup.report import report
from engine.checkup.results import CheckUp, StoredComparison
from engine.checkup.sample import read_text
from engine.checkup.stored_file import StoredFile
from engine.checkup.stored_rows import MOST_ROWS, Row, StoredRows
from engine.dictionary import Dictionary
from engine.errors import BadRequest, DownloadFailed, SaescopeError
from engine.formats.saelens import read_dictionary
from engine.job import Job
from engine.loading import open_model
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.sites import Site
from engine.web import Patience
from tests import tiny
from tests.web_server import BucketServer, Fault, closed_port

_TEXT = "in the end of the other thing a man of the sea and the moon in a house by the river where he was"
_WORDS = _TEXT.split()
_HASTY = Patience(attempts=2, pause=0.01, longest_pause=0.5, connect=1.0, read=0.3, whole=0.6)
PAGE = "tiny/1-res-tiny"


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> LanguageModel:
    return open_model(llama_folder, "cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "words.txt"
    file.write_text(" ".join(_WORDS * 12))
    return file


@pytest.fixture
def dictionary(tmp_path: Path) -> Dictionary:
    return read_dictionary(tiny.save_dictionary(tmp_path / "1-res-tiny", "standard"))


def checked(model: LanguageModel, dictionaries: list[Dictionary], text: Path, stored: Stored) -> tuple[CheckUp, ...]:
    opened = OpenSet(model, {d.source: d for d in dictionaries}, False, "")
    return check_up(opened, read_text(text), Job(), stored)


def compared(model: LanguageModel, dictionary: Dictionary, text: Path, stored: Stored) -> StoredComparison:
    (found,) = checked(model, [dictionary], text, stored)
    assert found.stored is not None
    return found.stored


def activations(model: LanguageModel, dictionary: Dictionary, ids: list[int]) -> torch.Tensor:
    """[tokens, features] with plain torch."""
    x = model.capture(torch.tensor([ids]), [dictionary.site])[dictionary.site][0]
    return ((x - dictionary.b_dec) @ dictionary.encoder.T + dictionary.b_enc).relu()


def row(
    model: LanguageModel, dictionary: Dictionary, seed: int, index: int | None, *, folded: bool, bos: bool
) -> dict[str, Any]:
    """A row as Neuronpedia stores it, of a random text; tokens in the vocabulary's spelling."""
    picks = torch.randint(0, len(_WORDS), (12,), generator=torch.Generator().manual_seed(seed)).tolist()
    ids = model.tokenizer.encode(" ".join(_WORDS[p] for p in picks), bos=False)
    ids = [256, *ids] if bos else ids
    acts = activations(model, dictionary, ids)
    index = int(acts[1:].amax(0).topk(seed + 1).indices[-1]) if index is None else index
    values = acts[:, index] * (dictionary.decoder[index].norm() if folded else 1)
    raw = [model.tokenizer.stored_token(i) or "" for i in ids]
    return {
        "modelId": "tiny", "layer": "1-res-tiny", "index": str(index), "values": values.tolist(),
        "tokens": [t.replace("Ġ", " ") for t in raw], "maxValue": float(values.max()),
    }  # fmt: skip


# --- files ------------------------------------------------------------------------------------------------------------


def export(model: LanguageModel, dictionary: Dictionary, file: Path, *, folded: bool, bos: bool) -> StoredFile:
    """Six rows of this dictionary, one of another, and one with tokens of another tokenizer."""
    rows = [row(model, dictionary, seed, None, folded=folded, bos=bos) for seed in range(6)]
    rows.insert(2, {"layer": "other", "index": "1", "tokens": ["a"], "values": [1]})
    rows.insert(3, {"layer": "1-res-tiny", "index": "1", "tokens": ["nie gesehen", "a"], "values": [1, 0]})
    data = ("\n".join(map(json.dumps, rows)) + "\n").encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return StoredFile(file)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("bos", [False, True])
def test_stored_activations_say_their_convention(
    model: LanguageModel, dictionary: Dictionary, text: Path, tmp_path: Path, folded: bool, bos: bool
) -> None:
    file = export(model, dictionary, tmp_path / "batch-0.jsonl.gz", folded=folded, bos=bos)
    (told,) = checked(model, [dictionary], text, file)
    found = told.stored
    assert found is not None
    assert (found.rows, found.skipped, found.fit) == (6, 1, "same")
    best = found.conventions[0]
    assert (best.folded, best.bos) == (folded, bos)
    assert best.largest_deviation < 1e-4
    assert best.correlation > 0.9999
    assert len(found.conventions) == 4
    assert all(other.median_deviation > 0.01 for other in found.conventions[1:])
    how = f"{'f·‖W_dec‖' if folded else 'raw f'}, {'with' if bos else 'without'} BOS"
    assert found.sentence.startswith(f"The stored activations are {how}: median deviation 0.00%")
    assert found.sentence in report([told])


def test_a_folded_dictionary_gives_the_same_answer(
    model: LanguageModel, dictionary: Dictionary, text: Path, tmp_path: Path
) -> None:
    file = export(model, dictionary, tmp_path / "rows.jsonl", folded=True, bos=False)
    found = compared(model, dictionary.folded(), text, file)
    assert found.conventions[0].folded
    assert found.conventions[0].largest_deviation < 1e-4


def test_activations_of_another_dictionary_are_told_in_the_verdict(
    model: LanguageModel, dictionary: Dictionary, text: Path, tmp_path: Path
) -> None:
    file = export(model, dictionary, tmp_path / "rows.jsonl", folded=False, bos=False)
    moved = replace(dictionary, site=Site("mlp_out", 3), write_site=Site("mlp_out", 3))
    (found,) = checked(model, [moved], text, file)
    assert found.stored is not None
    assert found.stored.fit == "other"
    assert found.stored.sentence.startswith("The stored activations are not those of this dictionary here")
    assert not found.belongs
    assert "Its activations here are not those that were stored." in found.sentences


def test_one_file_serves_those_dictionaries_that_it_is_of(
    model: LanguageModel, dictionary: Dictionary, text: Path, tmp_path: Path
) -> None:
    file = export(model, dictionary, tmp_path / "rows.jsonl", folded=False, bos=False)
    other = replace(dictionary, source="2-res-tiny")
    first, second = checked(model, [other, dictionary], text, file)
    assert second.stored is not None
    assert first.stored is not None
    assert (second.stored.fit, first.stored.fit) == ("same", "nothing")
    assert first.stored.sentence == "Nothing to compare with: rows.jsonl holds no activations of 2-res-tiny."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not json\n", "is damaged or no file of JSON lines"),
        (b"[1]\n" * 50, "is damaged or no file of JSON lines"),
        (b"[" * 100_000, "is damaged or no file of JSON lines"),
        (b"\x1f\x8bxx", "is cut off or damaged"),
        (gzip.compress(b'{"layer": "9"}\n' * 9000)[:-9], "is cut off or damaged"),
        (b"", "holds no activations of 1-res-tiny"),
        (b'{"layer": "\\u001b[31m9-res", "tokens": [], "values": []}\n', "holds no activations of 1-res-tiny"),
        (b'{"layer": "1-res-tiny", "index": 9999, "tokens": ["a", "b"], "values": [1, 2]}\n', "are not those of this"),
        (b'{"layer": "1-res-tiny", "index": 1e999, "tokens": ["a", "b"], "values": [1, 2]}\n', "rows are damaged"),
        (b'{"layer": "1-res-tiny", "index": 1, "tokens": ["a", "b"], "values": [NaN, 2]}\n', "rows are damaged"),
        (b'{"layer": "1-res-tiny", "index": 1, "tokens": ["a"], "values": [1%s]}\n' % (b"0" * 400), "rows are damaged"),
    ],
)
def test_files_that_hold_nothing_are_told(
    model: LanguageModel, dictionary: Dictionary, text: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(BadRequest, match=said) as caught:
        checked(model, [dictionary], text, StoredFile(tmp_path / "rows.jsonl"))
    assert "\x1b" not in str(caught.value)


def test_a_file_ordered_by_feature_gives_rows_of_many() -> None:
    rows = StoredRows("a file")
    for index in range(20):
        for _ in range(50):
            rows.add(Row(index, (1, 2), (1.0, 0.0)))
    assert rows.full
    assert [row.index for row in rows.rows] == [index for index in range(8) for _ in range(3)]
    few = StoredRows("a file")
    for _ in range(50):
        few.add(Row(7, (1, 2), (1.0, 0.0)))
    assert len(few.rows) == MOST_ROWS


# --- the site ---------------------------------------------------------------------------------------------------------


def paged(dictionary: Dictionary) -> Dictionary:
    return replace(dictionary, metadata={**dictionary.metadata, "neuronpedia_id": PAGE})


def site(model: LanguageModel, dictionary: Dictionary, **changes: Any) -> dict[str, bytes]:
    """Every feature of a dictionary as Neuronpedia answers, folded and with BOS, five texts each."""
    objects = {}
    for index in range(dictionary.d_sae):
        texts = [row(model, dictionary, seed, index, folded=True, bos=True) for seed in range(5)]
        texts.append({"tokens": ["a", "b"], "values": [0, 0]})
        answer = {"modelId": "tiny", "layer": "1-res-tiny", "index": str(index), "activations": texts, **changes}
        objects[f"api/feature/{PAGE}/{index}"] = json.dumps(answer).encode()
    return objects


@pytest.fixture
def server(model: LanguageModel, dictionary: Dictionary, monkeypatch: pytest.MonkeyPatch) -> Any:
    with BucketServer(site(model, dictionary)) as running:
        monkeypatch.setenv(SERVER, running.address + "/")
        yield running


def test_a_few_features_are_asked_for(
    model: LanguageModel, dictionary: Dictionary, text: Path, server: BucketServer
) -> None:
    found = compared(model, paged(dictionary), text, Neuronpedia(_HASTY))
    assert (found.fit, found.features, found.rows, found.notes) == ("same", 8, 24, ())
    best = found.conventions[0]
    assert (best.folded, best.bos) == (True, True)
    assert best.largest_deviation < 1e-4
    assert found.origin == server.address.removeprefix("http://")
    asked = list(server.requests)
    assert len(set(asked)) == 8
    ids = [model.tokenizer.encode(" ".join(_WORDS * 12), bos=False)[:128]]
    dense = (activations(model, dictionary, ids[0]) > 0).sum(0)
    densities = [int(dense[int(path.rpartition("/")[2])]) for path in asked]
    assert densities == sorted(densities), "from rare to dense"
    assert densities[0] < densities[-1]
    compared(model, paged(dictionary), text, Neuronpedia(_HASTY))
    assert server.requests == asked * 2, "the same ones again"


def test_features_that_are_not_there_are_made_up_for(
    model: LanguageModel, dictionary: Dictionary, text: Path, server: BucketServer
) -> None:
    compared(model, paged(dictionary), text, Neuronpedia(_HASTY))
    first, second, *_ = server.requests
    del server.objects[first.lstrip("/")]
    server.misbehave(second, Fault(body=b"null"))
    found = compared(model, paged(dictionary), text, Neuronpedia(_HASTY))
    assert (found.fit, found.features) == ("same", 8)
    assert found.notes == (f"2 features of {PAGE} not there",)
    server.objects.clear()
    server.requests.clear()
    found = compared(model, paged(dictionary), text, Neuronpedia(_HASTY))
    assert (found.fit, found.rows) == ("nothing", 0)
    assert found.sentence == f"Nothing to compare with: 4 features of {PAGE} not there."
    assert len(server.requests) == 4


def test_a_busy_server_is_waited_for_as_it_wishes(
    model: LanguageModel, dictionary: Dictionary, text: Path, server: BucketServer
) -> None:
    server.misbehave("/api", Fault(status=429, headers={"Retry-After": "0"}), times=1)
    found = compared(model, paged(dictionary), text, Neuronpedia(_HASTY))
    assert (found.fit, found.notes, len(server.requests)) == ("same", (), 9)


def test_what_came_before_the_server_broke_off_is_used(
    model: LanguageModel, dictionary: Dictionary, text: Path, server: BucketServer
) -> None:
    server.misbehave("/api", Fault(status=429, headers={"Retry-After": "3600"}), spared=3)
    other = replace(paged(dictionary), source="2-res-tiny")
    first, second = checked(model, [paged(dictionary), other], text, Neuronpedia(_HASTY))
    assert first.stored is not None
    assert second.stored is not None
    assert (first.stored.fit, first.stored.features, second.stored.fit) == ("same", 3, "nothing")
    said = "it broke off after 3 of 8 features: 127.0.0.1"
    assert first.stored.notes[0].startswith(said)
    assert "answers 429 and asks to wait 3600 s" in first.stored.notes[0]
    assert "was not asked any more" in second.stored.sentence
    assert said in report([first])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(status=429, headers={"Retry-After": "3600"}), "answers 429 and asks to wait 3600 s"),
        (Fault(status=503), "answers 503, 2 times"),
        (Fault(status=403), "answers 403 Forbidden"),
        (Fault(pause=5), "broke off .*, 2 times"),
        (Fault(trickle=0.05), "took more than 1 s for a feature"),
        (Fault(cut=100), "broke off .*, 2 times"),
        (Fault(body=b"<!DOCTYPE html><html>Sign in</html>"), "answers with something that is no JSON"),
        (Fault(body=b"[" * 100_000), "answers with something that is no JSON"),
        (Fault(body=b"[1]"), "answers with JSON of another form"),
        (Fault(body=b'{"modelId": "tiny", "layer": "\\u001b[2J", "index": "1"}'), "answers about another feature"),
        (Fault(body=b" " * (9 << 20)), "more than a feature ever has"),
        (Fault(body=b"\xff\xfe{"), "no text"),
    ],
)
def test_a_server_that_gives_nothing_ends_the_check_before_it_measures(
    model: LanguageModel, dictionary: Dictionary, text: Path, server: BucketServer, fault: Fault, said: str
) -> None:
    server.misbehave("/api", fault)
    with pytest.raises(DownloadFailed, match=said) as caught:
        checked(model, [paged(dictionary)], text, Neuronpedia(_HASTY))
    assert caught.value.remedy
    assert "\x1b" not in str(caught.value)
    assert len(server.requests) <= 2


def test_answers_without_activations_are_told(
    model: LanguageModel, dictionary: Dictionary, text: Path, server: BucketServer
) -> None:
    server.objects.update(site(model, dictionary, activations=[]))
    found = compared(model, paged(dictionary), text, Neuronpedia(_HASTY))
    assert found.fit == "nothing"
    assert found.sentence.endswith(f"features of {PAGE} without stored activations.")


def test_nothing_is_asked_where_no_page_is_known(
    model: LanguageModel, dictionary: Dictionary, text: Path, server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for metadata in ({}, {"neuronpedia_id": "../x"}, {"neuronpedia_id": "a/b/c"}, {"neuronpedia_id": 5}):
        with pytest.raises(BadRequest, match="no neuronpedia_id"):
            checked(model, [replace(dictionary, metadata=metadata)], text, Neuronpedia(_HASTY))
    monkeypatch.setenv(SERVER, "ftp://x")
    with pytest.raises(BadRequest, match="which is no address"):
        Neuronpedia().check()
    assert server.requests == []


def test_a_refused_connection_is_told_at_once(
    model: LanguageModel, dictionary: Dictionary, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVER, closed_port())
    with pytest.raises(SaescopeError, match="cannot be reached") as caught:
        checked(model, [paged(dictionary)], text, Neuronpedia(replace(_HASTY, attempts=99, pause=99)))
    assert "--activations" in caught.value.remedy
