"""Text to token ids and back, exactly: ids are kept, and every token's bytes are known.

Reads `tokenizer.json` with the `tokenizers` library alone; transformers is needed only to render a chat template.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import BadRequest, ModelMissing
from engine.jsonfile import read_object
from engine.protocol import Token
from engine.text import bytes_glyph, has_lone_surrogate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>\Z")


def byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (Radford et al. 2019, `encoder.py`)."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(0x100 + n): b for n, b in enumerate(moved)}


class TextTokenizer:
    """The tokenizer of a model folder."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ModelMissing(
                f"{folder} has no tokenizer.json.",
                "Save a fast tokenizer there: AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER).",
            )
        self.folder = folder
        config = folder / "tokenizer_config.json"
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(file))
            spec = read_object(file)
            named = folder / "special_tokens_map.json"
            self._config = {
                **(read_object(named) if named.is_file() else {}),
                **(read_object(config) if config.is_file() else {}),
            }
        except Exception as error:  # the library raises Exception itself
            raise ModelMissing(
                f"The tokenizer in {folder} cannot be read ({error}).", "Save it again with save_pretrained()."
            ) from None
        self._byte_level = '"ByteLevel"' in json.dumps(spec.get("decoder") or {})
        self._alphabet = byte_level_alphabet()
        self._added: dict[int, str] = {t["id"]: t["content"] for t in spec.get("added_tokens") or []}
        self._special: frozenset[int] = frozenset(t["id"] for t in spec.get("added_tokens") or [] if t["special"])

    @cached_property
    def bos_id(self) -> int | None:
        """The id put before a text where the BOS rule asks for one."""
        return self._named_id("bos_token")

    @cached_property
    def eos_id(self) -> int | None:
        """The id that ends a text, where the tokenizer's own files name one."""
        return self._named_id("eos_token")

    def _named_id(self, name: str) -> int | None:
        token = self._config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        return self._tokenizer.token_to_id(text) if isinstance(text, str) and text else None

    @cached_property
    def vocabulary_sha256(self) -> str:
        """A hash of every (id, token) pair: equal exactly where ids mean the same tokens."""
        digest = hashlib.sha256()
        for token, index in sorted(self._tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda p: p[1]):
            digest.update(f"{index}\t{token}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        """Token ids of `text`.

        `bos`: True puts the BOS token first (once), False leaves special tokens out, None follows the
        tokenizer's own rule.
        """
        if has_lone_surrogate(text):
            raise BadRequest("The text holds bytes that are not UTF-8.", "Pass it as UTF-8.")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=bos is None).ids
        if bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens; fast for corpora."""
        return [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    @property
    def has_chat_template(self) -> bool:
        return bool(self._config.get("chat_template")) or (self.folder / "chat_template.jinja").is_file()

    def render_chat(self, text: str) -> str:
        """`text` as one user turn in the model's chat template, ready for the assistant's reply."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        if not tokenizer.chat_template:
            raise BadRequest("This model has no chat template.", "Turn chat off.")
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        assert isinstance(rendered, str)
        return rendered

    def piece(self, token_id: int) -> bytes:
        """The bytes that one token stands for."""
        if (added := self._added.get(token_id)) is not None:
            return added.encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return f"<id {token_id}>".encode()
        if self._byte_level:
            return (
                bytes(self._alphabet[c] for c in token) if all(c in self._alphabet for c in token) else token.encode()
            )
        if match := _BYTE_FALLBACK.match(token):
            return bytes([int(match[1], 16)])
        return token.replace("▁", " ").encode()

    def text(self, ids: list[int]) -> str:
        """The text that `ids` stand for together."""
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")

    def token(self, token_id: int) -> Token:
        """One token as shown: its text, or its bytes where they are no whole character."""
        data = self.piece(token_id)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = bytes_glyph(data)
        return Token(id=token_id, text=text, special=token_id in self._special)

    def stored_token(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it, e.g. `Ġthe` or `▁the`; None where there is no such id."""
        token: str | None = self._tokenizer.id_to_token(token_id)
        return token

    @property
    def size(self) -> int:
        """How many ids there are, special tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)
