"""Every kind of intervention is the algebra it says it is, at the hook, for every kind of dictionary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import BadRequest
from engine.headless import Headless
from engine.opening import OpenSet
from engine.protocol import FeatureRef, Intervention, Open, Positions, parse_positions
from engine.sites import Site
from engine.steering.interventions import Cursor, compile_program, visitors
from tests import tiny

PROMPT = "in the end of the"
Make = Callable[..., OpenSet]


def opening(model: Path, *dictionaries: Path) -> OpenSet:
    engine = Headless(lambda *_: None)
    engine.ask(Open(id=1, model=str(model), dictionaries=tuple(map(str, dictionaries))))
    return engine.engine.opened


@pytest.fixture
def opened(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> OpenSet:
    return opening(llama_folder, *dictionary_folders)


def one(index: int, strength: float = 0.0, kind: str = "add", source: str = "1-res-tiny", **more: Any) -> Intervention:
    return Intervention(FeatureRef(source, index), strength, kind, **more)  # type: ignore[arg-type]


def change(opened: OpenSet, interventions: Sequence[Intervention], site: Site, **settings: Any) -> Tensor:
    """What interventions add at a site, [T, d], seen by a hook of the test's own one block later."""
    ids = opened.ids(settings.pop("prompt", PROMPT), chat=False)
    program = compile_program(opened, interventions, ids, **settings)
    batch = torch.tensor([ids, ids])
    seen = _see(opened, batch, visitors([None, program], Cursor()), site)
    return seen[1] - seen[0]


def _see(opened: OpenSet, batch: Tensor, acting: Any, site: Site) -> Tensor:
    """What the model goes on with after a site: the written value, by a plain hook of torch."""
    found: list[Tensor] = []
    block = opened.model.hf.model.layers[site.layer]
    with opened.model.visiting(acting), torch.no_grad():
        if site.kind == "resid_post":
            handle = opened.model.hf.model.layers[site.layer + 1].register_forward_pre_hook(
                lambda _m, a, k: found.append(a[0] if a else k["hidden_states"]), with_kwargs=True
            )
        else:  # mlp_out: what is added to the stream
            handle = block.mlp.register_forward_hook(lambda _m, _a, out: found.append(out))
        opened.model.hidden(batch)
        handle.remove()
    return found[0].double()


def held(opened: OpenSet, site: Site, prompt: str = PROMPT) -> Tensor:
    """What a site holds in the plain model, [T, d]."""
    return opened.model.capture(torch.tensor([opened.ids(prompt, chat=False)]), [site])[site][0]


AT = Site("resid_post", 1)


def activations(opened: OpenSet, source: str = "1-res-tiny") -> Tensor:
    """Dense, [T, d_sae]."""
    dictionary = opened.dictionaries[source]
    return dictionary.encode(held(opened, dictionary.site).reshape(-1, dictionary.d_in))


def firing(opened: OpenSet, source: str = "1-res-tiny") -> int:
    """A feature that fires on some of the tokens and not on all."""
    count = (activations(opened, source) > 0).sum(0)
    return int(((count > 0) & (count < len(activations(opened, source)))).nonzero()[0])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=2e-4)


def test_add_is_strength_times_the_decoder_row_at_every_token(opened: OpenSet) -> None:
    row = opened.dictionaries["1-res-tiny"].decoder[7]
    found = change(opened, [one(7, 2.5)], AT)
    close(found, 2.5 * row.expand(len(found), -1))
    close(change(opened, [one(7, 2.5, unit_norm=True)], AT), 2.5 * (row / row.norm()).expand(len(found), -1))


def test_clamp_moves_the_activation_to_a_value(opened: OpenSet) -> None:
    index = firing(opened)
    f, row = activations(opened)[:, index], opened.dictionaries["1-res-tiny"].decoder[index]
    close(change(opened, [one(index, 3.0, "clamp")], AT), (3.0 - f)[:, None] * row)


def test_clamping_to_the_present_value_changes_nothing(opened: OpenSet) -> None:
    index = firing(opened)
    place = int(activations(opened)[:, index].argmax())
    value = float(activations(opened)[place, index])
    found = change(opened, [one(index, value, "clamp", positions=Positions("range", place, place + 1))], AT)
    assert float(found.abs().max()) < 1e-5
    assert value > 0


