"""Text the model writes itself: the prose it is asked for every day, free to train on and to ship.

Half is chat in the model's template, half is plain continuation of an opening line, sampled at temperature 1.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch

from engine.job import Job
from engine.model import LanguageModel

_ASKED = (
    "Write a short story about {}.",
    "Explain {} to a curious child.",
    "What should I know about {}?",
    "Write a friendly letter to a neighbour about {}.",
    "Write a dialogue between two old friends about {}.",
    "Give me some advice about {}.",
    "Write a news report about {}.",
    "Write a scene from a novel in which {} matters.",
    "What is the history of {}?",
    "Write a review of a book about {}.",
    "Argue for and against {}.",
    "Describe {} as a traveller would.",
)
_OPENED = (
    "The first time she heard about {}, she",
    "In the history of Europe, {}",
    "Dear Margaret, I have been thinking about {} and",
    '"I never cared for {}," said the old man,',
    "Chapter 1. It was because of {} that",
    "Scientists have found that {}",
    "The committee met on Tuesday to discuss {}, and",
    "Everyone in the village knew that {}",
    "To understand {}, one must",
    "The city council said on Monday that {}",
    "When my grandmother spoke of {}, her voice",
    "The case before the court concerned {};",
)
_TOPICS = (
    "the sea", "a lost dog", "the moon", "bread", "taxes", "a broken promise", "winter", "music", "the railway",
    "an honest doctor", "football", "the election", "gardening", "a strange letter", "mathematics", "the desert",
    "friendship", "a stolen painting", "medicine", "the old bridge", "marriage", "the kitchen", "rain", "money",
    "the library", "a famous painter", "hunger", "the school", "electricity", "a journey to Paris", "the war",
    "horses", "sleep", "the market", "justice", "a secret garden", "climate", "the theatre", "coffee", "the law",
    "a young queen", "insects", "the mountains", "work", "a hospital at night", "language", "the stars", "fear",
    "fishing", "an empty house", "religion", "the harvest", "computers", "a wedding", "the prison", "birds",
    "chess", "the river", "childhood", "a bank robbery", "vaccines", "the forest", "poetry", "a mistake",
    "cooking rice", "freedom", "the airport", "wine", "a long illness", "the human heart", "trade", "dreams",
    "a bicycle", "the police", "stone walls", "love", "an island", "photography", "the weather", "old age",
)  # fmt: skip


def openings(seed: int) -> Iterator[tuple[str, bool]]:
    """Endless (text, chat) pairs: every form with every topic, in a seeded order."""
    pairs = [(form.format(topic), True) for form in _ASKED for topic in _TOPICS]
    pairs += [(form.format(topic), False) for form in _OPENED for topic in _TOPICS]
    random.Random(seed).shuffle(pairs)
    return itertools.cycle(pairs)


def write_own_text(
    model: LanguageModel, out: Path, tokens: int, seed: int, job: Job, rows: int = 32, length: int = 240
) -> None:
    """Sample about `tokens` tokens and write them to `out` as JSONL {source: "self", text}.

    Rows are sampled together, left-padded; each record is opening and continuation as one text.
    """
    torch.manual_seed(seed)
    tokenizer = model.tokenizer
    source, written = openings(seed), 0
    end = model.config.eos_token_id
    partial = out.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        while written < tokens:
            texts = [tokenizer.render_chat(t) if chat else t for t, chat in itertools.islice(source, rows)]
            ids = [tokenizer.encode(t, bos=False) for t in texts]
            width = max(map(len, ids))
            padded = torch.tensor([[end] * (width - len(i)) + i for i in ids], device=model.device)
            mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids], device=model.device)
            with torch.inference_mode():
                rows_out = model.hf.generate(
                    input_ids=padded, attention_mask=mask, max_new_tokens=length, do_sample=True, temperature=1.0,
                    top_p=0.95, eos_token_id=end, pad_token_id=end,
                )  # fmt: skip
            for row, prompt in zip(rows_out.tolist(), ids, strict=True):
                new = row[width:]
                new = new[: new.index(end) + 1] if end in new else new
                written += len(prompt) + len(new)
                file.write(json.dumps({"source": "self", "text": tokenizer.text(prompt + new)}) + "\n")
            job.progress("writing text", min(written, tokens), tokens)
    partial.rename(out)
