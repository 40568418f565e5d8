"""Questions to the memory: words in, finds out, each with where it stands and what it is worth. Called by search, ask and agents.

A question is untrusted text and never reaches SQLite as syntax: every word and quoted phrase goes in quotes. First what holds all
the words, then what holds some. Finds of one experiment are one find. Ranking is bm25, weighted by how near a source is to the
fact (what was measured before what was said) and by how many of the words it holds.
"""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from comms.message import IDENTITY
from lab.text import clean
from org.memory import Memory, rows
from org.terms import forms, joined

CLAIMED = "claimed"
WEIGHT = {
    "proposal": 1.0, "verdict": 0.9, "review": 0.8, "digest": 0.8, "note": 0.8, "library": 0.8, "message": 0.7, "diff": 0.6,
}  # fmt: skip
LAB_WEIGHT = 0.4
"""Of the laboratory's own letters: the experiment that they are about is a find of its own."""
WITHDRAWN = 0.7
"""What was given up before it was measured says little."""
TERMS = 24
QUERY_LIMIT = 4_000
"""Characters of a question that are looked at."""
FIRST = 200
"""Finds that are looked at first; more when too few of them may be seen."""
EXPERIMENT = re.compile(r"(?<![\w-])E\d{4,9}(?![\w-])", re.IGNORECASE)
COMMON = re.compile(
    r"(?:"
    r"a|about|all|also|an|and|any|anybody|anyone|are|as|at|be|been|before|better|by|came|can|could|did|do|does|done|down|ever"
    r"|for|from|get|gets|had|has|have|help|helps|how|i|if|improve|improves|in|is|it|its|lower|make|makes|more|not|of|off|on|or"
    r"|our|out|should|so|some|than|that|the|their|them|then|there|these|they|this|to|tried|try|up|use|used|using|was|we|were"
    r"|what|when|where|which|who|why|will|with|work|works|would|worse|you"
    r")",
    re.IGNORECASE,
)
"""Words that say nothing of the subject; left out where not all words are found together."""


@dataclass(frozen=True)
class Query:
    """A question taken apart. `exact`: experiments and messages that it names."""

    phrases: tuple[str, ...]
    words: tuple[str, ...]
    exact: tuple[str, ...]

    @property
    def telling(self) -> tuple[str, ...]:
        """The words that say something; all, when none does."""
        return tuple(word for word in self.words if not COMMON.fullmatch(word)) or self.words


@dataclass
class Hit:
    """A find. `cite`: an experiment, a message's id, file:line, or file#page=3. `trust`: what it is worth: an experiment's verdict or
    state, `claimed` (somebody says so), `digest`, `note` or `library`.
    """

    cite: str
    kind: str
    """experiment, message, digest, note or library."""
    trust: str
    time: float
    """Seconds since the epoch: proposed, sent, or changed."""
    title: str
    """An experiment's hypothesis, a passage's heading."""
    snippet: str
    """One harmless line around the words."""
    outcome: str = ""
    """What became of the experiment, or of the one that a message is about: "worse, effect +0.0123"."""
    who: str = ""
    to: str = ""
    about: str = ""
    parts: list[str] = field(default_factory=list)
    """Of an experiment where the words stand (proposal, diff, verdict, review); of a message its kind."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Of an experiment with a verdict: {verdict, effect, low, high, n, m}, in the metric's unit."""
    file: str = ""
    line: int = 0
    page: int = 0
    """Of a paper as PDF, instead of a line."""
    share: float = 0.0
    """Share of the question's telling words that it holds."""
    score: float = 0.0


def parse(text: str) -> Query:
    """A question's quoted phrases, its other words, and the ids in it. Never fails: what is no word is left out."""
    text = text[:QUERY_LIMIT]
    exact = tuple(dict.fromkeys([*(found.upper() for found in EXPERIMENT.findall(text)), *IDENTITY.findall(text)]))
    phrases = [" ".join(_words(one)) for one in re.findall(r'"([^"]*)"', text)]
    rest = re.sub(r'"[^"]*"', " ", text)
    words = dict.fromkeys(_words(joined(IDENTITY.sub(" ", EXPERIMENT.sub(" ", rest)))))
    return Query(tuple(phrase for phrase in phrases if phrase)[:TERMS], tuple(words)[:TERMS], exact)


