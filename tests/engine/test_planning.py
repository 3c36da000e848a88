"""What is chosen for a model and dictionaries of given sizes: tables, and what holds for any sizes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from engine.errors import BadRequest, DictionaryMissing, OutOfMemory
from engine.formats.neurons import places_for
from engine.loading import open_model
from engine.memory.planning import Needs, Shape, choose, neuron_places, plan, size
from engine.places import Place
from engine.results import MemoryPlan
from tests import tiny

GB = 10**9
RANK = {"device": 2, "host": 1, "disk": 0}


def needs(dtype: str, model: float, *dictionaries: float, working: float = 1, share: float = 1.0) -> Needs:
    sizes = tuple(int(n * GB * share) for n in dictionaries)
    return Needs(dtype, int(model * GB), sizes, int(working * GB), tuple(int(n * GB) for n in dictionaries))


def chosen(
    free: float,
    host: float = 64,
    *,
    device: str = "cuda:0",
    asked: str = "auto",
    may_lower: bool = True,
    model: float = 8,
    dictionaries: tuple[float, ...] = (2,) * 6,
) -> MemoryPlan:
    """A model of 8 GB in float32 with six dictionaries of 2 GB, where so much is free."""
    wanted = needs("float32", model, *dictionaries)
    lower = needs("bfloat16", model / 2, *dictionaries, share=1.25)
    return choose(wanted, lower, device, asked, int(free * GB), int(host * GB), may_lower=may_lower)


@pytest.mark.parametrize(
    ("free", "host", "dtype", "residency", "resident"),
    [
        (80, 64, "float32", "device", 12),
        (21, 64, "float32", "device", 12),
        (20.9, 64, "float32", "host", 11.9),
        (20.9, 15.1, "float32", "host", 11.9),
        (20.9, 15.0, "float32", "disk", 11.9),
        (11, 64, "float32", "host", 2),
        (10.9, 64, "bfloat16", "host", 5.9),
        (10.9, 8, "bfloat16", "disk", 5.9),
        (7.5, 8, "bfloat16", "disk", 2.5),
    ],
)
def test_the_first_that_fits_beside_a_gpu(
    free: float, host: float, dtype: str, residency: str, resident: float
) -> None:
    found = chosen(free, host)
    assert (found.dtype, found.residency) == (dtype, residency)
    assert found.resident == pytest.approx(resident * GB)


@pytest.mark.parametrize(("free", "residency", "resident"), [(21, "device", 12), (20, "disk", 11), (11, "disk", 2)])
def test_a_cpu_has_no_other_memory_and_keeps_its_precision(free: float, residency: str, resident: float) -> None:
    found = chosen(free, free, device="cpu")
    assert (found.dtype, found.residency) == ("float32", residency)
    assert found.resident == pytest.approx(resident * GB)
    with pytest.raises(
        OutOfMemory, match=r"needs 11 GB on cpu.*10 GB are free\. --dtype bfloat16 would need 7\.5 GB\."
    ):
        chosen(10.4, 10.4, device="cpu")


@pytest.mark.parametrize("asked", ["device", "host", "disk"])
def test_what_was_asked_for_is_chosen_or_refused(asked: str) -> None:
    assert chosen(80, asked=asked).residency == asked
    assert chosen(80, asked=asked).resident == 12 * GB
    with pytest.raises(OutOfMemory):
        chosen(10, asked=asked, may_lower=False)
    assert chosen(10, 64, asked="disk", may_lower=True).dtype == "bfloat16"


def test_a_precision_that_was_asked_for_stays() -> None:
    with pytest.raises(OutOfMemory) as refused:
        chosen(10, may_lower=False)
    assert str(refused.value) == (
        "This needs 11 GB on cuda:0 (model 8.0 GB, one dictionary at a time 2.0 GB, 1.0 GB to work in), and 10 GB are "
        "free. --dtype bfloat16 would need 7.5 GB, or use --device cpu."
    )


@pytest.mark.parametrize(
    ("asked", "free", "host", "says"),
    [
        (
            "device",
            20,
            64,
            r"needs 21 GB on cuda:0 \(model 8.0 GB, 6 dictionaries 12 GB, 1.0 GB to work in\), and 20 GB",
        ),
        ("device", 20, 64, r"--keep disk would need 11 GB, or --dtype bfloat16 would need 20 GB, or open fewer"),
        ("host", 20, 8, r"keep 6 dictionaries there needs 15 GB of main memory, where 8.0 GB are free"),
        ("host", 20, 8, r"--keep disk would need 11 GB, or open fewer dictionaries"),
        ("auto", 5, 8, r"needs 11 GB .* 5.0 GB are free. Close other programs, or open a smaller"),
    ],
)
def test_a_refusal_names_the_sum_and_ways_that_would_do(asked: str, free: float, host: float, says: str) -> None:
    with pytest.raises(OutOfMemory, match=says):
        chosen(free, host, asked=asked, may_lower=False)


@pytest.mark.parametrize(
    ("free", "host", "asked", "reason"),
    [
        (
            80, 64, "auto",
            "All fits into the 80 GB that are free on cuda:0: model 8.0 GB, 6 dictionaries 12 GB, 1.0 GB to work in.",
        ),
        (
            14, 64, "auto",
            "6 dictionaries (12 GB) stay in main memory (64 GB free) and are copied to cuda:0 when used, because the "
            "model and all of them would need 21 GB, and 14 GB are free on cuda:0; there is room for 2 of them at a "
            "time.",
        ),
        (
            80, 64, "disk",
            "6 dictionaries (12 GB) stay on disk and are read when used, because --keep disk was given; there is room "
            "for all of them.",
        ),
        (
            8, 8, "auto",
            "6 dictionaries (15 GB) stay on disk and are read when used, because the model and all of them would need "
            "20 GB, and 8.0 GB are free on cuda:0; there is room for 1 of them at a time; the model "
            "is in bfloat16, since float32 would need 11 GB.",
        ),
    ],
)  # fmt: skip
def test_the_reason_is_a_sentence(free: float, host: float, asked: str, reason: str) -> None:
    assert chosen(free, host, asked=asked).reason == reason


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"main memory anyway.* Use --keep device or disk\."):
        chosen(80, device="cpu", asked="host")
    with pytest.raises(BadRequest, match="'tape' is no residency"):
        chosen(80, asked="tape")


def test_no_dictionary_at_all() -> None:
    found = chosen(9, dictionaries=())
    assert (found.residency, found.resident, found.dictionaries) == ("device", 0, 0)
    with pytest.raises(OutOfMemory, match=r"needs 9\.0 GB on cuda:0 \(model 8\.0 GB, 1\.0 GB to work in\)"):
        chosen(8, dictionaries=(), may_lower=False)


# --- for any sizes ------------------------------------------------------------------------------------------------

bytes_ = st.integers(0, 100 * GB)
asked_ = st.sampled_from(["auto", "device", "host", "disk"])
dictionaries_ = st.lists(st.integers(1, 10 * GB), max_size=20)


def attempt(wanted: Needs, lower: Needs, device: str, asked: str, free: int, host: int) -> MemoryPlan | None:
    try:
        return choose(wanted, lower, device, asked, free, host, may_lower=True)
    except OutOfMemory:
        return None
    except BadRequest:
        if device != "cpu" or asked != "host":
            raise
        return None


@given(bytes_, dictionaries_, bytes_, bytes_, bytes_, asked_, st.sampled_from(["cpu", "cuda:1"]))
def test_never_more_than_there_is(
    model: int, dictionaries: list[int], working: int, free: int, host: int, asked: str, device: str
) -> None:
    wanted = Needs("float32", model, tuple(dictionaries), working, tuple(dictionaries))
    lower = Needs("bfloat16", model // 2, tuple(n * 5 // 4 for n in dictionaries), working, tuple(dictionaries))
    found = attempt(wanted, lower, device, asked, free, host)
    if found is None:
        assert device == "cpu" or asked == "host" or lower.least > free or (asked == "device" and lower.whole > free)
        return
    used = wanted if found.dtype == "float32" else lower
    assert found.model + found.working + found.resident <= free
    assert used.widest <= found.resident <= used.dictionaries
    assert (found.residency != "device") or found.resident == used.dictionaries
    assert (found.residency != "host") or sum(dictionaries) <= host
    assert asked in ("auto", found.residency)


@given(bytes_, dictionaries_, bytes_, bytes_, bytes_, bytes_, bytes_, asked_, st.sampled_from(["cpu", "cuda:1"]))
def test_more_memory_is_never_worse(
    model: int,
    dictionaries: list[int],
    working: int,
    free: int,
    more: int,
    host: int,
    more_host: int,
    asked: str,
    device: str,
) -> None:
    wanted = Needs("float32", model, tuple(dictionaries), working, tuple(dictionaries))
    lower = Needs("bfloat16", model // 2, tuple(n * 5 // 4 for n in dictionaries), working, tuple(dictionaries))
    less = attempt(wanted, lower, device, asked, free, host)
    better = attempt(wanted, lower, device, asked, free + more, host + more_host)
    if less is None:
        return
    assert better is not None
    rank = [(p.dtype == "float32", RANK[p.residency]) for p in (less, better)]
    assert rank[0] <= rank[1]
    if less.dtype == better.dtype:
        assert less.resident <= better.resident


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 kB"), (5_400, "5 kB"), (540_000_000, "540 MB"), (1_340_000_000, "1.3 GB"), (31 * GB, "31 GB")],
)
def test_sizes_in_words(number: int, text: str) -> None:
    assert size(number) == text


# --- from files ---------------------------------------------------------------------------------------------------


def test_a_plan_from_a_model_and_dictionaries_on_disk(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> None:
    places = [Place("saelens", f, weights=(f / "sae_weights.safetensors",)) for f in dictionary_folders]
    each = 4 * (2 * tiny.D_MODEL * tiny.D_SAE + tiny.D_SAE + tiny.D_MODEL)
    found = plan(llama_folder, places, "cpu", "auto", "auto", GB, GB)
    assert (found.dictionaries, found.residency, found.dtype) == (2 * each, "device", "float32")
    assert found.model == sum(p.numel() * 4 for p in tiny.model("llama").parameters())
    tight = plan(llama_folder, places, "cpu", "auto", "auto", found.model + found.working + 2 * each - 1, GB)
    assert (tight.residency, tight.resident) == ("disk", 2 * each - 1)
    half = plan(llama_folder, places, "cuda:0", "bfloat16", "auto", GB, GB)
    assert half.dictionaries == 2 * (each + 2 * tiny.D_MODEL * tiny.D_SAE)
    assert half.model * 2 == found.model
    with pytest.raises(OutOfMemory):
        plan(llama_folder, places, "cpu", "auto", "auto", found.model + found.working + each - 1, GB)
    with pytest.raises(BadRequest, match="float12"):
        plan(llama_folder, places, "cpu", "float12", "auto", GB, GB)
    gone = Place("saelens", llama_folder, weights=(llama_folder / "gone.safetensors",))
    with pytest.raises(DictionaryMissing, match="gone"):
        plan(llama_folder, [gone], "cpu", "auto", "auto", GB, GB)


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_gpu_takes_the_precision_that_is_stored(tmp_path: Path, stored: str) -> None:
    import numpy as np

    config = {"architectures": ["LlamaForCausalLM"], "dtype": stored, "hidden_size": 64, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 1000}))
    save_file({"a": np.zeros((1000, 64), np.float32)}, tmp_path / "model.safetensors")
    found = plan(tmp_path, [], "cuda:0", "auto", "auto", GB, GB)
    assert (found.dtype, found.model) == (stored, 64_000 * (4 if stored == "float32" else 2))
    assert msgspec.json.decode(msgspec.json.encode(found), type=MemoryPlan) == found


def test_room_to_work_in_covers_the_logits_of_a_large_vocabulary() -> None:
    """Gemma-2 2B, a prompt of 256 tokens: 256 · 256,000 logits in bfloat16 and float32."""
    gemma = {"hidden_size": 2304, "num_hidden_layers": 26, "intermediate_size": 9216, "num_attention_heads": 8}
    shape = Shape.of(gemma | {"vocab_size": 256_000})
    logits = 256 * 256_000 * 6
    assert logits < shape.working("bfloat16", 0) < 4 * logits
    assert Shape.of({"text_config": gemma, "vocab_size": 256_000}) == shape
    assert Shape.of({"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 5}) == Shape(2, 8, 32, 2, 5)
    assert Shape.of({}).working("float32", 10**9) > 0


@pytest.mark.parametrize("wanted", ["mlp_post", "resid_post", "embed", "blocks.1.mlp.hook_post"])
def test_raw_neurons_are_counted_before_the_model_is_loaded(llama_folder: Path, wanted: str) -> None:
    expected = neuron_places(llama_folder, [wanted])
    model = open_model(llama_folder, "cpu")
    assert [place.extra["width"] for place in expected] == [p.extra["width"] for p in places_for(model, wanted)]
    width = expected[0].extra["width"]
    found = plan(llama_folder, expected, "cpu", "auto", "auto", 10 * GB, 10 * GB)
    assert found.dictionaries == len(expected) * 4 * (width * width + 2 * width)
    assert f"{len(expected)} dictionar" in found.reason
