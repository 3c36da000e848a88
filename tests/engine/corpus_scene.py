"""What tests of the corpus index share: text with ties, a tiny open set, and an index built of them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from engine.corpus.build import Plan, build, plan_of
from engine.corpus.index import Index, open_index
from engine.job import Job
from engine.opening import OpenSet, open_set
from engine.protocol import Open
from tests import tiny

KEEP, LENGTH, ROWS = 4, 32, 3
WORDS = ["the", "in", "a", "of", "then", "other", "thin", "athe", "ofin", "the\n", "in,", "of.", "A", "the", "12", "ab"]
COMMIT = "0123456789abcdef" * 2 + "01234567"  # of a data set on a hub


def text_file(folder: Path, documents: int, seed: int = 0) -> Path:
    """JSON lines of random words, of lengths from nothing to several contexts; some twice, so that there are ties."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(chance.choices(WORDS, k=chance.choice([0, 3, 20, 60]))) for _ in range(documents)]
    lines[5::9] = lines[4:-1:9]
    file = folder / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t, "source": f"s{n % 3}"}) + "\n" for n, t in enumerate(lines)))
    return file


def open_four(model: Path, root: Path) -> OpenSet:
    """One dictionary that selects, one that does not, one whose activations have a sign, one at a gate."""
    kinds = {"topk": 1, "standard": 2, "abstopk": 2, "jumprelu": 0}
    folders = [tiny.save_dictionary(root / f"{n}-{k}", k, layer=n) for k, n in kinds.items()]
    return open_set(Open(id=1, model=str(model), dictionaries=tuple(map(str, folders)), device="cpu"), Job())


def planned(opened: OpenSet, text: Path, **more: Any) -> Plan:
    settings = {"tokens": None, "context": LENGTH, "contexts": KEEP, "rows": ROWS} | more
    return plan_of(opened, list(opened.dictionaries.values()), (str(text),), **settings)


def built(opened: OpenSet, text: Path, folder: Path, **more: Any) -> Index:
    assert build(opened, planned(opened, text, **more), folder, Job(), lambda *_: None)
    return open_index(folder)
