"""Fetching labels from a real server on loopback that is slow, busy, broken, or has something else."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from engine.errors import BadRequest, DownloadFailed
from engine.labels.fetch import EXPORTS, Fetched, fetch_labels
from engine.labels.store import LabelStore
from engine.paths import cache_dir
from engine.web import Patience
from tests.engine.test_label_exports import explanation
from tests.web_server import BucketServer, Fault, closed_port

NAME = "gpt2-small/7-res-jb"
GPT = ("gpt2-small", "7-res-jb")
TREE = f"v1/{NAME}/explanations"
QUICK = Patience(pause=0.01, connect=1, read=0.4, longest_pause=5)


def batch(*indices: int, **more: object) -> bytes:
    return gzip.compress(b"".join(json.dumps(explanation(i, f"label {i}", **more)).encode() + b"\n" for i in indices))


def tree() -> dict[str, bytes]:
    return {
        **{f"{TREE}/batch-{i}.jsonl.gz": batch(*range(i * 100, i * 100 + 100)) for i in range(3)},
        f"v1/{NAME}/features/batch-0.jsonl.gz": b"not ours",
        f"v1/{NAME}/source.jsonl": b"{}",
        "v1/gpt2-small/8-res-jb/source.jsonl": b"{}",
        "v1/gpt2-small/7-att-kk/explanations/batch-0.jsonl.gz": batch(1),
        "v1/gemma-2-2b/0-gemmascope-res-16k/source.jsonl": b"{}",
        "v1/config/explanation_type.jsonl": b"{}",
    }


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    with BucketServer(tree()) as running:
        monkeypatch.setenv(EXPORTS, running.address + "/")
        yield running


def fetch(name: str = NAME, patience: Patience = QUICK) -> Fetched:
    return fetch_labels(LabelStore(), name, patience=patience)


def refused(match: str, name: str = NAME, patience: Patience = QUICK) -> DownloadFailed:
    """Fetch, fail, and leave the store and the server's files alone."""
    before = LabelStore().counts()
    with pytest.raises(DownloadFailed, match=match) as told:
        fetch(name, patience)
    assert LabelStore().counts() == before
    assert told.value.remedy
    return told.value


def left_over() -> list[str]:
    return [file.name for file in (cache_dir() / "labels").rglob("*") if file.is_file()]


# --- as it should be ----------------------------------------------------------------------------------------------


def test_all_labels_of_a_source_arrive(server: BucketServer) -> None:
    told: list[tuple[str, int, int]] = []
    fetched = fetch_labels(LabelStore(), NAME, lambda *progress: told.append(progress), QUICK)
    assert (fetched.labels, fetched.files, fetched.notes) == (300, 3, ())
    assert fetched.bytes == sum(len(data) for key, data in server.objects.items() if key.startswith(TREE))
    assert LabelStore().labels(*GPT, 250)[0].text == "label 250"
    assert [origin.name for origin in LabelStore().counts()[0].origins] == [f"{server.address}/{TREE}/"]
    done = [d for text, d, total in told if total == fetched.bytes]
    assert done == sorted(done)
    assert done[-1] == fetched.bytes
    assert left_over() == []


def test_a_listing_of_many_pages(server: BucketServer) -> None:
    server.page = 1
    assert fetch().labels == 300
    assert server.asked_for("continuation-token") == 2


def test_fetching_again_replaces(server: BucketServer) -> None:
    fetch()
    LabelStore().set_user(*GPT, 5, "mine")
    server.objects = {f"{TREE}/batch-0.jsonl.gz": batch(5, 1000)}
    assert fetch().labels == 2
    assert [label.text for label in LabelStore().labels(*GPT, 5)] == ["mine", "label 5"]
    assert LabelStore().counts()[0].labels == 3


