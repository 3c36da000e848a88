"""`python -m engine.corpus.dataset_process DATASET SKIP`: writes the documents of a data set as JSON lines."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from engine.corpus.dataset import DataSet, Line

_TIMEOUT = 8.0
"""Seconds the hub has to answer the first question; every later one is up to the library."""


def main() -> None:
    chosen = msgspec.json.decode(sys.argv[1], type=DataSet)
    out = sys.stdout.buffer
    encoder = msgspec.json.Encoder()

    def say(line: Line) -> None:
        out.write(encoder.encode(line) + b"\n")

    try:
        revision = "" if chosen.is_local else _revision(chosen)
        if sys.argv[2] == "revision":
            say(Line(revision=revision))
        else:
            skip = int(sys.argv[2])
            for number, row in enumerate(_rows(chosen, revision or None, skip), skip):
                if not number and chosen.field not in row:  # of some formats columns are not known before
                    raise _Asked(f"{chosen.title} has no field {chosen.field!r}.", f"There are {', '.join(row)}.")
                say(_document(row, chosen))
            say(Line(end=True))
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:
        say(_told(error, chosen))
    out.flush()
    os._exit(0)  # the library's threads need not be waited for


def _revision(chosen: DataSet) -> str:
    """Asked first and with one try, so that a hub that cannot be reached is known at once."""
    from huggingface_hub import HfApi

    return HfApi().dataset_info(chosen.name, revision=chosen.revision, timeout=_TIMEOUT).sha or ""


def _rows(chosen: DataSet, revision: str | None, skip: int) -> Any:
    import datasets

    datasets.disable_progress_bars()
    found = datasets.load_dataset(
        chosen.name, chosen.config, split=chosen.split, streaming=True, revision=None if chosen.is_local else revision
    )
    if found.column_names is not None and chosen.field not in found.column_names:
        raise _Asked(f"{chosen.title} has no field {chosen.field!r}.", f"There are {', '.join(found.column_names)}.")
    if found.features is not None and not _may_be_text(found.features[chosen.field]):
        text = [name for name, feature in found.features.items() if _may_be_text(feature)]
        raise _no_text(chosen, f"Text are {', '.join(text)}." if text else "Give another data set.")
    return found.skip(skip) if skip else found


def _may_be_text(feature: Any) -> bool:
    """Whether a column holds strings; one of which nothing but empty rows was seen may."""
    return getattr(feature, "dtype", None) in ("string", "large_string", "string_view", "null")


def _no_text(chosen: DataSet, remedy: str) -> _Asked:
    return _Asked(f"Field {chosen.field!r} of {chosen.title} is no text.", remedy)


class _Asked(Exception):
    """What was asked for is not there: message and remedy."""


def _document(row: dict[str, Any], chosen: DataSet) -> Line:
    text = row.get(chosen.field)
    if text is None:  # an empty row keeps its number
        text = ""
    if not isinstance(text, str):
        raise _no_text(chosen, "Give another with ?field=NAME.")
    source = row.get("source")
    return Line(source=source if isinstance(source, str) and source else chosen.title, text=text)


def _told(error: Exception, chosen: DataSet) -> Line:
    """An error as a user is told it."""
    if isinstance(error, _Asked):
        return Line(error=error.args[0], remedy=error.args[1])
    if isinstance(error, ImportError):
        return Line(error="The library `datasets` is not installed.", remedy="pip install datasets")
    if isinstance(error, ValueError | TypeError | FileNotFoundError):  # a split or configuration that is not there
        return Line(
            error=f"{chosen.title} cannot be read: {_first_line(error)}.",
            remedy="Check ?split=, ?config= and ?field=." if chosen.is_local else "Check its page on the hub.",
        )
    from engine.hub.refusals import explain

    why = explain(error, chosen.name, None)
    remedy = why.remedy.partition(" Where there is a network")[0]
    if "cannot be reached" in why.message:
        remedy += " Or give a folder of its files: --text FOLDER."
    return Line(error=why.message, remedy=remedy, download=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


if __name__ == "__main__":
    main()
