"""`saescope prompts …`: data sets of prompts, listed, built from templates, and checked against a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.commands.common import AsJson, check_writable, group, one_line_errors, print_result, report_progress, say
from engine.commands.completing import complete_model
from engine.errors import BadRequest

if TYPE_CHECKING:
    from engine.prompts.templates import Built, Contrast, Length
    from engine.prompts.words import WordList
    from engine.tokenizer import TextTokenizer

app = group("Data sets of prompts: the built-in ones, your own from a template, and whether they fit a model.",
            no_args_is_help=True)  # fmt: skip

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", autocompletion=complete_model, help="A model folder, a short name like gpt2-small, or a set."
    ),
]


@app.command("list")
@one_line_errors
def list_prompts(json: AsJson = False) -> None:
    """The built-in data sets, and the lists of words that templates can use."""
    from engine.documents import to_json
    from engine.prompts.reports import listed, listed_text

    print_result(to_json(listed()), listed_text(), json)


@app.command("build")
@one_line_errors
def build_prompts(
    what: Annotated[
        str, typer.Argument(metavar="TEMPLATE|NAME", help='E.g. "{name} {verb} because", or a built-in data set.')
    ],
    answer: Annotated[str | None, typer.Option(help="The clean prompt's answer, e.g. ' he' or ' {name}'.")] = None,
    patch_answer: Annotated[str | None, typer.Option(help="The patch prompt's; as --answer otherwise.")] = None,
    clean: Annotated[
        str | None, typer.Option(metavar="FIELD=LIST", help="Words of the clean prompts: a built-in list or a file.")
    ] = None,
    patch: Annotated[
        str | None, typer.Option(metavar="FIELD=LIST", help="Words of the patch prompts, in the same field.")
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=LIST", help="Words that clean and patch prompts share; once for each field."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Rows; as many as the longest list has words.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Pair words at random; in the lists' order else.")] = None,
    swap: Annotated[bool, typer.Option("--swap", help="Exchange clean and patch.")] = False,
    model: Model = None,
    keys: Annotated[str, typer.Option(help="Key names: feature-circuits or saescope.")] = "feature-circuits",
    out: Annotated[Path | None, typer.Option(help="Write to this file; to standard output otherwise.")] = None,
) -> None:
    """Make a data set from a template, one list of words against another, as JSON lines.

    With --model only words of equal length are paired, and rows its tokenizer cannot use are left out and named.
    """
    from engine.documents import write_whole
    from engine.prompts.builtin import BUILT_IN
    from engine.prompts.checking import unusable
    from engine.prompts.reports import KEYS, json_lines
    from engine.prompts.templates import swapped

    check_writable(out)
    if keys not in KEYS:
        raise BadRequest(f"{keys!r} is not a value of --keys.", f"Use {' or '.join(KEYS)}.")
    tokenizer = _tokenizer(model)[0] if model is not None else None
    length = None if tokenizer is None else lambda text: len(tokenizer.encode(text, bos=False))
    if what in BUILT_IN:
        if answer or patch_answer or clean or patch or words:
            raise BadRequest(f"{what} is built in and brings its own words.", "Give a template to use others.")
        built = _built_in(what, count, seed, length)
    else:
        built = _from_template(what, answer, patch_answer, clean, patch, words or [], count, seed, length)
    for reason in built.dropped:
        say(reason)
    pairs = list(map(swapped, built.pairs)) if swap else list(built.pairs)
    if tokenizer is not None:
        reasons = {pair: unusable(tokenizer, pair) for pair in pairs}
        for pair, why in reasons.items():
            if why is not None:
                say(f"{pair.clean!r}: {why}")
        pairs = [pair for pair, why in reasons.items() if why is None]
        if not pairs:
            raise BadRequest(f"No row can be used with {model}.", "Give other words or answers.")
    text = json_lines(pairs, keys)
    if out is None:
        typer.echo(text)
    else:
        write_whole(out, text + "\n")
        say(f"wrote {len(pairs)} rows to {out}")


@app.command("check")
@one_line_errors
def check_prompts(
    file: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A file of pairs, or a built-in data set.")],
    model: Model = None,
    json: AsJson = False,
) -> None:
    """Which rows of a data set a model's tokenizer can read: one-token answers, prompts of equal length."""
    from engine.documents import to_json
    from engine.prompts.checking import check_pairs
    from engine.prompts.datasets import prompt_sets
    from engine.prompts.reports import check_text

    prompts = prompt_sets([file])[0]
    tokenizer, called = _tokenizer(model)
    check = check_pairs(tokenizer, prompts.pairs, name=prompts.name, origin=prompts.origin, tokenizer_name=called)
    print_result(to_json(check), check_text(check), json)
    if not check.usable:
        raise typer.Exit(1)


