"""Why a hub would not give something, in words, with the way out."""

from __future__ import annotations

import traceback

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from engine.errors import DownloadFailed
from engine.hub.local import from_elsewhere

_LOG_IN = "Set HF_TOKEN, or run `hf auth login`"


def explain(error: Exception, repo: str, name: str | None) -> DownloadFailed:
    """The error of a user for an error of huggingface_hub or of the network below it."""
    if isinstance(error, DownloadFailed):
        return error
    message, remedy = _words(error, repo, name)
    return DownloadFailed(message, remedy, detail="".join(traceback.format_exception(error)))


def _words(error: Exception, repo: str, name: str | None) -> tuple[str, str]:
    page = f"https://huggingface.co/{repo}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 0
    if isinstance(error, GatedRepoError):
        if get_token() is None:
            return f"{repo} has a licence to accept, and no token was given.", f"Accept it at {page}. {_LOG_IN}."
        return f"The account of your token has not accepted the licence of {repo}.", f"Accept it at {page}."
    if status == 401 and get_token() is not None:
        return "The hub does not accept your token.", f"Make one at https://huggingface.co/settings/tokens. {_LOG_IN}."
    if isinstance(error, DisabledRepoError):
        return f"{repo} was disabled by the hub.", f"See {page}."
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        more = "" if get_token() else f" If it is private: {_LOG_IN}."
        return f"There is no repository {repo}, or it is not open to you.", f"Check {page}.{more}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no such branch, tag or commit.", f"See {page}/commits."
    if isinstance(error, EntryNotFoundError) and name is not None:
        return f"{repo} has no file {name}.", f"See {page}/tree/main; a newer sae-lens may know where it is."
    if isinstance(error, HFValidationError):
        return f"{repo!r} is no name of a repository.", "Write OWNER/NAME."
    if status == 403:
        return f"The hub refuses {repo} to your token.", "Give the token the right to read gated repositories."
    if status == 429:
        return "The hub was asked too often and answers no more for now.", f"Wait some minutes. {_LOG_IN} for more."
    if status >= 500:
        return f"The hub at {constants.ENDPOINT} is out of order ({status}).", "Try again later."
    if status:
        return f"The hub answers {status} to {repo}.", f"See {page}."
    if isinstance(error, ValueError | KeyError | TypeError):
        return f"What {constants.ENDPOINT} answers cannot be read.", "Check HF_ENDPOINT and any proxy."
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}.", "Set HF_HUB_CACHE to a folder that can be written."
    if "consistency check failed" in str(error).lower():
        return f"{name or repo} did not arrive whole.", "Try again; what is whole stays."
    elsewhere = from_elsewhere(repo, "saescope get")
    return f"The hub at {constants.ENDPOINT} cannot be reached.", f"Check the network or HF_ENDPOINT. {elsewhere}"