def _words(text: str) -> list[str]:
    found = re.findall(r"\w(?:[\w.+-]*\w)?\*?", text)
    return [word[:60] for word in found if any(letter.isalnum() for letter in word)]


def _term(word: str, names: tuple[str, ...] | None = None) -> str:
    """A word or phrase as FTS5 takes it: in quotes, so that nothing in it is syntax; `warm*` means what begins so.

    "warm-up" is found as "warm up" too, which is how both are cut, and as "warmup"; "lr" as "learning rate" (`org.terms`), unless other
    `names` are given.
    """
    names = forms(word) if names is None else names
    quoted = [one.rstrip("*").replace('"', '""') for one in dict.fromkeys([word, word.replace("-", ""), *names])]
    terms = [f'"{one}"' + ("*" if word.endswith("*") else "") for one in quoted]
    return terms[0] if len(terms) == 1 else f"({' OR '.join(terms)})"


def expressions(query: Query) -> list[str]:
    """FTS5 expressions, the strict one first: all words; then the phrases and some of the telling words."""
    phrases = [_term(phrase, ()) for phrase in query.phrases]
    named = [_term(name) for name in query.exact if EXPERIMENT.fullmatch(name)]  # what others say of an experiment
    strict = " AND ".join([*phrases, *map(_term, query.words), *named])
    some = " OR ".join([*map(_term, query.telling), *named])
    loose = " AND ".join([*phrases, *([f"({some})"] if some else [])])
    return [one for one in dict.fromkeys([strict, loose]) if one]


@dataclass
class _Find:
    """The best row of one experiment, message or passage so far; `parts`: kinds of all its rows that were found."""

    table: str
    row: dict[str, Any]
    expression: str
    score: float
    share: float
    parts: list[str] = field(default_factory=list)


def search(memory: Memory, text: str, asker: str | None, limit: int = 10) -> list[Hit]:
    """The best finds. `asker`: an agent, who sees what is public and its own mail; None: a person, who sees everything."""
    query = parse(text)
    found: dict[tuple[str, str, int], _Find] = {}
    for place, name in enumerate(query.exact):
        for table in ("records", "letters"):
            for row in rows(memory.db, f"SELECT * FROM {table} WHERE source=? AND place != 'file' ORDER BY id LIMIT 50", (name,)):
                if _visible(row, table, asker):
                    _merge(found, _Find(table, row, "", 1e6 - place, 1.0))
    for expression in expressions(query):
        if len(found) >= limit + len(query.exact):
            break
        for table in ("records", "letters"):
            for row in _rows(memory.db, table, expression, asker, 4 * limit):
                share = _share(query, row)
                score = -row["rank"] * _weight(memory, table, row) * (0.25 + 0.75 * share)
                _merge(found, _Find(table, row, expression, score, share))
    best = sorted(found.values(), key=lambda one: (-one.score, -one.row["time"], one.row["source"]))
    return [_hit(memory, query, one) for one in best[:limit]]


def _rows(db: sqlite3.Connection, table: str, expression: str, asker: str | None, wanted: int) -> list[dict[str, Any]]:
    """Rows that match and may be seen, the best first."""
    only_own = asker is not None and table == "letters"
    allowed, values = ("AND (place LIKE '#%' OR place=? OR sender=?)", (asker, asker)) if only_own else ("", ())
    best = f"SELECT rowid, rank FROM {table}_words WHERE {table}_words MATCH ? ORDER BY rank LIMIT ?"
    query = f"SELECT t.*, rank FROM ({best}) f JOIN {table} t ON t.id = f.rowid WHERE 1 {allowed} ORDER BY rank LIMIT ?"
    found: list[dict[str, Any]] = []
    for size in (FIRST, 25 * FIRST, -1) if only_own else (wanted,):  # -1: all, for words that stand in others' mail mostly
        found = rows(db, query, (expression, size, *values, wanted))
        if len(found) >= wanted:
            break
    return found


def _visible(row: dict[str, Any], table: str, asker: str | None) -> bool:
    return asker is None or table == "records" or row["place"].startswith("#") or asker in (row["place"], row["sender"])


