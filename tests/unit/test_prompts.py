"""Data sets of prompts: templates, lists of words, the built-in sets, and what a tokenizer says of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadRequest
from engine.pairs import read_pairs
from engine.prompts.builtin import BUILT_IN, built_in
from engine.prompts.checking import check_pairs, one_token, slips, unusable
from engine.prompts.datasets import prompt_sets
from engine.prompts.reports import check_text, json_lines
from engine.prompts.templates import Contrast, Template, build, fields_of, swapped
from engine.prompts.words import WORDS, WordList, word_list
from engine.protocol import Pair
from engine.tokenizer import TextTokenizer
from tests import tiny
from tests.conftest import RunPython
from tests.nasty import NASTY

MEN, WOMEN, VERBS = (WordList("list", tuple(words.split())) for words in ("Al Bo Cy", "Ann Bea Cat", "is has"))
NAMES = Contrast("name", MEN, WOMEN)
ASKED = Template("{name} {verb} because", " he", " she")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """Bytes, ` the`, ` in`, ` a`, ` of`."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save(str(folder / "tokenizer.json"))
    return TextTokenizer(folder)


# --- templates ----------------------------------------------------------------------------------------------------


def test_a_template_contrasts_one_list_with_another() -> None:
    rows = build(ASKED, NAMES, {"verb": VERBS}).pairs
    assert rows == (
        Pair("Al is because", " he", "Ann is because", " she"),
        Pair("Bo has because", " he", "Bea has because", " she"),
        Pair("Cy is because", " he", "Cat is because", " she"),
    )


def test_the_answer_may_be_the_word() -> None:
    rows = build(Template("{name} {verb}", " {name}"), NAMES, {"verb": VERBS}, count=1).pairs
    assert rows == (Pair("Al is", " Al", "Ann is", " Ann"),)


def test_without_a_contrast_there_is_no_patch_prompt() -> None:
    rows = build(Template("It {verb}", " a"), None, {"verb": VERBS}).pairs
    assert rows == (Pair("It is", " a"), Pair("It has", " a"))


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(1, 200), st.none() | st.integers(0, 9))
def test_rows_are_different_until_all_combinations_are_used(
    names: int, verbs: int, places: int, count: int, seed: int | None
) -> None:
    shared = {
        "verb": WordList("v", tuple(f"v{n}" for n in range(verbs))),
        "place": WordList("p", tuple(f"p{n}" for n in range(places))),
    }
    contrast = Contrast(
        "name", WordList("m", tuple(f"m{n}" for n in range(names))), WordList("f", tuple(f"f{n}" for n in range(names)))
    )
    built = build(Template("{name} {verb} {place}", " he", " she"), contrast, shared, count=count, seed=seed)
    most = names * verbs * places
    assert len(set(built.pairs)) == len(built.pairs) == min(count, most)
    assert bool(built.dropped) == (count > most)
    partners = {(p.clean.split()[0], (p.patch or "").split()[0]) for p in built.pairs}
    assert len(partners) == len({clean for clean, _ in partners}) == min(names, len(built.pairs))


def test_seeds_pair_words_anew_and_alike() -> None:
    def made(seed: int | None) -> tuple[Pair, ...]:
        return built_in("names", seed=seed).pairs

    assert made(1) == made(1) != made(2)
    assert made(None) != made(1)
    assert sorted(p.clean.split()[0] for p in made(1)) == sorted(p.clean.split()[0] for p in made(2))


def test_words_of_as_many_tokens_are_paired(tokenizer: TextTokenizer) -> None:
    contrast = Contrast("name", WordList("m", ("Al", "Theo", "Zed")), WordList("f", ("Mary", "Bo", "Anastasia")))

    def length(text: str) -> int:
        return len(tokenizer.encode(text, bos=False))

    built = build(Template("{name} {verb}", " a", " of"), contrast, {"verb": VERBS}, length=length)
    assert {(p.clean.split()[0], (p.patch or "").split()[0]) for p in built.pairs} == {("Al", "Bo"), ("Theo", "Mary")}
    assert len(built.dropped) == 2
    assert built.dropped[0].startswith("'Zed' makes prompts of 6 tokens")
    assert built.dropped[1].startswith("'Anastasia' makes prompts of 12 tokens")


