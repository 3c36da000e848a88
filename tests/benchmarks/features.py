"""Prompt → top features: the obvious pipeline beside ours, in one process. `python -m tests.benchmarks.features`.

The obvious pipeline is what one writes in a notebook: TransformerBridge.run_with_cache, SAE.encode of sae_lens for
every dictionary, topk per token and over the prompt. Both answer the same question: the 8 strongest features of every
token and the 50 strongest of the prompt, all sites.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import default_model
from engine.answer import Answer, Question
from engine.features import read_prompt
from engine.formats.saelens import read_dictionary
from engine.job import Job
from engine.loading import open_model
from engine.quiet import quiet_libraries
from engine.resolving import resolve
from tests import tiny
from tests.benchmarks.measuring import extra_megabytes, machine, medians, table

TOKENS, TOP, PER_TOKEN = 128, 50, 8
TEXT = (
    "The lighthouse keeper wrote every evening what the sea had brought: planks, a shoe, once a letter in "
    "a bottle that nobody on the island could read. In winter the ferry came twice a month, and the "
    "schoolteacher carried the mail up the hill herself, since the road was ice and the only horse was "
    "older than the church bell. When the storm of that year was over they found the bell lying in the "
    "harbour, and it took eleven men and all the rope in the village to bring it back. The keeper noted "
    "the date, the weather, and the names of the eleven men, and then he put out the lamp. "
)


@dataclass
class Case:
    """A model, its dictionaries, and a prompt."""

    name: str
    model: Path
    dictionaries: list[Path]
    ids: list[int]


def default_case() -> Case:
    folder = default_model.ensure(Job())
    ids = open_model(folder, "cpu").tokenizer.encode(TEXT, bos=False)
    return Case("the default set", folder, [place.path for place in resolve(None, ()).dictionaries], ids[:TOKENS])


def gpt2_case(root: Path, layers: int = 12, latents: int = 24_576) -> Case:
    """GPT-2 small's shape with random weights, a random dictionary after every layer, about 60 features a token."""
    import transformers as hf

    torch.manual_seed(0)
    model = hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=layers))
    folder = tiny.save_model(model, root / "gpt2-shape")
    ids = torch.randint(0, 50_000, (TOKENS,)).tolist()
    caught = open_model(folder, "cpu").capture(torch.tensor([ids]), _sites(layers))
    dictionaries = []
    for site, x in caught.items():
        place = root / f"{site.layer}-res-random"
        sae = tiny.sae("standard", hook=site.hook, d_in=x.shape[-1], d_sae=latents, metadata={"prepend_bos": False})
        with torch.no_grad():
            sae.W_enc.div_(sae.W_enc.norm(dim=0, keepdim=True))
            sae.W_dec.copy_(sae.W_enc.T)
            sae.b_dec.zero_()
            sae.b_enc.zero_()
            pre = x[0] @ sae.W_enc
            sae.b_enc.copy_(-pre.flatten()[::7].quantile(1 - 60 / latents) * torch.ones(latents))
        sae.save_model(place)
        dictionaries.append(place)
    return Case(f"GPT-2 small's shape, {layers} × {latents:,} latents", folder, dictionaries, ids)


def _sites(layers: int) -> list[Any]:
    from engine.sites import Site

    return [Site("resid_post", layer) for layer in range(layers)]


# --- the two ways -------------------------------------------------------------------------------------------------


def obvious(case: Case, device: str) -> Callable[[], list[float]]:
    """Everything in float32, as a notebook does it; returns the activations of the prompt's top features."""
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge

    bridge: Any = TransformerBridge.boot_transformers(str(case.model), device=device)
    saes = [SAE.load_from_disk(folder, device=device) for folder in case.dictionaries]
    tokens = torch.tensor([case.ids], device=device)

    def run() -> list[float]:
        with torch.no_grad():
            _, cache = bridge.run_with_cache(tokens)
            activations = [sae.encode(cache[sae.cfg.metadata.hook_name][0]) for sae in saes]
            per_token = [a.topk(PER_TOKEN, dim=1) for a in activations]
            over_prompt: Tensor = torch.stack([a[1:].amax(0) for a in activations])
            top = over_prompt.flatten().topk(TOP)
            del per_token
            return sorted(top.values.tolist(), reverse=True)

    return run


def ours(case: Case, device: str, dtype: str) -> Callable[[], list[float]]:
    """The engine's own call, in one precision."""
    model = open_model(case.model, device, dtype)
    dictionaries = [read_dictionary(folder).to(model.device, model.dtype) for folder in case.dictionaries]
    answers: list[Answer] = []

    def run() -> list[float]:
        answers.clear()
        question = Question(top=TOP, per_token=PER_TOKEN)
        read_prompt(model, dictionaries, case.ids, question, Job(), answers.append)
        return [hit.activation for hit in answers[0].hits]

    return run


def compare(case: Case, device: str, rounds: int) -> None:
    jobs: dict[str, Callable[[], list[float]]] = {
        "obvious (float32)": obvious(case, device),
        "ours, float32": ours(case, device, "float32"),
        "ours, bfloat16": ours(case, device, "bfloat16"),
    }
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    seconds = medians(jobs, rounds, synchronise)
    reference = torch.tensor(jobs["obvious (float32)"]())
    rows = []
    for name, job in jobs.items():
        found = torch.tensor(job())
        apart = float(((found - reference).abs() / reference).max())
        rows.append(
            [
                name,
                f"{1000 * seconds[name]:.0f} ms",
                f"{seconds['obvious (float32)'] / seconds[name]:.1f}×",
                f"{extra_megabytes(job, device):.0f} MB",
                f"{apart:.0e}" if name.startswith("ours") else "",
            ]
        )
    head = ["", "median", "faster", "extra memory", "largest relative difference of the top 50"]
    table(f"{case.name}, {len(case.ids)} tokens, {len(case.dictionaries)} dictionaries", head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    quiet_libraries()
    print(machine(chosen.device))
    compare(default_case(), chosen.device, chosen.rounds)
    with tempfile.TemporaryDirectory() as root:
        compare(gpt2_case(Path(root)), chosen.device, chosen.rounds)


if __name__ == "__main__":
    main()