def _tokenizer(model: str | None) -> tuple[TextTokenizer, str]:
    """The tokenizer of a model, named as everywhere, and what the model is called; the default one for None."""
    from engine import default_model
    from engine.job import Job
    from engine.protocol import Event, Progress
    from engine.resolving import NEURONS, resolve
    from engine.tokenizer import TextTokenizer

    def emit(event: Event) -> None:
        if isinstance(event, Progress):
            report_progress(event.text, event.done, event.total)

    opening = resolve(model, [f"{NEURONS}resid_post"])  # a model alone: dictionaries are not needed
    folder = opening.model or default_model.ensure(Job(emit=emit))
    report_progress("", 0, 0)
    return TextTokenizer(folder), opening.name or (folder.name if opening.model else default_model.NAME)


def _built_in(name: str, count: int | None, seed: int | None, length: Length | None) -> Built:
    from engine.prompts.builtin import ROWS, built_in

    return built_in(name, count=count or ROWS, seed=seed, length=length)


def _from_template(
    prompt: str,
    answer: str | None,
    patch_answer: str | None,
    clean: str | None,
    patch: str | None,
    words: list[str],
    count: int | None,
    seed: int | None,
    length: Length | None,
) -> Built:
    from engine.prompts.builtin import BUILT_IN
    from engine.prompts.templates import Built, Template, build, fields_of

    if not fields_of(prompt):
        raise BadRequest(
            f"{prompt!r} has no field in braces, nor is it a built-in data set.",
            f'Write e.g. "{{name}} {{verb}} because"; built in are {", ".join(BUILT_IN)}.',
        )
    if answer is None:
        raise BadRequest("The template has no answer.", "Give --answer, e.g. --answer ' he'.")
    contrast = _contrast(clean, patch)
    shared: dict[str, WordList] = {}
    for given in words:
        field, found = _filled(given, "--words")
        if field in shared or (contrast is not None and field == contrast.field):
            raise BadRequest(f"Words for {{{field}}} were given twice.", "Give each field one list.")
        shared[field] = found
    lists = [*shared.values(), *([contrast.clean, contrast.patch] if contrast else [])]
    made = build(Template(prompt, answer, patch_answer), contrast, shared, count=count, seed=seed, length=length)
    return Built(made.pairs, (*(reason for each in lists for reason in each.dropped), *made.dropped))


def _contrast(clean: str | None, patch: str | None) -> Contrast | None:
    from engine.prompts.templates import Contrast

    if clean is None and patch is None:
        return None
    if clean is None or patch is None:
        missing = "--clean" if clean is None else "--patch"
        raise BadRequest(
            f"One list was given without the other: {missing} is missing.", "Give both, for the same field."
        )
    (field, ours), (other, theirs) = _filled(clean, "--clean"), _filled(patch, "--patch")
    if field != other:
        raise BadRequest(f"--clean fills {{{field}}}, --patch {{{other}}}.", "Give both for the same field.")
    return Contrast(field, ours, theirs)


def _filled(given: str, option: str) -> tuple[str, WordList]:
    from engine.prompts.words import word_list

    field, equals, name = given.partition("=")
    if not equals or not field.strip() or not name:
        raise BadRequest(f"{option} {given!r} does not say which field it fills.", f"Write {option} FIELD=LIST.")
    return field.strip(), word_list(name)