def test_scale(opened: OpenSet) -> None:
    index = firing(opened)
    f, row = activations(opened)[:, index], opened.dictionaries["1-res-tiny"].decoder[index]
    close(change(opened, [one(index, 2.5, "scale")], AT), 1.5 * f[:, None] * row)
    assert torch.equal(change(opened, [one(index, 1.0, "scale")], AT), torch.zeros_like(held(opened, AT)).double())


def test_ablating_to_zero_is_clamping_to_zero(opened: OpenSet) -> None:
    index = firing(opened)
    ablated, clamped = change(opened, [one(index, kind="ablate")], AT), change(opened, [one(index, 0, "clamp")], AT)
    assert torch.equal(ablated, clamped)
    f, row = activations(opened)[:, index], opened.dictionaries["1-res-tiny"].decoder[index]
    close(ablated, -f[:, None] * row)


def test_ablating_to_another_prompts_value(opened: OpenSet) -> None:
    other = "of the end in the"
    assert len(opened.ids(other, False)) == len(opened.ids(PROMPT, False))
    index = firing(opened)
    dictionary = opened.dictionaries["1-res-tiny"]
    there = dictionary.encode(held(opened, AT, other))[:, index]
    f = activations(opened)[:, index]
    found = change(opened, [one(index, kind="ablate", to="patch", patch=other)], AT)
    close(found, (there - f)[:, None] * dictionary.decoder[index])
    with pytest.raises(BadRequest, match=r"has \d+ tokens, the steered one"):
        change(opened, [one(index, kind="ablate", to="patch", patch="in the")], AT)


def test_ablating_to_noise_keeps_the_norm_and_follows_the_seed(opened: OpenSet) -> None:
    index = firing(opened)
    f, row = activations(opened)[:, index], opened.dictionaries["1-res-tiny"].decoder[index]
    runs = [change(opened, [one(index, kind="ablate", to="noise", seed=seed)], AT) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])
    noise = runs[0] + f[:, None].double() * row
    close(noise.norm(dim=1), f * row.norm())
    active = f > 0
    cosine = torch.nn.functional.cosine_similarity(noise[active], row.double().expand(int(active.sum()), -1))
    assert float(cosine.abs().max()) < 0.9


def test_ablating_to_the_corpus_mean(opened: OpenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    index = firing(opened)
    monkeypatch.setattr("engine.steering.interventions.corpus_mean", lambda dictionary, i: 0.25)
    f, row = activations(opened)[:, index], opened.dictionaries["1-res-tiny"].decoder[index]
    close(change(opened, [one(index, kind="ablate", to="mean")], AT), (0.25 - f)[:, None] * row)


def test_neuronpedias_rescale_and_cap(opened: OpenSet) -> None:
    row = opened.dictionaries["1-res-tiny"].decoder[7]
    unit = row / row.norm()
    x = held(opened, AT)
    along = x @ unit
    close(change(opened, [one(7, 0.0, "rescale")], AT), -along[:, None] * unit)
    close(change(opened, [one(7, 2.5, "rescale")], AT), 1.5 * along[:, None] * unit)
    cap = float(along.median())
    close(change(opened, [one(7, cap, "cap")], AT), (along.clamp(max=cap) - along)[:, None] * unit)


def test_interventions_in_one_dictionary_add_up(opened: OpenSet) -> None:
    """The original overwrote all but the last."""
    index = firing(opened)
    parts = [one(3, 2.0), one(4, -1.5), one(index, 2.0, "scale"), one(9, 0.3, "rescale")]
    together = change(opened, parts, AT)
    close(together, torch.stack([change(opened, [part], AT) for part in parts]).sum(0))


def test_dictionaries_at_one_site_do_not_see_one_another(tmp_path: Path, llama_folder: Path) -> None:
    folders = [tiny.save_dictionary(tmp_path / f"1-res-{n}", "topk", layer=1, seed=n) for n in (1, 2)]
    opened = opening(llama_folder, *folders)
    parts = [one(5, 4.0, "clamp", source=f"1-res-{n}") for n in (1, 2)]
    close(change(opened, parts, AT), change(opened, parts[:1], AT) + change(opened, parts[1:], AT))


def test_dropping_the_error_puts_the_reconstruction_there(opened: OpenSet) -> None:
    dictionary = opened.dictionaries["1-res-tiny"]
    x = held(opened, AT)
    rebuilt = dictionary.decode(dictionary.encode(x), x)
    found = change(opened, [one(7, 2.0, positions=Positions("range", 1, 3))], AT, keep_error=False)
    expected = torch.zeros_like(x)
    expected[1:3] = (rebuilt - x + 2.0 * dictionary.decoder[7])[1:3]
    close(found, expected)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("all", range(8)),
        ("prompt", range(8)),
        ("generated", [7]),
        ("1:3", [1, 2]),
        ("2", [2]),
        ("6:", [6, 7]),
        ("9", []),
    ],
)
def test_positions(opened: OpenSet, text: str, where: Sequence[int]) -> None:
    found = change(opened, [one(7, 2.0, positions=parse_positions(text))], AT)
    assert len(found) == 8
    assert (found.abs().amax(1) > 0).nonzero().flatten().tolist() == list(where)