def _weight(memory: Memory, table: str, row: dict[str, Any]) -> float:
    if table == "letters":
        return LAB_WEIGHT if row["sender"] == "lab" else WEIGHT["message"]
    return WEIGHT[row["kind"]] * (WITHDRAWN if _experiment(memory, row["source"]).get("status") == "withdrawn" else 1.0)


def _experiment(memory: Memory, name: str) -> dict[str, Any]:
    return next(iter(rows(memory.db, "SELECT * FROM experiments WHERE id=?", (name,))), {})


def _share(query: Query, row: dict[str, Any]) -> float:
    """Share of the telling words that a row holds, endings left out of account."""
    wanted = _wanted(query)
    text = f"{row['title']} {row['body']}".lower()
    return sum(bool(one.search(text)) for one in wanted) / len(wanted) if wanted else 1.0


def _wanted(query: Query) -> list[re.Pattern[str]]:
    """A pattern for each telling word: its stem anywhere, or one of its other names."""
    found = []
    for word in query.telling:
        if names := forms(word):
            written = "|".join(re.escape(name.lower()).replace(r"\ ", "[ _-]") for name in names)
            found.append(rf"(?<![^\W_])(?:{written})(?![^\W_])")
        else:
            found += _stems(word)
    found += [stem for phrase in query.phrases for stem in _stems(phrase)]
    return [re.compile(one) for one in found]


def _stems(word: str) -> list[str]:
    """Patterns for the parts of a word or phrase, without their endings."""
    return [re.escape(part[: max(4, len(part) - 3)]) for part in re.findall(r"[^\W_]+", word.lower())]


def _merge(found: dict[tuple[str, str, int], _Find], new: _Find) -> None:
    """Rows of one experiment are one find, of which the best row counts."""
    key = (new.row["place"], new.row["source"], new.row["line"])
    old = found.setdefault(key, new)
    if new.score > old.score:
        old.row, old.expression, old.score = new.row, new.expression, new.score
    old.share = max(old.share, new.share)
    if new.row["kind"] not in old.parts:
        old.parts.append(new.row["kind"])


def _hit(memory: Memory, query: Query, find: _Find) -> Hit:
    row, snippet = find.row, _snippet(memory, find)
    common: dict[str, Any] = {"title": clean(row["title"]), "snippet": snippet, "share": round(find.share, 2), "score": find.score}
    if find.table == "letters":
        of = _experiment(memory, row["about"]) if row["about"] else {}
        common |= {"outcome": of.get("outcome", ""), "who": row["sender"], "to": row["place"], "about": row["about"]}
        return Hit(row["source"], "message", CLAIMED, time=row["time"], parts=[row["part"]], **common)
    if row["place"] == "file":
        path = row["source"].removeprefix(f"{memory.home.root}/")
        common |= {"time": row["time"], "file": row["source"]}
        if row["part"] == "page":
            return Hit(f"{path}#page={row['line']}", row["kind"], row["kind"], page=row["line"], **common)
        line = row["line"] + _offset(query, row["body"])
        return Hit(f"{path}:{line}", row["kind"], row["kind"], line=line, **common)
    of = _experiment(memory, row["source"])
    common |= {"outcome": of["outcome"], "who": of["agent"], "figures": json.loads(of["verdict"]), "about": row["source"]}
    parts = [kind for kind in WEIGHT if kind in find.parts]
    first = rows(memory.db, "SELECT title FROM records WHERE source=? AND kind='proposal'", (row["source"],))
    common["title"] = clean(first[0]["title"]) if first else common["title"]
    return Hit(row["source"], "experiment", of["status"], time=row["time"], parts=parts, **common)


def _snippet(memory: Memory, find: _Find) -> str:
    """The words around what was found, as one harmless line."""
    table, number = find.table, find.row["id"]
    if not find.expression:
        return clean(find.row["body"], 300)
    query = f"SELECT snippet({table}_words, 1, '', '', '…', 40) FROM {table}_words WHERE {table}_words MATCH ? AND rowid=?"
    return clean(memory.db.execute(query, (find.expression, number)).fetchone()[0], 400)


def _offset(query: Query, body: str) -> int:
    """Lines from a passage's first to the one that holds most of the words."""
    wanted = _wanted(query)
    counts = [sum(bool(one.search(line.lower())) for one in wanted) for line in body.split("\n")]
    return counts.index(max(counts))
