"""Prompts typed before, kept over sessions."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from engine import paths

_KEEP = 500


class History:
    """Newest last; a prompt is kept once. Failing to write it is no reason to stop."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or paths.state_dir() / "history.jsonl"
        self._texts = self._read()
        self._typed = ""

    def _read(self) -> list[str]:
        try:
            lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        texts = []
        for line in lines[-_KEEP:]:
            with suppress(ValueError):  # a damaged line costs itself alone
                entry = json.loads(line)
                if isinstance(entry, str):
                    texts.append(entry)
        return texts

    def add(self, text: str) -> None:
        """Remember a prompt as the newest."""
        others = [t for t in self._texts if t != text]
        self._texts = [*others[-_KEEP + 1 :], text]
        try:
            paths.private_directory(self._file.parent)
            partial = self._file.with_suffix(".partial")
            partial.write_text("".join(json.dumps(t) + "\n" for t in self._texts), encoding="utf-8")
            partial.replace(self._file)
        except OSError:
            return

    def recall(self, place: int, step: int, current: str) -> tuple[str, int]:
        """The text `step` away from `place`, counted back from the newest (1); 0 is what was being typed."""
        if place == 0:
            self._typed = current
        target = max(0, min(place - step, len(self._texts)))
        if target == place:
            return current, place
        return (self._texts[-target] if target else self._typed), target