def test_special_tokens_can_be_left_out(opened: OpenSet) -> None:
    prompt = "<bos>in the<eos> end"
    found = change(opened, [one(7, 2.0, special=False)], AT, prompt=prompt)
    special = [opened.model.tokenizer.token(i).special for i in opened.ids(prompt, False)]
    assert (found.abs().amax(1) == 0).tolist() == special
    assert sum(special) == 2


def test_random_directions_have_the_norm_of_what_they_stand_for(opened: OpenSet) -> None:
    index = firing(opened)
    parts = [one(index, 3.0, "clamp")]
    true = change(opened, parts, AT)
    drawn = [change(opened, parts, AT, random_directions=seed) for seed in (0, 0, 1)]
    close(drawn[0].norm(dim=1), true.norm(dim=1))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("standard", {}),
        ("jumprelu", {}),
        ("gated", {}),
        ("standard", {"normalize_activations": "layer_norm"}),
        ("standard", {"normalize_activations": "constant_norm_rescale"}),
        ("topk", {"rescale_acts_by_decoder_norm": True}),
    ],
)
def test_clamping_reaches_the_value_for_every_kind(
    tmp_path: Path, llama_folder: Path, architecture: str, settings: dict[str, Any]
) -> None:
    """The reconstruction moves exactly as decoding the changed activations says."""
    opened = opening(llama_folder, tiny.save_dictionary(tmp_path / "1-res-k", architecture, layer=1, **settings))
    dictionary = opened.dictionaries["1-res-k"]
    index = firing(opened, "1-res-k")
    x = held(opened, AT)
    before = dictionary.encode(x)
    after = before.clone()
    after[:, index] = 1.7
    found = change(opened, [one(index, 1.7, "clamp", source="1-res-k")], AT)
    close(found, dictionary.decode(after, x) - dictionary.decode(before, x))


def test_a_transcoder_acts_where_it_writes(tmp_path: Path, llama_folder: Path) -> None:
    folder = tiny.save_dictionary(
        tmp_path / "1-tc", "transcoder", layer=1, hook="blocks.1.hook_resid_mid",
        metadata={"hook_name_out": "blocks.1.hook_mlp_out", "prepend_bos": False},
    )  # fmt: skip
    opened = opening(llama_folder, folder)
    source = next(iter(opened.dictionaries))
    dictionary = opened.dictionaries[source]
    index = firing(opened, source)
    f = activations(opened, source)[:, index]
    assert dictionary.write_site == Site("mlp_out", 1)
    found = change(opened, [one(index, 2.0, "clamp", source=source)], Site("mlp_out", 1))
    close(found, (2.0 - f)[:, None] * dictionary.decoder[index])
    program = compile_program(opened, [one(index, 2.0, source=source)], [1, 2, 3])
    assert "reads blocks.1.hook_resid_mid, which is not written back" in program.warnings[0]


