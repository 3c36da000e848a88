"""`steer`, `sweep`, `impact` and `ablate` as a user runs them: what they print, and that the figures agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.formats.saelens import read_dictionary
from engine.job import Job
from engine.loading import open_model
from engine.protocol import (
    AblationResult,
    ControlResult,
    FeatureRef,
    ImpactResult,
    Intervention,
    Open,
    Positions,
    SteerResult,
    SweepResult,
)
from engine.training.corpus import cut_contexts, read_documents
from engine.training.feature_cards import make_cards
from sessions.model import Preset
from sessions.store import new_session, write_session
from tests import tiny
from tests.e2e.command import COMMAND, Home, document, here, hidden_characters, opening
from tests.e2e.terminal import Terminal

PROMPT = "in the end of the"
LENGTH = 8
ONE = ("--feature", "1-res-tiny:3", "--add")
GREEDY = ("--temperature", "0", "--tokens", "10")
NASTY = "the \x1b[31mend\x1b]0;t\x07 of \u202eabc\u2066 in the"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home that must stay tidy."""
    made = Home(tmp_path_factory.mktemp("command"))
    yield made
    assert made.strays() == []


@pytest.fixture(scope="module")
def carded(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> list[str]:
    """The options that open a dictionary with cards, so that maxima and means are known."""
    root = tmp_path_factory.mktemp("carded")
    folder = tiny.save_dictionary(root / "1-res-tiny", "topk", layer=1)
    text = root / "corpus.txt"
    text.write_text(f"{PROMPT} bag and the bit of a thing\n" * 40)
    model = open_model(llama_folder, "cpu")
    make_cards(
        model, [read_dictionary(folder)], cut_contexts(read_documents([text]), model.tokenizer, 48), root, Job(), rows=3
    )
    return opening(llama_folder, [folder])


def _steered(opened: list[str], *arguments: str) -> Any:
    return json.loads(here("steer", PROMPT, *arguments, *opened, "--json"))


def _ids(result: dict[str, Any]) -> list[int]:
    found: list[int] = result["steered"]["ids"]
    return found


# --- steer --------------------------------------------------------------------------------------------------------


def test_a_run_as_json(home: Home, opened: list[str]) -> None:
    """All fields, and the figures belong to the tokens."""
    asked = (*ONE, "6", "--watch", " of", "--watch", "e", "--tokens", "8", "--seed", "3", "--temperature", "0.9")
    asked += ("--top-p", "0.95", "--top-k", "40", "--repetition-penalty", "1.1", "--stop", "never there")
    found = document(home.answer("steer", PROMPT, *asked, *opened, "--json"))
    assert set(found) == set(SteerResult.__struct_fields__)
    result = msgspec.convert(found, SteerResult)
    assert result.interventions == (Intervention(FeatureRef("1-res-tiny", 3), 6.0),)
    assert len(result.prompt_ids) == LENGTH
    assert [token.text for token in result.watched] == [" of", "e"]
    assert tuple(step.plain.token.id for step in result.steps if step.plain) == result.plain.ids
    assert tuple(step.steered.token.id for step in result.steps if step.steered) == result.steered.ids
    assert all(len(step.steered.watched) == 2 for step in result.steps if step.steered)
    assert result.steps[0].plain != result.steps[0].steered
    assert result.scores is not None
    assert len(result.scores.kl) == len(result.scores.steered_probabilities) == len(result.steered.ids)
    assert (result.keep_error, result.changes, result.warnings) == (True, (), ())
    assert result.acted == (LENGTH + len(result.steered.ids) - 1,)
    wanted = {"seed": 3, "temperature": 0.9, "top_p": 0.95, "top_k": 40, "repetition_penalty": 1.1, "error": "kept"}
    assert result.provenance.settings | wanted == result.provenance.settings


def test_strengths_on_one_feature_and_in_one_dictionary_add_up(opened: list[str]) -> None:
    whole = _steered(opened, *ONE, "6", *GREEDY)
    parts = _steered(opened, *ONE, "3.5", *ONE, "2.5", *GREEDY)
    assert _ids(parts) == _ids(whole)
    assert parts["kl"] == pytest.approx(whole["kl"], rel=1e-3)
    both = _steered(opened, *ONE, "6", "--feature", "1-res-tiny:9", "--add", "4", *GREEDY)
    turned = _steered(
        opened, "--feature", "1-res-tiny:9", "--feature", "1-res-tiny:3", "--add", "4", "--add=6", *GREEDY
    )
    assert turned["kl"] == pytest.approx(both["kl"], rel=1e-3)
    assert abs(both["kl"][0] - whole["kl"][0]) > 1e-2 * whole["kl"][0], "the second one acts too"


def test_every_kind_reaches_the_engine(opened: list[str]) -> None:
    """Clamped far up, scaled, ablated in three ways, rescaled and capped: each differs from the others."""
    kinds = (
        ("--clamp", "9"), ("--scale", "-20"), ("--ablate", "zero"), ("--ablate", "noise", "--noise-seed", "4"),
        ("--ablate", "patch", "--patch", "of the bag in a"), ("--rescale", "5"), ("--cap", "-2"), ("--add", "6"),
        ("--add", "6", "--unit-norm"),
    )  # fmt: skip
    found = json.loads(here("features", PROMPT, *opened, "--site", "1-res-tiny", "--top", "1", "--json"))["features"][0]
    feature = f"1-res-tiny:{found['index']}"
    first = [_steered(opened, "--feature", feature, *kind, "--tokens", "1")["kl"][0] for kind in kinds]
    assert all(kl > 0 for kl in first)
    assert len({f"{kl:.2g}" for kl in first}) >= len(kinds) - 1
    zero = _steered(opened, "--feature", feature, "--clamp", "0", "--tokens", "1")["kl"][0]
    assert zero == pytest.approx(first[2], rel=1e-3), "ablated to zero is clamped to zero"


def test_dropping_the_error_is_another_run(opened: list[str]) -> None:
    kept, dropped = (_steered(opened, *ONE, "6", *GREEDY, *more) for more in ([], ["--drop-error"]))
    assert (kept["keep_error"], dropped["keep_error"]) == (True, False)
    assert abs(kept["kl"][0] - dropped["kl"][0]) > 1e-2 * kept["kl"][0]
    assert "error dropped" in here("steer", PROMPT, *ONE, "6", *GREEDY, "--drop-error", *opened)


def test_positions_say_where_it_acts(opened: list[str]) -> None:
    acted, first = {}, {}
    for where in ("all", "prompt", "generated", "3", "1:4", "5:"):
        found = _steered(opened, *ONE, "6", "--positions", where, *GREEDY)
        assert str(msgspec.convert(found["interventions"][0], Intervention).positions) == where
        acted[where], first[where] = found["acted"][0], found["kl"][0]
    assert acted == {"all": LENGTH + 9, "prompt": LENGTH, "generated": 10, "3": 1, "1:4": 3, "5:": LENGTH - 5 + 9}
    assert first["all"] == pytest.approx(first["prompt"], rel=1e-3)
    assert len({f"{kl:.3g}" for place, kl in first.items() if place != "prompt"}) == 5


def test_special_tokens_are_left_out(opened: list[str]) -> None:
    inside, outside = (_steered(opened, "--bos", "on", *ONE, "6", *more, *GREEDY) for more in ([], ["--no-special"]))
    assert inside["acted"][0] - outside["acted"][0] == 1


def test_a_strength_that_changes_in_mid_stream(opened: list[str]) -> None:
    """Before the change the texts are those of the first strength; it is recorded where it happened."""
    steady = _steered(opened, *ONE, "40", *GREEDY)
    changed = _steered(opened, *ONE, "40", "--change", "7:0", "--change", "4:-40", *GREEDY)
    assert [change["step"] for change in changed["changes"]] == [4, 7]
    assert [change["interventions"][0].get("strength", 0.0) for change in changed["changes"]] == [-40.0, 0.0]
    assert changed["interventions"][0]["strength"] == 40.0
    assert _ids(changed)[:4] == _ids(steady)[:4]
    assert changed["kl"][:4] == pytest.approx(steady["kl"][:4], rel=1e-3)
    assert abs(changed["kl"][4] - steady["kl"][4]) > 1e-2 * steady["kl"][4]
    assert changed["acted"][0] == LENGTH + 6, "not from token 7 on"
    printed = here("steer", PROMPT, *ONE, "40", "--change", "4:-40", *GREEDY, *opened)
    assert "from generated token 4 on: 1-res-tiny:3 add -40 at all tokens" in printed


def test_several_runs_are_those_of_their_seeds(opened: list[str]) -> None:
    asked = (*ONE, "6", "--tokens", "6", "--temperature", "1")
    found = _steered(opened, *asked, "--runs", "3", "--seed", "5")
    assert set(found) == {"runs"}
    assert [run["provenance"]["settings"]["seed"] for run in found["runs"]] == [5, 6, 7]
    alone = _steered(opened, *asked, "--seed", "6")
    assert [found["runs"][1][arm]["ids"] for arm in ("plain", "steered")] == [alone["plain"]["ids"], _ids(alone)]
    assert len({tuple(run["plain"]["ids"]) for run in found["runs"]}) > 1
    printed = here("steer", PROMPT, *asked, "--runs", "2", "--seed", "5", *opened)
    assert [line for line in printed.splitlines() if line.startswith("---")] == ["--- seed 5", "--- seed 6"]


def test_a_control_stands_beside_the_run(opened: list[str]) -> None:
    asked = (*ONE, "30", "--control", "3", "--watch", "e", *GREEDY)
    found = _steered(opened, *asked)
    assert set(found) == {*SteerResult.__struct_fields__, "control"}
    control = msgspec.convert(found["control"], ControlResult)
    assert len(control.controls) == 3
    assert control.plain.text == found["plain"]["text"]
    assert control.steered.text == found["steered"]["text"]
    assert control.steered.kl_first == pytest.approx(found["kl"][0], rel=1e-3)
    assert control.steered.watched == pytest.approx(found["steps"][0]["steered"]["watched"], rel=1e-3)
    assert len({f"{arm.kl_first:.4g}" for arm in (control.steered, *control.controls)}) == 4
    several = _steered(opened, *asked, "--runs", "2", "--temperature", "1")
    assert [set(run) for run in several["runs"]] == [set(found)] * 2
    printed = here("steer", PROMPT, *asked, *opened).splitlines()
    head = next(number for number, line in enumerate(printed) if "KL first" in line)
    assert printed[head].split() == ["KL", "first", "KL", "mean", "parts", "at", "perplexity", "p(e)"]
    assert [line[:18].strip() for line in printed[head + 1 :]] == [
        "plain", "steered", "random direction 0", "random direction 1", "random direction 2"
    ]  # fmt: skip


def test_multiples_of_the_maximum(carded: list[str]) -> None:
    """`2x` is twice what the card says; in text both units stand beside one another."""
    found = json.loads(here("features", PROMPT, *carded, "--top", "1", "--json"))["features"][0]
    feature = ("--feature", f"1-res-tiny:{found['index']}")
    card = json.loads(here("card", feature[1], *carded, "--json"))
    times = _steered(carded, *feature, "--add", "2x", *GREEDY)
    assert times["interventions"][0] | {"strength": 2.0, "unit": "max"} == times["interventions"][0]
    raw = _steered(carded, *feature, "--add", repr(2 * card["max_activation"]), *GREEDY)
    assert (_ids(times), times["kl"]) == (_ids(raw), pytest.approx(raw["kl"], rel=1e-3))
    printed = here("steer", PROMPT, *feature, "--add", "2x", *GREEDY, *carded)
    assert printed.startswith(f"{feature[1]} add +2 × max (+{2 * card['max_activation']:.3g}) at all tokens; acted on ")
    printed = here("steer", PROMPT, *feature, "--clamp", repr(card["max_activation"]), *GREEDY, *carded)
    assert "(1 × max) at all tokens" in printed.splitlines()[0]
    mean = _steered(carded, *feature, "--ablate", "mean", "--tokens", "1")
    zero = _steered(carded, *feature, "--ablate", "zero", "--tokens", "1")
    assert mean["kl"][0] != pytest.approx(zero["kl"][0], rel=1e-2)


def test_presets_of_a_session_and_of_an_exported_file(opened: list[str], tmp_path: Path) -> None:
    interventions = (
        Intervention(FeatureRef("1-res-tiny", 3), 6.0, positions=Positions("generated")),
        Intervention(FeatureRef("2-res-tiny", 5), kind="ablate"),
    )
    session, exported = tmp_path / "a:b.json", tmp_path / "presets.json"
    made = new_session(Open(id=0))
    presets = (Preset("mine: 漢", interventions), Preset("other", interventions[:1]))
    write_session(session, msgspec.structs.replace(made, presets=presets))
    here("export", str(session), "--to", "presets", "--out", str(exported))
    groups = (*ONE, "6", "--positions", "generated", "--feature", "2-res-tiny:5", "--ablate", "zero")
    typed = _steered(opened, *groups, *GREEDY)
    for file in (session, exported):
        found = _steered(opened, "--preset", f"{file}:mine: 漢", *GREEDY)
        assert {**found, "seconds": 0, "kl": 0, "steps": 0, "scores": 0} == {
            **typed, "seconds": 0, "kl": 0, "steps": 0, "scores": 0
        }  # fmt: skip
    beside = _steered(opened, "--preset", f"{exported}:other", "--feature", "2-res-tiny:5", "--ablate", "zero", *GREEDY)
    assert beside["interventions"] == typed["interventions"]
    write_session(session, msgspec.structs.replace(made, presets=presets[:1]))
    assert _steered(opened, "--preset", str(session), *GREEDY)["interventions"] == typed["interventions"]


def test_a_prompt_from_standard_input_and_in_a_chat_template(home: Home, opened: list[str]) -> None:
    asked = ("steer", "-", *ONE, "6", "--tokens", "3", *opened, "--json")
    found = json.loads(home.answer(*asked, stdin=PROMPT.encode()))
    assert (found["prompt"], len(found["prompt_ids"])) == (PROMPT, LENGTH)
    chat = _steered(opened, *ONE, "6", "--tokens", "1", "--chat")
    assert chat["chat"] is True
    assert len(chat["prompt_ids"]) > LENGTH


@pytest.mark.parametrize("rest", [(), ("--json",)])
def test_on_a_terminal_nothing_in_a_prompt_acts(home: Home, opened: list[str], rest: tuple[str, ...]) -> None:
    asked = ("steer", NASTY, "--feature", "1-res-tiny:3", "--ablate", "patch", "--patch", NASTY, "--control", "1")
    command = [*COMMAND, *asked, "--watch", "\x1b", "--temperature", "2", *opened, *rest]
    terminal = Terminal(command, (120, 80), home.environment)
    try:
        assert terminal.wait(60) == 0
        terminal.settle(0.1)
    finally:
        terminal.close()
    printed = re.sub(rb"\r\x1b\[2K[^\r]*(?=\r\x1b\[2K)|\r\x1b\[2K", b"", bytes(terminal.received)).decode()
    assert hidden_characters(printed.replace("\r\n", "\n")) == set()
    assert b"\x1b[2Ksteering [" in terminal.received
    if not rest:
        assert "p(␛)" in printed


# --- sweep --------------------------------------------------------------------------------------------------------


def test_a_sweep_and_where_it_flips(home: Home, opened: list[str]) -> None:
    """At the strength it names, and not a little below it, the answer is the likelier one."""
    letters = [word for letter in "abcdefghijk" for word in ("--watch", letter)]
    one = _steered(opened, *ONE, "60", "--tokens", "1", *letters)["steps"][0]
    rows = list(zip(letters[1::2], one["plain"]["watched"], one["steered"]["watched"], strict=True))
    answer = max(rows, key=lambda row: row[2] / row[1])[0]
    against = max(rows, key=lambda row: row[1] / row[2])[0]
    asked = ("--strengths", "-60:60:5", "--controls", "2", "--answer", answer, "--against", against, "--watch", answer)
    found = document(home.answer("sweep", PROMPT, *ONE[:2], *asked, "--tokens", "4", *opened, "--json"))
    assert set(found) == set(SweepResult.__struct_fields__)
    result = msgspec.convert(found, SweepResult)
    assert [point.strength for point in result.points] == [-60, -30, 0, 30, 60]
    assert all(len(point.controls) == 2 for point in result.points)
    assert result.points[2].steered.kl_first == pytest.approx(0, abs=1e-6)
    assert result.points[-1].steered.watched[0] > result.plain.watched[0]
    assert result.flip is not None
    assert result.flip.margin < 0
    turned = result.flip.positive
    assert turned is not None
    for strength, likelier in ((turned, True), (0.9 * turned, False)):
        watch = ("--watch", answer, "--watch", against)
        one = _steered(opened, *ONE, repr(strength), *watch, "--tokens", "1")
        first, second = one["steps"][0]["steered"]["watched"]
        assert (first > second) is likelier
    printed = here("sweep", PROMPT, *ONE[:2], *asked, "--tokens", "4", *opened).splitlines()
    assert printed[0] == "1-res-tiny:3 add at several strengths at all tokens"
    assert [line.split()[0] for line in printed[3:9]] == ["plain", "-60", "-30", "0", "+30", "+60"]
    assert f"without steering; {answer.replace(' ', '·')} is the likelier one from " in printed[-1]


def test_another_feature_is_varied_in_its_own_unit(carded: list[str]) -> None:
    found = json.loads(here("features", PROMPT, *carded, "--top", "1", "--json"))["features"][0]
    groups = (*ONE, "2", "--feature", f"1-res-tiny:{found['index']}", "--clamp", "0")
    asked = ("sweep", PROMPT, *groups, "--vary", "2", "--strengths", "0,1x,3x", "--tokens", "2", *carded)
    result = json.loads(here(*asked, "--json"))
    assert (result["varied"], [point["strength"] for point in result["points"]]) == (1, [0, 1, 3])
    assert result["interventions"][1]["unit"] == "max"
    assert result["interventions"][0].get("unit", "raw") == "raw"
    printed = here(*asked).splitlines()
    assert printed[1].startswith("with 1-res-tiny:3 add +2")
    assert printed[3].startswith("strength × max  ")
    whole = json.loads(here("sweep", PROMPT, *groups[4:6], "--tokens", "1", *carded, "--json"))
    assert [point["strength"] for point in whole["points"]] == [n / 2 - 4 for n in range(17)], "without --strengths"


# --- impact and ablate --------------------------------------------------------------------------------------------


def test_the_impact_on_other_features(home: Home, opened: list[str]) -> None:
    found = document(home.answer("impact", PROMPT, *ONE, "20", "--top", "4", *opened, "--json"))
    assert set(found) == set(ImpactResult.__struct_fields__)
    result = msgspec.convert(found, ImpactResult)
    assert [site.source for site in result.steered.sites] == ["1-res-tiny", "2-res-tiny"]
    assert result.steered.sites[1].changed > 0
    assert len(result.steered.changes) == 4
    assert FeatureRef("1-res-tiny", 3) not in [change.feature for change in result.steered.changes]
    assert result.steered.kl == pytest.approx(_steered(opened, *ONE, "20", "--tokens", "1")["kl"][0], rel=1e-3)
    other = json.loads(here("impact", PROMPT, *ONE, "20", "--seed", "1", "--drop-error", *opened, "--json"))
    assert other["control"]["kl"] != pytest.approx(result.control.kl, rel=1e-3)
    assert other["provenance"]["settings"]["error"] == "dropped"
    printed = here("impact", PROMPT, *ONE, "20", "--top", "4", *opened).splitlines()
    assert printed[:2] == ["1-res-tiny:3 add +20 at all tokens", "error kept"]
    site = next(line.split() for line in printed if line.startswith("2-res-tiny "))
    assert site[1:3] == [str(result.steered.sites[1].active), str(result.steered.sites[1].changed)]
    first = result.steered.changes[0]
    assert printed[-4].split()[0] == str(first.feature)
    assert len(printed) - printed.index("largest changes") == 6


def test_features_by_three_measures(home: Home, opened: list[str]) -> None:
    """The overlaps are those of the rows, and the largest effect is what steering without the feature does."""
    asked = ("--target", "e", "--against", "a", "--top", "5", "--candidates", "12")
    found = document(home.answer("ablate", PROMPT, *asked, *opened, "--json"))
    assert set(found) == set(AblationResult.__struct_fields__)
    result = msgspec.convert(found, AblationResult)
    assert (result.top, result.measured) == (5, len(result.rows))
    assert [row.by_ablation for row in result.rows] == list(range(1, len(result.rows) + 1))
    sizes = [abs(row.ablation) for row in result.rows]
    assert sizes == sorted(sizes, reverse=True)
    top = result.rows[:5]
    assert result.shared_activation == sum(row.by_activation <= 5 for row in top)
    assert result.shared_attribution == sum(row.by_attribution <= 5 for row in top)
    one = next(row for row in result.rows if row.position and row.kl > 1e-6)
    steered = _steered(opened, "--feature", str(one.feature), "--ablate", "zero", "--positions", "1:", "--tokens", "1")
    assert steered["kl"][0] == pytest.approx(one.kl, rel=2e-2)
    printed = here("ablate", PROMPT, *asked, *opened).splitlines()
    shown = [row for row in result.rows if min(row.by_activation, row.by_attribution, row.by_ablation) <= 5]
    assert [line.split()[0] for line in printed[3 : 3 + len(shown)]] == [str(row.feature) for row in shown]
    assert f"of the top 5 by ablation {result.shared_attribution} are in the top 5 by attribution" in printed[-3]
    assert f"of the top 5 by ablation {result.shared_activation} are in the top 5 by activation" in printed[-2]


def test_one_site_and_the_first_token_too(opened: list[str]) -> None:
    asked = ("ablate", PROMPT, "--candidates", "20", "--json")
    single = json.loads(here(*asked, "--site", "blocks.2.hook_resid_post", *opened))
    assert {row["feature"]["source"] for row in single["rows"]} == {"2-res-tiny"}
    held, taken = (json.loads(here(*asked, *more, *opened)) for more in ([], ["--keep-first"]))
    assert 0 not in [row["position"] for row in held["rows"]]
    assert 0 in [row["position"] for row in taken["rows"]]