def test_rows_of_other_sources_and_duplicates_are_left_out(server: BucketServer) -> None:
    server.objects = {
        f"{TREE}/a.jsonl": gzip.decompress(batch(1, 2)),
        f"{TREE}/b.jsonl.gz": batch(2, 3) + batch(4, layer="8-res-jb") + gzip.compress(b"{\n"),
    }
    assert fetch().notes == (
        "1 damaged line left out (line 4)", "1 explanation of other sources left out",
        "1 duplicate, of which the last counts",
    )  # fmt: skip
    assert LabelStore().counts()[0].features == 3


# --- what passes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize("part", ["list-type", "batch-1"])
def test_a_busy_server_is_asked_again(server: BucketServer, status: int, part: str) -> None:
    server.misbehave(part, Fault(status=status), times=2)
    assert fetch().labels == 300


def test_the_wait_the_server_wishes_is_kept(server: BucketServer) -> None:
    server.misbehave("batch-1", Fault(status=429, headers={"Retry-After": "1"}), times=1)
    told: list[str] = []
    started = time.monotonic()
    fetch_labels(LabelStore(), NAME, lambda text, *_: told.append(text), QUICK)
    assert 1 <= time.monotonic() - started < 5
    assert any("answers 429; attempt 2 of 4 in 1 s" in text for text in told)


@pytest.mark.parametrize("wish", ["²", "soon", "-1", "", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"])
def test_a_wish_that_is_none_is_passed_over(server: BucketServer, wish: str) -> None:
    server.misbehave("batch-1", Fault(status=503, headers={"Retry-After": wish}), times=1)
    assert fetch().labels == 300


def test_a_wait_that_is_too_long_is_told(server: BucketServer) -> None:
    server.misbehave("batch-1", Fault(status=429, headers={"Retry-After": "3600"}))
    started = time.monotonic()
    refused("answers 429 and asks to wait 3600 s")
    server.behave()
    server.misbehave("batch-1", Fault(status=503, headers={"Retry-After": formatdate(time.time() + 900, usegmt=True)}))
    refused(r"asks to wait (89\d|900) s")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut=40), Fault(cut=0), Fault(cut=40, pause=2), Fault(pause=2),
        Fault(body=b"short", headers={"Content-Length": "5"}), Fault(body=b"x" * 100_000),
    ],
    ids=["cut", "nothing", "stalls", "silent", "short", "long"],
)  # fmt: skip
def test_what_broke_off_is_fetched_again(server: BucketServer, fault: Fault) -> None:
    server.misbehave("batch-1", fault, times=1)
    assert fetch().labels == 300
    assert server.asked_for("batch-1") == 2
    assert server.asked_for("batch-0") == 1


def test_a_slow_server_is_waited_for(server: BucketServer) -> None:
    server.misbehave("batch-1", Fault(pause=0.3), times=1)
    assert fetch().labels == 300
    assert server.asked_for("batch-1") == 1


# --- what does not ------------------------------------------------------------------------------------------------


def test_asking_ends_and_goes_on_where_it_was_the_next_time(server: BucketServer) -> None:
    server.misbehave("batch-2", Fault(cut=30))
    refused("broke off .*, 4 times")
    assert server.asked_for("batch-2") == 4
    assert len(left_over()) == 2
    server.behave()
    assert fetch().labels == 300
    assert (server.asked_for("batch-0"), server.asked_for("batch-1")) == (1, 1)
    assert left_over() == []


def test_a_file_that_changed_meanwhile_is_fetched_again(server: BucketServer) -> None:
    server.misbehave("batch-2", Fault(status=500))
    refused("answers 500, 4 times")
    server.behave()
    server.objects[f"{TREE}/batch-0.jsonl.gz"] = batch(7777)
    assert fetch().labels == 201
    assert LabelStore().labels(*GPT, 7777)


@pytest.mark.parametrize(
    "body",
    [b"\x1f\x8b" + b"\0" * 50, batch(1, 2, 3)[:-9], b"<html>sign in</html>\n", b"[1, 2]\n", gzip.compress(b"{}\n" * 9)],
    ids=["no gzip", "cut gzip", "html", "list", "other rows"],
)
def test_files_that_hold_something_else(server: BucketServer, body: bytes) -> None:
    """Where the export itself is wrong: nothing is stored, not even of the files that are right."""
    wrong = "batch-1" if body.startswith(b"\x1f\x8b") and b"{}" not in gzip_or_nothing(body) else ""
    for key in [key for key in server.objects if key.startswith(TREE) and wrong in key]:
        server.objects[key] = body
    refused("The labels of gpt2-small/7-res-jb .* cannot be read")
    assert left_over() == []