def test_hook_z_keeps_its_heads(tmp_path: Path, llama_folder: Path) -> None:
    folder = tiny.save_dictionary(tmp_path / "1-z", "standard", layer=1, hook="blocks.1.attn.hook_z")
    opened = opening(llama_folder, folder)
    ids = torch.tensor([opened.ids(PROMPT, chat=False)] * 2)
    site = Site("hook_z", 1)
    program = compile_program(opened, [one(3, 2.0, source="1-z")], ids[0].tolist())
    before = opened.model.capture(ids, [site])[site]
    found: list[Tensor] = []
    handle = opened.model.hf.model.layers[1].self_attn.o_proj.register_forward_hook(
        lambda _m, a, _o: found.append(a[0])
    )
    with opened.model.visiting(visitors([None, program], Cursor())), torch.no_grad():
        opened.model.hidden(ids)
    handle.remove()
    expected = before.reshape(2, ids.shape[1], -1)[1] + 2.0 * opened.dictionaries["1-z"].decoder[3]
    close(found[0][1].double(), expected)


def test_what_acts_is_counted(opened: OpenSet) -> None:
    index = firing(opened)
    ids = opened.ids(PROMPT, chat=False)
    program = compile_program(opened, [one(7, 2.0, positions=Positions("range", 1, 3)), one(index, kind="ablate")], ids)
    with opened.model.visiting(visitors([program], Cursor())), torch.no_grad():
        opened.model.hidden(torch.tensor([ids]))
    assert program.acted()[0] == 2
    assert 0 < program.acted()[1] < len(ids)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([one(64, 1.0)], "no feature 64"),
        ([one(1, 1.0, source="9-none")], "No dictionary called 9-none"),
        ([one(1, float("nan"))], "not a strength"),
        ([one(1, 1e31)], "not a strength"),
        ([one(1, 2.0, unit="max")], "maximum of 1-res-tiny:1 is not known"),
        ([one(1, 2.0, "scale", unit="max")], "not measured in multiples"),
        ([one(1, kind="ablate", to="mean")], "corpus mean"),
        ([one(1, kind="ablate", to="patch")], "from no prompt"),
        ([one(1, 2.0, "clamp"), one(1, kind="ablate")], "set twice"),
    ],
)
def test_what_has_no_meaning_is_refused(opened: OpenSet, bad: list[Intervention], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        compile_program(opened, bad, [1, 2, 3, 4])


def test_the_same_feature_at_different_tokens_is_no_contradiction(opened: OpenSet) -> None:
    first, second = parse_positions("0:2"), parse_positions("2:")
    compile_program(
        opened, [one(1, 2.0, "clamp", positions=first), one(1, kind="ablate", positions=second)], [1, 2, 3, 4]
    )


@pytest.mark.parametrize(
    ("intervention", "said"),
    [
        (one(1, 0.0), "add 0 changes nothing"),
        (one(1, 1.0, "scale"), "scale 1 changes nothing"),
        (one(1, 3.0, positions=parse_positions("20:")), "acts from token 20 on"),
        (one(1, 3.0, source="3-res-tiny", positions=parse_positions("0:2")), "after the attention of the last layer"),
    ],
)
def test_settings_that_cannot_act_are_told(
    tmp_path: Path, llama_folder: Path, dictionary_folders: tuple[Path, ...], intervention: Intervention, said: str
) -> None:
    opened = opening(llama_folder, *dictionary_folders, tiny.save_dictionary(tmp_path / "3-res-tiny", "topk", layer=3))
    assert said in " ".join(compile_program(opened, [intervention], [1, 2, 3, 4], tokens=8).warnings)


def test_settings_that_act_are_not_warned_of(opened: OpenSet) -> None:
    fine = [one(1, 3.0), one(2, 2.0, "clamp", positions=parse_positions("generated")), one(3, kind="ablate")]
    assert compile_program(opened, fine, [1, 2, 3, 4], tokens=8).warnings == ()


@pytest.mark.parametrize("text", ["", "al", "3:3", "5:2", "-1", "1:2:3", ":", "x:3", "1.5", "9" * 30])
def test_positions_that_are_none(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_positions(text)


@pytest.mark.parametrize("text", ["all", "prompt", "generated", "7", "2:9", "2:"])
def test_positions_are_written_as_they_are_read(text: str) -> None:
    assert str(parse_positions(text)) == text