def test_words_of_both_lists_and_words_left_over_are_told() -> None:
    contrast = Contrast("name", WordList("m", ("Kim", "Al", "Bo")), WordList("f", ("Ann", "Kim")))
    built = build(ASKED, contrast, {"verb": VERBS}, count=1)
    assert built.pairs == (Pair("Al is because", " he", "Ann is because", " she"),)
    assert [reason.partition(" ")[0] for reason in built.dropped] == ["'Kim'", "'Bo'"]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (Template("{name", " a", " b"), "unmatched braces"),
        (Template("{} x {name} {verb}", " a", " b"), "no name"),
        (Template("{name!r} {verb}", " a", " b"), "no name"),
        (Template("{name:>9} {verb}", " a", " b"), "no name"),
        (Template("{name.x} {verb}", " a", " b"), "no name"),
        (Template("{name} {verb} {place}", " a", " b"), "No words are given for {place}"),
        (Template("{name}", " a", " b"), "no field {verb}"),
        (Template("{name} {verb}", " a"), "the same answer"),
        (Template("{name} {verb}", "", " b"), "empty"),
        (Template("{name} {verb}", " a", ""), "empty"),
        (Template("{name} {verb}", " {thing}", " b"), "No words are given for {thing}"),
    ],
)
def test_templates_that_mean_nothing(template: Template, said: str) -> None:
    with pytest.raises(BadRequest) as error:
        build(template, NAMES, {"verb": VERBS})
    assert said in error.value.message
    assert error.value.remedy


def test_lists_that_do_not_go_together() -> None:
    with pytest.raises(BadRequest, match="No word of one list goes with one of the other"):
        build(ASKED, Contrast("name", MEN, MEN), {"verb": VERBS})


def test_doubled_braces_are_braces() -> None:
    assert fields_of("{{x}} {name}") == ["name"]
    rows = build(Template("{{x}} {name} {verb}", " a", " of"), NAMES, {"verb": VERBS}, count=1).pairs
    assert rows[0].clean == "{x} Al is"


def test_exchanging_twice_changes_nothing() -> None:
    pair = Pair("a", "b", "c", "d", "e")
    assert swapped(pair) == Pair("c", "d", "a", "b", "e")
    assert swapped(swapped(pair)) == pair
    with pytest.raises(BadRequest):
        swapped(Pair("a", "b", "c"))


def test_why_there_are_fewer_rows_than_asked_for() -> None:
    words = {field: WordList(field, tuple(f"{field}{n}" for n in range(400))) for field in "ab"}
    few = {field: WordList(field, ("x", "y")) for field in "ab"}
    template = Template("{a} {b}", " c")
    assert build(template, None, words, count=200_000).dropped == (
        "200,000 rows were asked for; at most 100,000 are made at once.",
    )
    assert build(template, None, few, count=5).dropped == ("5 rows were asked for; these words make 4.",)


# --- words --------------------------------------------------------------------------------------------------------


def test_built_in_lists_have_no_word_twice_and_stand_in_pairs() -> None:
    assert all(len(set(words)) == len(words) for words in WORDS.values())
    assert len(WORDS["male_names"]) == len(WORDS["female_names"])
    assert len(WORDS["he_professions"]) == len(WORDS["she_professions"])
    assert not set(WORDS["male_names"]) & set(WORDS["female_names"])
    assert not set(WORDS["he_professions"]) & set(WORDS["she_professions"])


