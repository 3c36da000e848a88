"""Errors a user can meet. Each names its cause and the remedy, and travels over the wire as data."""

from __future__ import annotations


class SaescopeError(Exception):
    """Something a user did or met, told in one sentence, with what to do about it.

    `kind` is the stable word that programs match on; `message` is the cause; `remedy` is the way out.
    """

    kind = "error"
    exit_code = 1

    def __init__(self, message: str, remedy: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class BadRequest(SaescopeError):
    """The request itself is wrong: an unknown site, an index out of range, an empty prompt."""

    kind = "bad_request"
    exit_code = 2


class PromptTooLong(SaescopeError):
    kind = "prompt_too_long"


class OutOfMemory(SaescopeError):
    kind = "out_of_memory"


class ModelMissing(SaescopeError):
    kind = "model_missing"


class DictionaryMissing(SaescopeError):
    kind = "dictionary_missing"


class DictionaryMismatch(SaescopeError):
    """The dictionary does not fit the model: width, hook or tokenizer."""

    kind = "dictionary_mismatch"


class DownloadFailed(SaescopeError):
    kind = "download_failed"


class SessionError(SaescopeError):
    kind = "session"


class Cancelled(Exception):
    """The request was cancelled or superseded; nothing is wrong."""
