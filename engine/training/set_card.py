"""A set's own page, `README.md` beside its dictionaries: what they were trained on, how, and how good they are."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import fill
from typing import Any

CARD = "card.json"
PAGE = "README.md"
_WIDTH = 118
_HEAD = "| source | hook | explained variance | L0 | dead | CE loss: clean | spliced | mean-ablated | recovered |"


def write_set_card(folder: Path, dictionaries: list[str]) -> None:
    """Write the page of the set in `folder` from the `card.json` of each of its dictionaries."""
    cards = [json.loads((folder / name / CARD).read_text(encoding="utf-8")) for name in dictionaries]
    (folder / PAGE).write_text(set_card(folder.name, cards), encoding="utf-8")


def set_card(name: str, cards: list[dict[str, Any]]) -> str:
    """The page in Markdown; figures are those measured on held-out text."""
    first, training = cards[0], cards[0]["training"]
    held_out = first["held_out"]
    count, steps = len(cards), training["samples"] // training["batch"]
    what = (
        f"TopK sparse autoencoders with {training['latents']:,} latents, {training['k']} of them active on a token, on "
        f"the output of {count} blocks. SAELens format (`cfg.json`, `sae_weights.safetensors`; half precision on disk, "
        f"float32 in use). Trained with `saescope train`, seed {training['seed']}."
    )
    measured = (
        f"Measured on {held_out['tokens']:,} held-out tokens (losses, in nats per token, on "
        f"{held_out['loss_tokens']:,}). The first position and other attention sinks (norm over four medians) are left "
        "out of the variance; the first position is never spliced. Explained variance by kind of text:"
    )
    how = (
        f"{training['tokens']:,} tokens of text were read in contexts of {first['context']} tokens; every dictionary "
        f"saw {training['samples']:,} activations in batches of {training['batch']:,} ({steps:,} steps), learning rate "
        f"{training['lr']:g}, falling to a tenth over the last third. Activations longer than {training['norm_cap']:g} "
        "median norms were shortened to that length, so that attention sinks weigh no more than other tokens; the "
        "decoder row of the feature they share was then fitted to them at full length. Tokens "
        "per kind of text:"
    )
    counts = ", ".join(f"{source} {number:,}" for source, number in training["text"].items()) + "."
    parts = [
        f"# {name}: {count} dictionaries of {first['model']}",
        fill(what, _WIDTH),
        "\n".join([_HEAD, "|---" * 9 + "|", *map(_row, cards)]),
        fill(measured, _WIDTH),
        "\n".join(_by_source(cards)),
        "## Training",
        fill(how, _WIDTH),
        fill(counts, _WIDTH),
    ]
    return "\n\n".join(parts) + "\n"


def _row(card: dict[str, Any]) -> str:
    found = card["held_out"]
    cells = [
        card["source"],
        f"`{card['hook']}`",
        f"{found['explained_variance']:.3f}",
        f"{found['l0']:.1f}",
        f"{100 * found['dead_fraction']:.2f} %",
        f"{found['loss_clean']:.3f}",
        f"{found['loss_spliced']:.3f}",
        f"{found['loss_mean_ablated']:.3f}",
        f"{found['loss_recovered']:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _by_source(cards: list[dict[str, Any]]) -> list[str]:
    kinds = sorted({kind for card in cards for kind in card["held_out"]["explained_variance_by_source"]})
    rows = ["| source | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for card in cards:
        figures = card["held_out"]["explained_variance_by_source"]
        rows.append(
            "| " + " | ".join([card["source"], *(f"{figures[k]:.2f}" if k in figures else "" for k in kinds)]) + " |"
        )
    return rows
