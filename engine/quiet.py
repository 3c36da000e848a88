"""Keeping other people's libraries quiet."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Keep Hugging Face libraries off the network and off the terminal.

    Call it before anything heavy is imported: importing torch is enough for tqdm to have read its setting.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
