"""The text of a corpus index: plain files, damaged ones, and data sets of a folder or a hub."""

from __future__ import annotations

import http.server
import importlib.util
import json
import threading
from pathlib import Path

import pytest

from engine.corpus.dataset import data_set, documents
from engine.corpus.dataset_process import _rows
from engine.corpus.pinning import pinned
from engine.corpus.text import PIECE, documents_of, identity_of, name_of_text
from engine.errors import BadRequest, DownloadFailed
from tests.engine.corpus_scene import COMMIT, text_file


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_file(tmp_path / "text", 150)


def test_a_long_plain_file_comes_in_pieces(tmp_path: Path) -> None:
    content = "".join(f"Paragraph {n}. " + "word " * (n % 90) + "\n\n" for n in range(600)) + "x" * (2 * PIECE)
    (tmp_path / "long.txt").write_text(content)
    pieces = [d.text for d in documents_of((str(tmp_path / "long.txt"),))]
    assert "".join(pieces) == content
    assert len(pieces) > 5
    assert max(map(len, pieces)) <= PIECE
    assert pieces[0].endswith("\n\n")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
        ("a.txt", b"a\0b", "NUL"),
        ("a.txt.gz", b"\x1f\x8b\x08\x00", "cut off or damaged"),
        ("a.jsonl.xz", b"\xfd7zXZ\x00\x00", "cut off or damaged"),
        ("a.jsonl", b'{"text": 3}\n', "no text"),
    ],
)
def test_damaged_text_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRequest, match=words):
        list(documents_of((str(tmp_path / name),)))


def test_empty_rows_keep_their_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": null}\n{"text": "three"}\n')
    assert [d.text for d in documents_of((str(tmp_path / "a.jsonl"),))] == ["one", "", "three"]


def test_a_text_that_changed_is_another(text: Path) -> None:
    before = identity_of((str(text),))
    text.write_text(text.read_text() + "\n")
    assert identity_of((str(text),)) != before


needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")


@needs_datasets
def test_a_folder_is_read_through_datasets(text: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines = text.read_text().splitlines(keepends=True)
    lines[7] = '{"text": null, "source": "s1"}\n'
    (tmp_path / "data" / "a.jsonl").write_text("".join(lines[:90]))
    (tmp_path / "data" / "b.jsonl").write_text("".join(lines[90:]))
    found = list(documents_of((str(tmp_path / "data"),)))
    assert [d.text for d in found] == [json.loads(line)["text"] or "" for line in lines]
    assert [d.text for d in documents_of((f"hf://{tmp_path / 'data'}?split=train",), skip=140)] == [
        d.text for d in found[140:]
    ]
    assert name_of_text((str(tmp_path / "data"),)) == "data (train)"
    with pytest.raises(BadRequest, match=r"no field 'body'.*There are text, source"):
        list(documents(data_set(f"hf://{tmp_path / 'data'}?field=body")))


@needs_datasets
def test_a_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    """In this process, which is quicker."""
    (tmp_path / "a.jsonl").write_text('{"n": 1, "words": "a", "text": null}\n' * 3)
    with pytest.raises(Exception, match=r"Field 'n' .* is no text.*Text are words, text"):
        _rows(data_set(f"hf://{tmp_path}?field=n"), None, 0)
    assert len(list(_rows(data_set(f"hf://{tmp_path}?field=text"), None, 1))) == 2


@pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed")
def test_a_data_set_is_read_at_one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that knows one data set, asked once; what was read before is not asked at all."""
    asked: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps({"id": "owner/name", "sha": COMMIT}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        text = pinned(("hf://owner/name?split=test",), ())
        assert text == (f"hf://owner/name?split=test&revision={COMMIT}",)
        identity = identity_of(text)
        assert len(asked) == 1
        assert pinned(("hf://owner/name?split=test",), [identity]) == text
        assert pinned(text, ()) == text
        assert len(asked) == 1
        server.shutdown()


@needs_datasets
def test_a_hub_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match=r"127.0.0.1:9 cannot be reached.*--text FOLDER"):
        list(documents_of(("hf://owner/name",)))
