"""Lists of words that fill templates: our own by name, and the user's from files, a word a line.

Names and professions of one list stand in pairs with those of the other at the same place, so that pairs of prompts are
the same from run to run; most are one token in the usual tokenizers, and what does not fit is said where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import BadRequest
from engine.text import has_lone_surrogate, visible

_MALE = """John James Robert Michael William David Richard Thomas Charles Steven Kevin Jason Brian Eric Patrick Anthony
Benjamin Ryan Gary Jeffrey Kenneth Dennis Jerry Justin Keith"""
_FEMALE = """Mary Elizabeth Sarah Anna Emily Maria Alice Jane Anne Linda Susan Karen Lisa Nancy Laura Julia Helen Rachel
Emma Kate Barbara Ruth Margaret Patricia Rebecca"""
_HE = """doctor engineer soldier farmer carpenter mechanic captain pilot guard driver miner hunter builder boss priest
sheriff lawyer"""
_SHE = """nurse secretary teacher librarian dancer cleaner maid editor assistant counselor baker designer tutor singer
attendant poet therapist"""
_VERBS = """works runs sings cries waits walks talks reads writes cooks eats smiles jumps drives travels listens
whispers dances paints plays thinks hopes worries rests stands sits leaves stays moves speaks studies trains fights wins
loses helps pays calls drinks dreams hides jokes argues lies agrees exercises shops learns teaches returns"""

WORDS: dict[str, tuple[str, ...]] = {
    "male_names": tuple(_MALE.split()),
    "female_names": tuple(_FEMALE.split()),
    "he_professions": tuple(_HE.split()),
    "she_professions": tuple(_SHE.split()),
    "verbs": tuple(_VERBS.split()),
}
"""Built-in lists. Professions are those that English text mostly takes to be men's and women's: a stereotype."""


@dataclass(frozen=True)
class WordList:
    """Words that fill a field of a template."""

    name: str
    words: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    """What was left out of a file, and why: a sentence each."""


def word_list(given: str) -> WordList:
    """The words of a file, a word a line, or of a built-in list; a file of that name comes first.

    Raises:
        BadRequest: there is neither, the file cannot be read, or it holds no words.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return _read(path)
    if given in WORDS:
        return WordList(given, WORDS[given])
    lists = f"Built in are {', '.join(WORDS)}."
    if path.is_dir():
        raise BadRequest(f"{given} is a folder.", f"Give a file with a word a line. {lists}")
    raise BadRequest(f"There is no file {given!r}, nor a built-in list of that name.", lists)


def _read(path: Path) -> WordList:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8 (byte {error.start}).", "Save it as UTF-8.") from None
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.", "Check the name of the file.") from None
    words: dict[str, int] = {}
    dropped = []
    for number, line in enumerate(lines, 1):
        word = line.strip()
        if not word:
            continue
        if word in words:
            dropped.append(f"{path}, line {number}: {word!r} is there twice, first in line {words[word]}.")
        elif has_lone_surrogate(word) or word != visible(word):
            dropped.append(f"{path}, line {number}: {visible(word)[:40]!r} holds characters that are not text.")
        else:
            words[word] = number
    if not words:
        raise BadRequest(f"{path} holds no words.", "Write one on each line.")
    return WordList(str(path), tuple(words), tuple(dropped))
