"""Opening a Hugging Face model folder, without a network and without the parts of transformers it does not need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from engine.errors import BadRequest, ModelMissing
from engine.hooked_model import is_hooked, open_hooked
from engine.interrupts import interrupts_later
from engine.job import Job
from engine.jsonfile import read_object
from engine.memory.use import telling_out_of_memory
from engine.model import LanguageModel
from engine.quiet import quiet_libraries
from engine.tokenizer import TextTokenizer

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def choose_device(wanted: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device that is there.

    Raises:
        BadRequest: the name is not a device, or this machine does not have it.
    """
    if wanted == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise BadRequest(f"{wanted!r} is not a device.", "Use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise BadRequest(f"{wanted} is not there: torch sees {found} CUDA devices.", "Use --device cpu.")
        return torch.device("cuda", device.index or 0)
    if device.type != "cpu":
        raise BadRequest(f"{wanted!r} is not supported.", "Use auto, cpu, cuda or cuda:N.")
    return device


def choose_dtype(wanted: str, device: torch.device, stored: str | None) -> torch.dtype:
    """`auto` is float32 on a CPU, where exact numbers are cheap, and the model's own stored dtype on a GPU."""
    if wanted == "auto":
        wanted = "float32" if device.type == "cpu" or stored not in DTYPES else stored
    if wanted not in DTYPES:
        raise BadRequest(f"{wanted!r} is not a dtype.", f"Use auto or one of {', '.join(DTYPES)}.")
    return DTYPES[wanted]


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder.

    Raises:
        ModelMissing: the folder is no Hugging Face model folder.
    """
    if not folder.is_dir():
        raise ModelMissing(f"There is no folder {folder}.", "Give a local Hugging Face model folder.")
    file = folder / "config.json"
    if not file.is_file():
        raise ModelMissing(f"{folder} has no config.json.", "Give a folder written by save_pretrained().")
    try:
        config = read_object(file)
    except ValueError as error:
        raise ModelMissing(f"{file} is not valid JSON ({error}).", "Save the model again.") from None
    if not config.get("architectures") and not is_hooked(folder, config):
        raise ModelMissing(f"{file} names no architecture.", 'Add the key architectures, e.g. ["LlamaForCausalLM"].')
    return config


def open_model(
    folder: Path,
    device: str = "auto",
    dtype: str = "auto",
    *,
    name: str | None = None,
    job: Job | None = None,
) -> LanguageModel:
    """The model in `folder` on a device, in eval mode, gradients off.

    Raises:
        ModelMissing: no such folder, no config, no safetensors weights (nor a TransformerLens checkpoint), or an
            architecture transformers lacks.
        OutOfMemory: it does not fit the device.
    """
    quiet_libraries()
    config = read_config(folder)
    if is_hooked(folder, config):
        place = choose_device(device)
        return open_hooked(folder, config, place, choose_dtype(dtype, place, "float32"), name or folder.name, job)
    if not any(folder.glob("*.safetensors")):
        raise ModelMissing(
            f"{folder} has no .safetensors weights.",
            "Pickled weights are not opened; save them again with save_pretrained().",
        )
    place = choose_device(device)
    precision = choose_dtype(dtype, place, config.get("dtype") or config.get("torch_dtype"))
    tokenizer = TextTokenizer(folder)
    if job is not None:
        job.progress("importing transformers")
    with interrupts_later():
        import transformers

    transformers.utils.logging.disable_progress_bar()
    architecture = config["architectures"][0]
    try:
        with interrupts_later():  # this imports it
            model_class = getattr(transformers, architecture)
    except AttributeError:
        raise ModelMissing(
            f"transformers {transformers.__version__} does not know {architecture}.", "Upgrade transformers."
        ) from None
    if job is not None:
        job.progress(f"loading {name or folder.name}")
    try:
        with telling_out_of_memory(f"{folder.name} does not fit on {place}.", "Use --dtype bfloat16 or --device cpu."):
            hf = model_class.from_pretrained(folder, dtype=precision, local_files_only=True, use_safetensors=True)
            hf = hf.eval().requires_grad_(False).to(place)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ModelMissing(
            f"{folder} cannot be opened: {reason}.",
            "Do config.json and the weights belong together? Save the model again with save_pretrained().",
            str(error),
        ) from None
    model = LanguageModel(hf, tokenizer, name or folder.name, folder)
    find_bos(model)
    return model


def find_bos(model: LanguageModel) -> None:
    """Take BOS from the model's configuration where the tokenizer's files name none, as those of GPT-2 do not."""
    if model.tokenizer.bos_id is not None:
        return
    said = getattr(model.config, "bos_token_id", None)
    if isinstance(said, int) and model.tokenizer.stored_token(said) is not None:
        model.tokenizer.bos_id = said