def gzip_or_nothing(body: bytes) -> bytes:
    try:
        return gzip.decompress(body)
    except (OSError, EOFError):
        return b""


BOMB = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><ListBucketResult>&b;'
ENDLESS = (
    b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>true</IsTruncated>'
    b"<NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
)
SIZELESS = b"<ListBucketResult><Contents><Key>v1/x</Key><Size>-5</Size></Contents></ListBucketResult>"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<!DOCTYPE html><html>Sign in to the Wi-Fi</html>", "a web page"), (BOMB, "declarations"),
        (b'{"message": "hello"}', "is not XML"), (b"", "is not XML"), (b"<a/>", "is a 'a'"), (ENDLESS, "has no end"),
        (SIZELESS, "no name or size"), (b"\xff\xfe<\0a\0", "no text"), (b" " * (9 << 20), "more than a listing"),
    ],
)  # fmt: skip
def test_listings_that_are_none(server: BucketServer, body: bytes, why: str) -> None:
    server.misbehave("list-type", Fault(body=body))
    refused(why)
    assert server.asked_for("") < 5


def test_names_in_a_listing_name_no_file_here(server: BucketServer) -> None:
    server.objects = {f"{TREE}/../../../../evil.jsonl.gz": batch(1), f"{TREE}/ü?&#.jsonl.gz": batch(2)}
    listing = server.listing(f"{TREE}/", delimiter="")
    server.misbehave("list-type", Fault(body=listing))
    server.misbehave("evil", Fault(body=batch(1)))
    assert fetch().labels == 2
    assert not list(cache_dir().parent.rglob("evil*"))


def test_a_source_without_labels_and_names_that_are_not_there(server: BucketServer) -> None:
    refused("has gpt2-small/8-res-jb, but no labels of it", "gpt2-small/8-res-jb")
    error = refused("no source 9-res-jb of gpt2-small", "gpt2-small/9-res-jb")
    assert "gpt2-small/7-res-jb" in error.remedy
    assert "7-att-kk" not in error.remedy.split(",")[0]
    error = refused("no model gpt2", "gpt2/7-res-jb")
    assert "gpt2-small" in error.remedy
    server.objects = {}
    refused("no model gpt2-small")


@pytest.mark.parametrize("status", [403, 404, 418])
def test_refusals_are_not_repeated(server: BucketServer, status: int) -> None:
    server.misbehave("list-type", Fault(status=status))
    refused(f"answers {status}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["gpt2-small", "a/b/c", "../etc", "a/..", "a b/c", "/", "", "a/b?x", "ä/b"])
def test_names_that_are_none(server: BucketServer, name: str) -> None:
    with pytest.raises(BadRequest, match="is no source of Neuronpedia"):
        fetch(name)
    assert server.requests == []


def test_without_network_it_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (closed_port(), "http://nowhere.invalid"):
        monkeypatch.setenv(EXPORTS, address)
        started = time.monotonic()
        refused("cannot be reached", patience=Patience())
        assert time.monotonic() - started < 5
    assert not (cache_dir() / "labels").exists()


@pytest.mark.parametrize("address", ["nonsense", "http://[", "ftp://x", "http://"])
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(EXPORTS, address)
    with pytest.raises(BadRequest, match="is no address"):
        fetch()


def test_a_store_that_cannot_be_written_keeps_what_was_fetched(server: BucketServer) -> None:
    store = LabelStore()
    store.file.parent.mkdir()
    store.file.write_bytes(b"x" * 5000)
    with pytest.raises(Exception, match="is damaged"):
        fetch()
    store.file.unlink()
    assert fetch().labels == 300
    assert server.asked_for("batch-0") == 1