def test_lists_are_read_from_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("\ufeff Zoë \r\n\nÅsa\nZoë\nbad\x1b[31m\nnew york\n", encoding="utf-8")
    found = word_list(str(file))
    assert found.words == ("Zoë", "Åsa", "new york")
    assert len(found.dropped) == 2
    assert "line 4: 'Zoë' is there twice, first in line 1" in found.dropped[0]
    assert "line 5" in found.dropped[1]
    assert "\x1b" not in found.dropped[1]


def test_a_file_comes_before_a_built_in_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert word_list("verbs").words == WORDS["verbs"]
    (tmp_path / "verbs").write_text("eats\n")
    assert word_list("verbs").words == ("eats",)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "holds no words"), (b"\n \n", "holds no words"), (b"\xff\xfe", "not UTF-8")]
)
def test_files_of_words_that_cannot_be_used(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "words"
    file.write_bytes(content)
    with pytest.raises(BadRequest, match=said):
        word_list(str(file))


def test_neither_file_nor_list(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="Built in are male_names") as error:
        word_list("mail_names")
    assert "'mail_names'" in error.value.message
    with pytest.raises(BadRequest, match="is a folder"):
        word_list(str(tmp_path))


# --- data sets ----------------------------------------------------------------------------------------------------


def test_built_in_sets_are_those_of_the_thesis_in_kind() -> None:
    made = {name: built_in(name).pairs for name in BUILT_IN}
    for name, pairs in made.items():
        assert len(set(pairs)) == len(pairs) == 50, name
        assert len({p.clean.split()[-2] for p in pairs}) == 50, "fifty verbs"
        assert all(p.patch is not None and p.patch_answer is not None for p in pairs)
    assert made["names"][0] == Pair("John works because", " he", "Mary works because", " she")
    assert made["names_female"] == tuple(map(swapped, made["names"]))
    assert made["baseline_names"][0] == Pair("John works because", " John", "Mary works because", " Mary")
    assert [(p.patch, p.clean) for p in made["prof_anti"]] == [(p.clean, p.patch) for p in made["prof_stereo"]]
    assert {(p.answer, p.patch_answer) for p in made["prof_anti"]} == {(" he", " she")}


def test_data_sets_by_name_by_file_and_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my rows.jsonl"
    file.write_text(json_lines(built_in("names").pairs[:3], "feature-circuits"))
    one, two, three = prompt_sets(["names", f"mine={file}", "other=prof_stereo"], examples=2)
    assert [(s.name, len(s.pairs)) for s in (one, two, three)] == [("names", 2), ("mine", 2), ("other", 2)]
    assert one.pairs == two.pairs == built_in("names").pairs[:2]
    assert [s.origin for s in (one, two, three)] == ["", str(file), ""]
    assert prompt_sets([str(file)])[0].name == "my rows"


def test_a_file_comes_before_a_built_in_set_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prof_anti").mkdir()
    (tmp_path / "names").write_text('{"clean": "a", "answer": "b"}')
    (tmp_path / "a=b.jsonl").write_text('{"clean": "c", "answer": "d"}')
    found = prompt_sets(["names", "prof_anti", "a=b.jsonl"])
    assert [(s.name, len(s.pairs), s.origin) for s in found] == [
        ("names", 1, "names"), ("prof_anti", 50, ""), ("a=b", 1, "a=b.jsonl"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "No data set"),
        (["nomes"], "There is no file 'nomes'"),
        (["x=nomes"], "There is no file 'nomes'"),
        (["x="], "has no file"),
        (["=names"], "has no name"),
        ([""], "There is no file ''|folder"),
        (["."], "is a folder"),
        (["names", "names"], "are called"),
        (["a=names", "a=prof_anti"], "are called"),
    ],
)
def test_data_sets_that_are_none(names: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadRequest, match=said) as error:
        prompt_sets(names)
    assert error.value.remedy


