"""The memory on the command line: `search` (finds with their sources) and `ask` (a cited brief). Mounted by `orgctl.py`.

Both bring the index up to date first (`org.memory`). An agent finds what is public and its own mail; a person finds everything.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from comms import quoted
from lab.answer import as_data
from lab.client import PERSON, reader
from lab.errors import UserError
from lab.home import Home
from lab.text import clean
from org import brief, design, model, recall
from org.memory import PATIENCE_SECONDS, Memory

app = typer.Typer(add_completion=False)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Limit = Annotated[int, typer.Option("-n", "--limit", min=1, max=100, help="How many finds.")]


@contextmanager
def _memory(rebuild: bool = False) -> Iterator[tuple[Memory, str | None]]:
    """The index, up to date, and who asks (None: a person, who sees everything)."""
    home = Home.find()
    asker = reader(home)
    with Memory(home, design.read(home).library) as memory:
        if rebuild:
            memory.forget()
        memory.update(lambda text: print(text, file=sys.stderr), math.inf if rebuild else PATIENCE_SECONDS)
        yield memory, None if asker == PERSON else asker


def _asked(words: list[str]) -> str:
    text = " ".join(words)
    query = recall.parse(text)
    if not (query.words or query.phrases or query.exact):
        raise UserError("there is no word in that question: name what you look for, such as: orgctl search warm-up")
    return text


@app.command()
def search(
    query: Annotated[list[str], typer.Argument(help="Words; \"words in quotes\" stand together, warm* means what begins so.")],
    limit: Limit = 10,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the index anew first (.org/memory.db is derived).")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Was this tried, was it said, what came of it? Finds in proposals, changes, verdicts, reviews, mail, digests, notes and library.

    Each with its source and what it is worth: an experiment's verdict, `claimed` for what somebody wrote, `library` for papers.
    """
    text = _asked(query)
    with _memory(rebuild) as (memory, asker):
        hits = recall.search(memory, text, asker, limit)
    if as_data(as_json, [dataclasses.asdict(hit) for hit in hits]):
        return
    if not hits:
        print("nothing found")
        return
    lines = [line for hit in hits for line in (_heading(hit), *quoted.quote(hit.snippet))]
    print(quoted.framed(f"{len(hits)} find{'s' if len(hits) != 1 else ''}", lines))


def _heading(hit: recall.Hit) -> str:
    """One line: source, worth, who and when."""
    day = time.strftime("%Y-%m-%d", time.localtime(hit.time))
    if hit.kind == "experiment":
        return f"{hit.cite}: {hit.outcome}; by {clean(hit.who, 30)}, {day} ({', '.join(hit.parts)}): {quoted.line(hit.title)}"
    if hit.kind == "message":
        about = f" about {quoted.line(hit.about)}" + (f" ({hit.outcome})" if hit.outcome else "") if hit.about else ""
        return f"{hit.cite}: claimed by {hit.who} to {hit.to}, {day}{about}"
    return f"{quoted.line(hit.cite)}: {hit.trust}, {day}: {quoted.line(hit.title)}"


@app.command()
def ask(
    question: Annotated[list[str], typer.Argument(help="In your own words, such as: was a longer warm-up tried?")],
    limit: Limit = 12,
    no_model: Annotated[bool, typer.Option("--no-model", help="Only the finds, also where a model is configured.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """A short answer with sources: what was measured, what is claimed, what the library says.

    Composed by rules. Where $ORGCTL_ASK_MODEL names a model (anthropic:NAME or openai:NAME, with $ORGCTL_ASK_KEY and, for another
    server, $ORGCTL_ASK_URL) that model is given the finds and writes a text; sentences of it without a source are marked.
    """
    text = _asked(question)
    chosen = None if no_model else model.configured()
    with _memory() as (memory, asker):
        hits = recall.search(memory, text, asker, limit)
    found = brief.compose(text, hits, limit)
    if chosen is not None and found.hits:
        try:
            found = dataclasses.replace(found, answer=brief.checked(chosen.ask(*brief.prompt(found)), found.cites), model=chosen.name)
        except UserError as error:
            print(f"orgctl: {error}; what follows is without it", file=sys.stderr)
    if not as_data(as_json, brief.as_dict(found)):
        print(brief.shown(found))
