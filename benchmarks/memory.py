"""The memory of a long session: what indexing and asking cost with 10,000 experiments and 100,000 messages. Prints tables.

    python -m benchmarks.memory                    # the figures of docs/memory.md
    python -m benchmarks.memory --experiments 1000 --messages 10000

The ledger is that of benchmarks/ledger.py (the sweep's proposals, diffs and verdicts), the messages speak in sentences drawn from
the words of the field about these experiments, a third of them on two channels, the others between 16 agents. Questions are drawn
from the same words: one word, three words, a phrase, an experiment's name, a sentence in plain words. Times by the clock, in
milliseconds. A question costs a look for news (`Memory.update`) and a search (`org.recall.search`).
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.ledger import session
from comms import message as messages
from comms.mailbox import Mail
from lab.home import Home
from lab.ledger import Ledger
from org.memory import Memory
from org.recall import search

WORDS = re.findall(
    r"\S+",
    """
    loss gradient momentum learning rate warm-up warmdown schedule muon adam weight decay embedding head attention window
    rotary softcap norm initialisation batch tokens sequence curvature noise sharpness plateau spike divergence seed
    baseline bank trunk depth width ratio residual value key query logits entropy tokenizer vocabulary throughput memory
    compile kernel precision bfloat16 clipping averaging restart cosine linear polynomial ablation control replicate
    interval verdict nominate confirm
    """,
)
PLAIN = "the a of with we it was and then after before no more less is not in on at while by than"


def sentence(draw: random.Random, count: int) -> str:
    """Words of the field, the early ones more often (as 1 over their place), between plain ones."""
    weights = [1 / (place + 2) for place in range(len(WORDS))]
    said = draw.choices(WORDS, weights, k=count)
    return " ".join(word for pair in zip(said, draw.choices(PLAIN.split(), k=count), strict=True) for word in pair)


def fill(home: Home, experiments: int, count: int, agents: int = 16) -> tuple[int, int]:
    """Write ledger and mail (without fsync, which is no matter here). Returns the facts and experiments written."""
    home.make()
    ledger = Ledger(home.ledger, create=True)
    facts: list[tuple[str, str, dict[str, object]]] = []
    made = written = 0
    for fact in session(10**9):
        made += fact[0] == "proposal"
        if made > experiments:
            break
        facts.append(fact)
        if len(facts) == 5000:
            written += len(ledger.append_all(facts))
            facts = []
    written += len(ledger.append_all(facts))
    ledger.close()
    draw, mail = random.Random(1), Mail(home.comms)
    names = [f"r{number}" for number in range(agents)]
    for name in names:
        mail.inbox(name)
    for name in ("all", "ideas"):
        mail.channel(name)
    for number in range(count):
        sender, about = draw.choice(names), f"E{draw.randrange(1, experiments + 1):04d}"
        to = draw.choice(("#all", "#ideas")) if number % 3 == 0 else draw.choice(names)
        one = messages.compose(sender, to, sentence(draw, draw.randrange(8, 60)) + f" (message {number})", about=about)
        place = mail.folders(to)[-1]
        (place / f"{one.id}.md").write_bytes(messages.render(one))
    return written, experiments


def questions(draw: random.Random, experiments: int) -> dict[str, list[str]]:
    def some(act: Callable[[], str]) -> list[str]:
        return [act() for _ in range(30)]

    return {
        "one word": some(lambda: draw.choice(WORDS)),
        "three words": some(lambda: " ".join(draw.sample(WORDS, 3))),
        "a phrase": some(lambda: f'"{draw.choice(WORDS)} the {draw.choice(WORDS)}"'),
        "an experiment's name": some(lambda: f"E{draw.randrange(1, experiments + 1):04d}"),
        "a sentence": some(lambda: f"was {draw.choice(WORDS)} {draw.choice(WORDS)} ever tried with a longer {draw.choice(WORDS)}?"),
        "a word that is nowhere": some(lambda: f"zzq{draw.randrange(10**6)}"),
    }


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - began)


def cuts(times: list[float]) -> tuple[str, str]:
    times = sorted(times)
    return f"{statistics.median(times):.1f}", f"{times[min(len(times) - 1, int(0.99 * len(times)))]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the session is written; a temporary folder without it")
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        home = Home(Path(temporary))
        facts, experiments = fill(home, args.experiments, args.messages)
        with Memory(home) as memory:
            build = timed(memory.update) / 1000
            size = memory.path.stat().st_size / 1e6
            what = f"{facts:,} facts of {experiments:,} experiments, {args.messages:,} messages"
            console.print(f"{what}: indexed in {build:.1f} s, {size:.0f} MB")
            time.sleep(1.1)  # so that the folders' times of change can be relied on
            memory.update()
            quiet = [timed(memory.update) for _ in range(20)]
            mail, news = Mail(home.comms), []
            for number in range(20):
                mail.send("r1", f"r{number % 16}", "something new about momentum")
                ledger = Ledger(home.ledger)
                ledger.append("review", {"finding": "ok", "text": "momentum it is"}, "E0001", "r1")
                ledger.close()
                news.append(timed(memory.update))
            table = Table("look for news", "p50 ms", "p99 ms", box=None)
            table.add_row("nothing is new", *cuts(quiet))
            table.add_row("one message and one fact are new", *cuts(news))
            console.print(table)
            table = Table("search", "p50 ms, a person", "p99 ms", "p50 ms, an agent", "p99 ms", box=None)
            every: dict[str | None, list[float]] = {None: [], "r3": []}
            for name, asked in questions(random.Random(2), args.experiments).items():
                cells: list[str] = []
                for who, times in every.items():
                    found = [timed(lambda who=who, text=text: search(memory, text, who)) for text in asked]
                    times += found
                    cells += cuts(found)
                table.add_row(name, *cells)
            table.add_row("all of these", *(cell for times in every.values() for cell in cuts(times)))
            console.print(table)


if __name__ == "__main__":
    main()