@pytest.mark.parametrize("keys", ["feature-circuits", "saescope"])
@given(text=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=4, max_size=4))
def test_rows_are_written_so_that_they_are_read_back(
    keys: Any, text: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    pairs = (Pair(*text), Pair(*reversed(text)))
    written = json_lines(pairs, keys)
    assert written.count("\n") == 1
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text(written, encoding="utf-8")
    assert read_pairs(file) == pairs


# --- what a tokenizer says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (Pair("b", " a", "cc", " of"), "The patch prompt has 2 tokens, the prompt 1."),
        (Pair("bb", " a", "c", " of"), "The patch prompt has 1 token, the prompt 2."),
        (Pair("b", " he", "c", " a"), "' he' is 3 tokens, not one: ' ' + 'h' + 'e'."),
        (Pair("b", " a", "c", "Barcelona"), "'Barcelona' is 9 tokens, not one: 'B' + 'a' + 'r' + 'c' + 'e' + 'l' + …."),
        (Pair("b", " a", "c", " a"), "' a' is compared with itself: the difference is always zero."),
        (Pair("b", ""), "'' is 0 tokens, not one."),
        (Pair("", " a"), "The prompt is empty."),
    ],
)
def test_pairs_that_cannot_be_used(tokenizer: TextTokenizer, pair: Pair, said: str) -> None:
    assert unusable(tokenizer, pair) == said


def test_an_answer_and_the_same_after_a_space_are_two_tokens(tokenizer: TextTokenizer) -> None:
    assert unusable(tokenizer, Pair("b", "of", "c", " of")) is None


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (Pair("b", " a", "b", " of"), ["Clean and patch prompt are the same, so every effect is zero."]),
        (
            Pair("b ", "a", "c ", " of"),
            ["The prompt ends with a space, which usually belongs to the token that follows."],
        ),
        (Pair("b", "of", "c", " a"), ["'of' has no leading space; after this prompt the model's next word is ' of'."]),
        (Pair("b", ".", "c", "x"), []),
        (Pair("b", " a", "c", " of"), []),
    ],
)
def test_slips(tokenizer: TextTokenizer, pair: Pair, said: list[str]) -> None:
    assert slips(tokenizer, pair) == said


def test_a_check_counts_every_row_once(tokenizer: TextTokenizer) -> None:
    rows = [
        Pair("b in", " a", "c in", " of"),
        Pair("bb in", " a", "c in", " of"),
        Pair("b in", " a", "c in", " of", "again"),
        Pair("b \x1b[31m", " a", "c \x1b[31m", " of"),
    ]
    found = check_pairs(tokenizer, rows, name="mine", origin="mine.jsonl", tokenizer_name="tiny")
    assert (found.rows, found.usable, found.lengths) == (4, 3, {"2": 2, "7": 1})
    assert [f.row for f in found.dropped] == [2]
    assert [(f.row, f.reason) for f in found.noticed] == [(3, "It is the same as row 1.")]
    text = check_text(found)
    assert "3 of 4 rows can be used with tiny" in text
    assert "row 2" in text


@pytest.mark.parametrize("text", [" the", "the", "a", " a", " he", "he", "", "  the", "\n", "É", *NASTY])
def test_answers_are_taken_as_circuits_take_them(tokenizer: TextTokenizer, text: str) -> None:
    from engine.circuits.examples import answer_id

    opened: Any = SimpleNamespace(model=SimpleNamespace(tokenizer=tokenizer))
    found = one_token(tokenizer, text)
    if found is not None:
        assert answer_id(opened, text) == found
    else:
        with pytest.raises(BadRequest) as error:
            answer_id(opened, text)
        assert unusable(tokenizer, Pair("b", text)) == error.value.message


def test_needs_no_torch(run_python: RunPython) -> None:
    modules = "engine.prompts.datasets, engine.prompts.checking, engine.prompts.reports, engine.selection"
    heavy: tuple[str, ...] = ("torch", "numpy", "transformers", "tokenizers", "textual", "rich")
    done = run_python(f"import sys, {modules}\nprint([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr
    heavy = ("engine.protocol", *heavy)
    done = run_python(f"import sys, engine.commands.prompts\nprint([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr
