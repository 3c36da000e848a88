"""What `saescope circuit`, `faithfulness` and `import` refuse, and how they stop: one line, a code, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import main
from tests import tiny
from tests.e2e.command import here, hidden_characters, is_one_line, opening
from tests.e2e.conftest import ROWS
from tests.e2e.test_circuit_commands import ONE


def _fails(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main.app, list(arguments))
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.stdout == ""
    assert hidden_characters(done.stderr) == set()
    return done.exit_code, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("circuit", "x", "--steps", "0"), "'--steps'"),
        (("circuit", "x", "--max-nodes", "0"), "'--max-nodes'"),
        (("circuit", "x", "--node-threshold", "much"), "'--node-threshold'"),
        (("circuit", "x", "--position", "last"), "'--position'"),
        (("circuit", "x", "--verify", "-1"), "'--verify'"),
        (("circuit", "x", "--examples", "0"), "'--examples'"),
        (("faithfulness", "x", "--start-layer", "-1"), "'--start-layer'"),
        (("faithfulness", "x", "--threshold", "much"), "'--threshold'"),
    ],
)
def test_usage_is_explained(arguments: tuple[str, ...], said: str) -> None:
    code, error = _fails(*arguments)
    assert code == 2
    assert said in error
    assert "Usage:" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("circuit",), "There is neither a prompt nor --pairs."),
        (("faithfulness",), "There is neither a prompt nor --pairs."),
        (("circuit", "x", "--pairs", "y"), "Both a prompt and --pairs were given."),
        (("circuit", "", "--pairs", "y"), "Both a prompt and --pairs were given."),
        (("circuit", "x", "--method", "guess\x1b[31m"), "is not a method. Use attrib, ig or exact."),
        (("circuit", "x", "--metric", "loss"), "'loss' is not a metric. Use logit, difference, logprob or kl."),
        (("circuit", "x", "--gradients", "all"), "'all' is not a kind of gradients."),
        (("circuit", "x", "--aggregate", "mean"), "'mean' is not an aggregation. Use none, sum or max."),
        (("circuit", "x", "--dtype", "bfloat16"), "'bfloat16' is not a precision for attribution. Use float32 or"),
        (("faithfulness", "x", "--ablation", "noise"), "'noise' is not an ablation. Use zero, mean or resample."),
        (("faithfulness", "x", "--errors", "drop"), "'drop' is not a way to treat errors. Use nodes, keep or remove."),
    ],
)
def test_a_wrong_word_is_named_on_one_line(arguments: tuple[str, ...], said: str) -> None:
    code, error = _fails(*arguments)
    assert code == 2
    assert said in error
    assert is_one_line(error)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("circuit", ""), "The prompt is empty."),
        (
            ("circuit", "x", "--target", "two tokens"),
            "'two tokens' is 10 tokens, not one: 't' + 'w' + 'o' + ' ' + 't' + 'o' + ….",
        ),
        (("circuit", "x", "--target", "a\x1b[31m\u202e"), "tokens, not one"),
        (("circuit", "x", "--target", ""), "'' is 0 tokens, not one."),
        (("circuit", "x", "--against", "ab"), "'ab' is 2 tokens, not one"),
        (("circuit", "in the", "--position", "2"), "The prompt has no token 2. Its tokens are 0 to 1."),
        (("circuit", "in the", "--position", "-3"), "The prompt has no token -3."),
        (("circuit", "in the", "--patch", "in the end"), "The patch prompt has 6 tokens, the prompt 2."),
        (("circuit", "in the", "--patch", ""), "The patch prompt is empty."),
        (("circuit", "x", "--node-threshold", "-1"), "-1.0 is not a threshold for nodes. It is a number of at least 0"),
        (("circuit", "x", "--edge-threshold", "nan"), "nan is not a threshold for edges."),
        (("faithfulness", "x", "--node-threshold", "-1"), "-1.0 is not a threshold for nodes."),
        (("faithfulness", "x", "--threshold", "-1"), "-1.0 is not a threshold for nodes."),
        (("circuit", "x", "--site", "9-res\x1b[31m"), "No open dictionary reads 9-res␛[31m. Open are 1-res-tiny,"),
        (("circuit", "x", "--neurons", "heads"), "'heads' is not a kind of site. Known are embed, resid_pre,"),
        (("circuit", "x", "--neurons", "embed", "--site", "1-res-tiny"), "Both dictionaries and raw neurons"),
        (("circuit", "x", "--metric", "kl", "--method", "attrib"), "KL to the clean run has no gradient"),
        (("circuit", "x", "--metric", "kl", "--target", " a"), "KL compares all tokens"),
        (("circuit", "x", "--metric", "difference"), "A difference needs something to compare with."),
        (("circuit", "x", "--metric", "logit", "--against", " a"), "The metric logit compares with nothing."),
        (("circuit", "x", "--device", "tpu"), "'tpu' is not a device."),
        (("circuit", "\udcff"), "The text holds bytes that are not UTF-8."),
    ],
)
def test_what_cannot_be_traced_is_named(opened: list[str], arguments: tuple[str, ...], said: str) -> None:
    code, error = _fails(*arguments, *opened)
    assert code == 2
    assert said in error
    assert is_one_line(error)


@pytest.mark.parametrize("command", ["circuit", "faithfulness"])
def test_pairs_that_cannot_be_read(opened: list[str], pairs: Path, tmp_path: Path, command: str) -> None:
    nowhere, broken, other = tmp_path / "nowhere", tmp_path / "broken", tmp_path / "other"
    broken.write_text('{"clean": "in the"}\n{')
    other.write_text(json.dumps({**ROWS[0], "answer": "two tokens"}))
    for arguments, said in (
        (("--pairs", str(nowhere)), f"{nowhere} cannot be read: No such file or directory."),
        (("--pairs", str(tmp_path)), f"{tmp_path} cannot be read: Is a directory."),
        (("--pairs", str(broken)), "line 1 has no 'answer'"),
        (("--pairs", str(other)), "None of the 1 pairs can be used."),
        (("--pairs", str(pairs), "--target", " a"), "Both pairs and a prompt were given."),
        (("--pairs", str(pairs), "--chat"), "A chat template was asked for with pairs."),
        (("--pairs", str(pairs), "--aggregate", "none"), "different lengths"),
    ):
        code, error = _fails(command, *arguments, *opened)
        assert (code, is_one_line(error)) == (2, True), error
        assert said in error


def test_circuit_files_that_cannot_be_used(
    opened: list[str], pairs: Path, tmp_path: Path, llama_folder: Path, dictionary_folders: tuple[Path, ...]
) -> None:
    file, asked = tmp_path / "circuit.json", ("--pairs", str(pairs), *opened)
    circuit = json.loads(here("circuit", *ONE, *opened, "--out", str(file), "--json"))
    refused: list[tuple[bytes, str]] = [
        (b"\x1b[31m\x00", f"{file} is not a circuit: "),
        (b'{"circuit": 3}', f"{file} is not a circuit: "),
        (json.dumps(circuit).encode(), "The circuit has nodes at 8 positions; some of these prompts have another"),
    ]
    for content, said in refused:
        file.write_bytes(content)
        code, error = _fails("faithfulness", "--circuit", str(file), *asked)
        assert (code, is_one_line(error)) == (2, True), error
        assert said in error
    code, error = _fails("faithfulness", "--circuit", str(file), *opened)
    assert (code, error) == (2, "saescope: A circuit file needs one file of prompts to be measured on. Give --pairs.\n")
    code, error = _fails("faithfulness", "--circuit", str(tmp_path / "none"), *asked)
    assert (code, error) == (1, f"saescope: {tmp_path / 'none'}: No such file or directory.\n")
    here("circuit", "--pairs", str(pairs), *opened, "--out", str(file))
    twin = tiny.save_dictionary(tmp_path / "2-res-tiny", "topk", layer=2, seed=9)
    others = opening(llama_folder, [dictionary_folders[0], twin])
    code, error = _fails("faithfulness", "--circuit", str(file), "--pairs", str(pairs), *others)
    assert (code, is_one_line(error)) == (2, True)
    assert "2-res-tiny is not the dictionary this circuit was traced with." in error
    code, error = _fails("faithfulness", "--circuit", str(file), "--pairs", str(pairs), *opened[:4])
    assert (code, is_one_line(error)) == (2, True)
    assert "No dictionary called 2-res-tiny is open." in error


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    opened: list[str], tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    """Minutes of tracing are not lost to a mistyped folder."""
    stop_at(0)
    code, error = _fails("circuit", *ONE, *opened, "--out", str(tmp_path / "none" / "circuit.json"))
    assert code == 2
    place = tmp_path / "none" / "circuit.json"
    assert error == f"saescope: {place} is in a folder that does not exist. Give the path of a file.\n"


@pytest.mark.parametrize("command", ["circuit", "faithfulness"])
def test_too_long_a_prompt(opened: list[str], command: str) -> None:
    code, error = _fails(command, "x" * 200, *opened)
    assert (code, is_one_line(error)) == (1, True)
    assert "The prompt has 200 tokens; the model reads 128." in error


def test_stopped_on_the_way_what_was_found_is_printed(opened: list[str], stop_at: Callable[[int], None]) -> None:
    """Ctrl+c after the first snapshot: the circuit until then, marked as unfinished."""
    stop_at(2)
    done = CliRunner().invoke(main.app, ["circuit", *ONE, *opened, "--verify", "3", "--json"])
    assert done.exit_code == 1
    assert done.stderr == "saescope: stopped: the circuit is what was found until then.\n"
    found = json.loads(done.stdout)
    assert found["circuit"]["finished"] is False
    assert found["circuit"]["nodes"]
    assert found["checks"] == []
    stop_at(0)
    done = CliRunner().invoke(main.app, ["faithfulness", *ONE, *opened])
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "saescope: stopped.\n")


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The user presses ctrl+c when the engine has shown a circuit so many times."""
    from engine.circuits import tracer

    whole = tracer.trace

    def stopping(snapshots: int) -> None:
        def trace(*arguments: Any) -> Any:
            *rest, grown = arguments
            shown = 0

            def counting(traced: Any) -> None:
                nonlocal shown
                if shown == snapshots:
                    raise KeyboardInterrupt
                shown += 1
                grown(traced)

            return whole(*rest, counting)

        monkeypatch.setattr(tracer, "trace", trace)

    return stopping
