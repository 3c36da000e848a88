"""How much memory a model and dictionaries will take, from the headers of their files: no number is read.

Needs neither torch nor numpy, so that a plan can be made before anything heavy is imported.
"""

from __future__ import annotations

import ast
import json
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

from engine.errors import DictionaryMissing, ModelMissing
from engine.formats.instead import instead
from engine.jsonfile import read_object
from engine.places import Place
from engine.text import visible

Numbers = dict[str, tuple[tuple[int, ...], str]]
"""Name → shape and type, the types named as safetensors names them: F32, BF16, I64."""
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per number of what a model can be opened in."""
_NAMED = 4
_HEADER_LIMIT = 100_000_000  # safetensors' own
_NPY_LIMIT = 10_000  # numpy's own
_BFLOAT16 = ("|V2", "<V2")  # numpy does not know the type, and saves two bytes of none
_PICKLE_LIMIT = 8_000_000
_AGAIN = "Copy it again from where it was published; if it is your own, save it again."
_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
# Masks and frequencies that old checkpoints store and transformers computes again.
_COMPUTED = re.compile(r"(attn|attention)\.(masked_)?bias\Z|rotary_emb\.inv_freq\Z")
_ENCODER = re.compile(r"(?i)w_?enc|encoder")


# --- one file -----------------------------------------------------------------------------------------------------


class NoWeights(ValueError):
    """A file that is called like weights and is something else, with how to get them."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def numbers_in(path: Path) -> Numbers:
    """What a file of weights holds, by name; a file of `torch.save` gives its storages, by number.

    Raises:
        NoWeights: the file is something else altogether.
        ValueError: the file is damaged or of no form that is known; names it.
        OSError: it cannot be read.
    """
    if (other := instead(path)) is not None:
        raise NoWeights(f"{path.name} {other.is_}", other.remedy)
    if path.suffix == ".npz":
        return _of_npz(path)
    # A blob in a cache has no suffix: then only a zip is taken for a file of torch.save.
    if path.suffix in _PICKLED or (path.suffix != ".safetensors" and zipfile.is_zipfile(path)):
        return _of_pickle(path)
    return _of_safetensors(path)


def _of_safetensors(path: Path) -> Numbers:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise ValueError(f"{path.name} has no header of safetensors: it is damaged or was not copied whole")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        found = {name: _entry(entry, size - 8 - length) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(f"the header of {path.name} is damaged, or the file was not copied whole") from None
    return found


def _entry(entry: Mapping[str, Any], room: int) -> tuple[tuple[int, ...], str]:
    """Shape and type of one tensor, which must lie within `room` bytes and be as long as it says."""
    shape, kind = tuple(entry["shape"]), str(entry["dtype"])
    begin, end = entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)) or not begin <= end <= room:
        raise ValueError
    if kind in SIZES and prod(shape) * SIZES[kind] != end - begin:
        raise ValueError
    return (shape, kind) if kind in SIZES else ((end - begin,), "U8")


def _of_npz(path: Path) -> Numbers:
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    found[entry.filename.removesuffix(".npy")] = _npy_header(file)
    except (zipfile.BadZipFile, ValueError, SyntaxError, TypeError, KeyError, RecursionError, EOFError, RuntimeError):
        raise ValueError(f"{path.name} is damaged or not a file of numpy.savez") from None
    return found


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], str]:
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise ValueError
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > _NPY_LIMIT:
        raise ValueError
    header = ast.literal_eval(file.read(length).decode("latin-1").strip())
    shape = tuple(header["shape"])
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError
    described = header["descr"]
    if described in _BFLOAT16:
        return shape, "BF16"
    match = re.match(r"[<>|=]?([a-z])(\d+)\Z", described) if isinstance(described, str) else None
    if match is None:
        return (0,), "U8"  # objects, texts and records, which are no weights: its reader will refuse them
    kind, size = match[1], int(match[2])
    name = "BOOL" if kind == "b" else f"{kind.upper()}{8 * size}"
    return (shape, name) if name in SIZES else ((prod(shape) * size,), "U8")


def _of_pickle(path: Path) -> Numbers:
    """Storages of `torch.save`; a file from before its zip form is taken as one of float32."""
    if not zipfile.is_zipfile(path):
        return {"": ((path.stat().st_size // 4,), "F32")}
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {_storage(e.filename): e.file_size for e in archive.infolist() if "/data/" in f"/{e.filename}"}
            pickled = next((e for e in archive.infolist() if e.filename.endswith("data.pkl")), None)
            if pickled is None:
                raise ValueError
            readable = pickled.file_size <= _PICKLE_LIMIT
            kinds = _storage_kinds(archive.read(pickled)) if readable else {}
    except (zipfile.BadZipFile, ValueError, EOFError, RuntimeError, NotImplementedError):
        raise ValueError(f"{path.name} is damaged or not a file of torch.save") from None
    return {key: ((size // SIZES[kinds.get(key, "F32")],), kinds.get(key, "F32")) for key, size in sizes.items()}


def _storage(filename: str) -> str:
    return filename.rpartition("/")[2]


def _storage_kinds(pickled: bytes) -> dict[str, str]:
    """The type of every storage a pickle names, told from its words in order; nothing of it is executed.

    A storage is written as its class followed by its number, either of which may point back to an earlier mention.
    """
    kinds: dict[str, str] = {}
    memo: dict[int, str] = {}
    before, word = "", ""
    for operation, argument, _ in pickletools.genops(pickled):
        name = operation.name
        if name in {"GLOBAL", "BINUNICODE", "SHORT_BINUNICODE"}:
            before, word = word, str(argument)
        elif name in {"BINGET", "LONG_BINGET"}:
            before, word = word, memo.get(int(argument or 0), "")
        elif name in {"BINPUT", "LONG_BINPUT"}:
            memo[int(argument or 0)] = word
            continue
        else:
            continue
        kind = _STORAGES.get(before.rpartition(" ")[2]) if before.startswith("torch ") else None
        if kind is not None:
            kinds[word] = kind
    return kinds


# --- a model ------------------------------------------------------------------------------------------------------


def model_files(folder: Path) -> tuple[Path, ...]:
    """The files a model's weights are read from, as transformers chooses them; else checkpoints of torch."""
    if (whole := folder / "model.safetensors").is_file():
        return (whole,)
    if (index := folder / "model.safetensors.index.json").is_file():
        try:
            named = read_object(index).get("weight_map")
        except ValueError as error:
            raise ModelMissing(f"{index} is not valid JSON ({error}).", "Copy the model again.") from None
        if isinstance(named, dict):
            return tuple(folder / Path(str(name)).name for name in sorted(set(map(str, named.values()))))
    return tuple(sorted(folder.glob("*.safetensors"))) or tuple(sorted(folder.glob("*.pth")))


def model_footprint(folder: Path, dtype: str) -> int:
    """Bytes of a model's weights in `dtype` (float32, bfloat16, …); tied embeddings count once.

    Raises:
        ModelMissing: there are no weights, or a file is absent or damaged.
    """
    files = model_files(folder)
    if not files:
        raise ModelMissing(f"{folder} has no weights.", "Give a folder written by save_pretrained().")
    numbers: Numbers = {}
    for file in files:
        try:
            numbers |= {f"{file.name}/{k}" if file.suffix == ".pth" else k: v for k, v in numbers_in(file).items()}
        except OSError as error:
            raise ModelMissing(f"{file} cannot be read: {error.strerror}.", "Copy the model again.") from None
        except ValueError as error:
            remedy = error.remedy if isinstance(error, NoWeights) else "Copy the model again."
            raise ModelMissing(f"{folder} cannot be opened: {visible(str(error))}.", remedy) from None
    kept = {name: entry for name, entry in numbers.items() if not _is_computed(name, entry[0])}
    if _is_tied(folder):
        kept.pop("lm_head.weight", None)
        kept.pop("embed_out.weight", None)
    return sum(_in_memory(entry, BYTES[dtype]) for entry in kept.values())


def _is_computed(name: str, shape: tuple[int, ...]) -> bool:
    return _COMPUTED.search(name) is not None and (name.endswith("inv_freq") or len(shape) != 1)


def _is_tied(folder: Path) -> bool:
    """Whether the unembedding is the embedding: what the configuration says, else what the architecture does."""
    try:
        config = read_object(folder / "config.json")
    except (OSError, ValueError):
        return False
    said = config.get("tie_word_embeddings")
    return bool(said) if said is not None else config.get("model_type") in {"gpt2", "gemma", "gemma2", "gemma3_text"}


def _in_memory(entry: tuple[tuple[int, ...], str], width: int) -> int:
    """Bytes of one tensor when floating-point numbers take `width` bytes each."""
    shape, kind = entry
    return prod(shape) * (width if kind[0] in "FB" and kind != "BOOL" else SIZES[kind])


# --- a dictionary -------------------------------------------------------------------------------------------------


def dictionary_footprint(place: Place, dtype: str) -> int:
    """Bytes of a dictionary on the device of a model in `dtype`: float32 or float64 weights, and below float32 the
    second encoder it screens with. Where nothing tells, 0: its reader will say what is missing.

    Raises:
        DictionaryMissing: a file is absent or damaged.
    """
    if not place.weights and (width := _identity_width(place)):
        return (width * width + 2 * width) * max(4, BYTES[dtype])  # encoder and decoder are one matrix
    numbers = _dictionary_numbers(place)
    # A cross-layer transcoder's decoder [d_sae, layers, d_out] is summed over the layers it writes to.
    every = sum(prod(s) // s[1] if len(s) == 3 and s[1] else prod(s) for s, _ in numbers.values())
    total = every * max(4, BYTES[dtype])
    return total + _encoder(numbers) * BYTES[dtype] if BYTES[dtype] < 4 else total


def dictionaries_footprint(places: Sequence[Place], dtype: str) -> tuple[int, ...]:
    """As `dictionary_footprint`, of each; what cannot be read is named all at once, before any weight is.

    Raises:
        DictionaryMissing: as `dictionary_footprint`; says how the others open.
    """
    sizes: list[int] = []
    failed: list[DictionaryMissing] = []
    for place in places:
        try:
            sizes.append(dictionary_footprint(place, dtype))
        except DictionaryMissing as error:
            failed.append(error)
    if not failed:
        return tuple(sizes)
    if len(places) == 1:
        raise failed[0]
    others = f" The rest ({len(sizes)}) opens without: name each, or move away what cannot be read." if sizes else ""
    if len(failed) == 1:
        raise DictionaryMissing(failed[0].message, f"{failed[0].remedy}{others}")
    named = " ".join(error.message for error in failed[:_NAMED])
    more = f" And {len(failed) - _NAMED} more." if len(failed) > _NAMED else ""
    count = f"{len(failed)} of {len(places)} dictionaries cannot be read."
    raise DictionaryMissing(f"{count} {named}{more}", f"{failed[0].remedy}{others}")


def _identity_width(place: Place) -> int:
    """How many raw neurons a place without weights stands for: what the place or its folder says."""
    if type(width := place.extra.get("width")) is int:
        return width
    try:
        trainer = read_object(place.path / "config.json").get("trainer")
    except (OSError, ValueError):
        return 0
    said = (trainer.get("activation_dim"), trainer.get("dict_size")) if isinstance(trainer, dict) else ()
    return next((n for n in said if type(n) is int), 0)


def _encoder(numbers: Numbers) -> int:
    """How many numbers the encoder has: by name, else the largest there is."""
    named = [prod(s) for name, (s, _) in numbers.items() if len(s) == 2 and _ENCODER.search(name)]
    return max(named or [prod(shape) for shape, _ in numbers.values()], default=0)


def _dictionary_numbers(place: Place) -> Numbers:
    files = place.weights or _weight_files(place.path)
    found: Numbers = {}
    for file in files:
        try:
            found |= {f"{file.name}/{name}": entry for name, entry in numbers_in(file).items()}
        except OSError as error:
            raise DictionaryMissing(f"{file} cannot be read: {error.strerror}.", _AGAIN) from None
        except NoWeights as error:
            raise DictionaryMissing(f"{file.parent / str(error)}.", error.remedy) from None
        except ValueError as error:
            raise DictionaryMissing(f"{file} cannot be read: {visible(str(error))}.", _AGAIN) from None
    return found


def _weight_files(path: Path) -> Iterable[Path]:
    known = {".safetensors", ".npz", *_PICKLED}
    if not path.is_dir():
        return (path,) if path.suffix in known else ()
    return tuple(sorted(file for file in path.iterdir() if file.suffix in known and file.is_file()))
