"""Training dictionaries with SAELens' own trainer, from activations on disk to a SAELens folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.job import Job
from engine.sites import Site
from engine.training.activations import shuffled_batches
from engine.training.sinks import part_sinks, refit_sink_row, shorten

_ORDINARY = 8192


@dataclass(frozen=True)
class TrainSettings:
    """How one dictionary is trained; everything here goes into its card."""

    latents: int = 4096
    k: int = 32
    samples: int = 8_000_000
    batch: int = 1024
    lr: float = 2e-3
    """Falls linearly to a tenth over the last third."""
    norm_cap: float = 2.0
    """Activations longer than this many median norms are shortened to it (see `engine.training.sinks`)."""
    seed: int = 0


def train_dictionary(
    data: Tensor, site: Site, metadata: dict[str, Any], settings: TrainSettings, out: Path, job: Job
) -> None:
    """Train a TopK dictionary on `data` [tokens, d] and write it to the folder `out` in half precision.

    The input scale is folded into the weights and the decoder rows have unit norm, so activations are in the
    model's own units. `cfg.json` asks for float32: the folder computes in float32 wherever it is opened.
    """
    os.environ.setdefault("WANDB_MODE", "disabled")
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(settings.seed)
    width = data.shape[1]
    sample = data[torch.randperm(len(data))[:65536].sort().values].float()
    cap = settings.norm_cap * float(sample.norm(dim=1).median())
    sinks, ordinary = part_sinks(sample)
    sample = shorten(sample, cap)
    scale = float(width**0.5 / sample.norm(dim=1).mean())
    steps = settings.samples // settings.batch
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=width,
            d_sae=settings.latents,
            k=settings.k,
            normalize_activations="expected_average_only_in",
            metadata=SAEMetadata(**metadata),
        )
    )
    with torch.no_grad():
        sae.b_dec.copy_(sample.mean(0) * scale)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * settings.batch,
            train_batch_size_samples=settings.batch,
            lr=settings.lr,
            lr_end=settings.lr / 10,
            lr_warm_up_steps=min(200, steps // 10),
            lr_decay_steps=steps // 3,
            autocast=True,
            dead_feature_window=max(1, 200_000 // settings.batch),
            feature_sampling_window=max(1, steps // 10),
        ),
        sae,
        _reported(shuffled_batches(data, settings.batch, settings.seed), cap, steps, site, job),
    )
    trainer.activation_scaler.scaling_factor = scale
    trainer.fit()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    sae.save_inference_model(partial)
    _finish(partial, settings, sinks, ordinary[:_ORDINARY])
    partial.rename(out)


def _reported(batches: Iterator[Tensor], cap: float, steps: int, site: Site, job: Job) -> Iterator[Tensor]:
    for step, batch in enumerate(batches):
        if step % 50 == 0:
            job.progress(f"training {site.hook}", step, steps)
        yield shorten(batch, cap)


def _finish(folder: Path, settings: TrainSettings, sinks: Tensor, ordinary: Tensor) -> None:
    """Fit the sinks, store weights in half precision and the settings beside them."""
    weights = folder / "sae_weights.safetensors"
    state = refit_sink_row(load_file(weights), sinks, ordinary, settings.k)
    save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, weights)
    config_file = folder / "cfg.json"
    config = json.loads(config_file.read_text())
    config.update(device="cpu", dtype="float32", rescale_acts_by_decoder_norm=False)  # the norms are 1 by now
    config["metadata"]["training"] = asdict(settings)
    config_file.write_text(json.dumps(config, indent=1) + "\n")
    weights.chmod(0o644)
