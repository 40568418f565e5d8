"""Mail under stress: writers and readers as processes that are killed at random, and what a look at old mail costs. Prints tables.

    python benchmarks/messages.py                        # the figures of docs/messages.md: 100,000 messages, 16 writers, 16 readers
    python benchmarks/messages.py --messages 5000 --only stress

In the stress every writer sends to every reader as fast as it can, and every reader takes what is new; one process after the other,
drawn at random, is ended with SIGKILL and started again. Afterwards the logs of both sides are held against what lies in the folders.
A message has 0.3 to 4 kB and carries the SHA-256 of its words. In the paced part nobody is killed and each writer sends ten messages a
second: that is the time from send to seen when nobody queues for the machine. Times from send to seen begin with the time in the
message's id, which is before it is written and fsynced.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from comms import message as messages
from comms.mailbox import Mail

HERE = Path(__file__).resolve()

LOOK = 0.002
"""Seconds between a reader's looks when nothing is new."""


def write(mail: Mail, me: str, readers: int, first: int, last: int, pause: float, log: int) -> None:
    """A writer: says each message in its log after it was sent."""
    for number in range(first, last):
        words = f"{me} {number}\n" + "the loss falls as the learning rate warms up\n" * (1 + number * 37 % 90)
        digest = hashlib.sha256(words.encode()).hexdigest()
        sent = mail.send(me, f"r{(number + int(me[1:])) % readers}", words + digest, about=f"E{number:04d}")
        os.write(log, f"{number} {sent.id}\n".encode())
        time.sleep(pause)


def read(mail: Mail, me: str, stop: Path, log: int) -> None:
    """A reader: says each message in its log when it has it in hand."""
    while True:
        over, seen = stop.exists(), False
        for one in mail.each(me) if mail.waiting(me) else ():
            now = time.time()
            words, _, digest = one.body.rpartition("\n")
            whole = hashlib.sha256((words + "\n").encode()).hexdigest() == digest
            os.write(log, f"{one.id} {one.sender} {1e3 * (now - one.time):.3f} {int(whole)}\n".encode())
            seen = True
        if over and not seen:
            return
        time.sleep(0 if seen else LOOK)


@dataclass
class Outcome:
    """What the logs and folders say. Times from send to seen in milliseconds."""

    messages: int
    kills: int
    seconds: float
    delays: list[float]
    lost: int
    """Reported as sent and in no folder."""
    unread: int
    """Left in new/."""
    twice: int
    """Handed out as new more than once."""
    half: int
    """Whose words do not fit their digest."""
    disordered: int
    """Handed out after a later one of the same sender, in one life of the reader."""
    set_aside: int
    in_hand: int
    """Taken by a reader that was killed before it said so: they lie in cur/."""
    reader_kills: int
    unreported: int
    """Delivered by a writer that was killed before it said so."""
    writer_kills: int

    @property
    def problems(self) -> int:
        excess = max(0, self.in_hand - self.reader_kills) + max(0, self.unreported - self.writer_kills)
        return self.lost + self.unread + self.twice + self.half + self.disordered + self.set_aside + excess


def stress(
    folder: Path, writers: int, readers: int, count: int, kill_every: float, pause: float = 0.0, seed: int = 0
) -> Outcome:
    """Send `count` messages from all writers to all readers; kill a process every `kill_every` seconds (0: never)."""
    draw, root, stop, logs = random.Random(seed), folder / "comms", folder / "stop", folder / "logs"
    logs.mkdir()
    share = -(-count // writers)
    for number in range(readers):
        Mail(root).inbox(f"r{number}")

    def start(name: str) -> subprocess.Popen[bytes]:
        log = logs / name
        argv = [sys.executable, str(HERE), "--worker", name, "--folder", str(folder), "--readers", str(readers)]
        if name[0] == "w":
            lines = log.read_text().splitlines() if log.exists() else []
            first = int(lines[-1].split()[0]) + 1 if lines else 0
            argv += ["--first", str(first), "--last", str(min(share, count - share * int(name[1:]))), "--pause", str(pause)]
        return subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)})

    began, kills, killed = time.monotonic(), {"w": 0, "r": 0}, time.monotonic()
    working = {f"w{n}": start(f"w{n}") for n in range(writers)}
    reading = {f"r{n}": start(f"r{n}") for n in range(readers)}
    while working:
        for name, child in list(working.items()):
            if child.poll() is not None:
                if child.returncode:
                    raise SystemExit(f"{name} ended with {child.returncode}")
                working.pop(name)
        if kill_every and working and time.monotonic() - killed > kill_every:
            name = draw.choice([*working, *reading])
            group = working if name in working else reading
            group[name].kill()
            if group[name].wait() < 0:
                kills[name[0]] += 1
                _mark(logs / name)
                group[name] = start(name)
            killed = time.monotonic()
        time.sleep(min(0.02, kill_every or 0.02))
    stop.touch()
    for name, child in reading.items():
        if child.wait():
            raise SystemExit(f"{name} ended with {child.returncode}")
    return judge(root, logs, time.monotonic() - began, kills)


def _mark(log: Path) -> None:
    """A reader's log says where a life ended."""
    if log.name[0] == "r":
        with open(log, "ab") as handle:
            handle.write(b"killed\n")


def judge(root: Path, logs: Path, seconds: float, kills: dict[str, int]) -> Outcome:
    """Hold the logs of both sides against the folders."""
    reported = {line.split()[1] for log in logs.glob("w*") for line in log.read_text().splitlines()}
    seen: list[str] = []
    delays, half, disordered = [], 0, 0
    for log in logs.glob("r*"):
        last: dict[str, str] = {}
        for line in log.read_text().splitlines():
            if line == "killed":
                last = {}
                continue
            id, sender, delay, whole = line.split()
            seen.append(id)
            delays.append(float(delay))
            half += whole != "1"
            disordered += id < last.get(sender, "")
            last[sender] = id
    there = {kind: {path.stem for path in root.glob(f"inbox/*/{kind}/*.md")} for kind in ("new", "cur")}
    return Outcome(
        messages=len(seen), kills=sum(kills.values()), seconds=seconds, delays=sorted(delays),
        lost=len(reported - there["cur"] - there["new"]), unread=len(there["new"]), twice=len(seen) - len(set(seen)), half=half,
        disordered=disordered, set_aside=len(list(root.glob("inbox/*/bad/*"))), in_hand=len(there["cur"] - set(seen)),
        reader_kills=kills["r"], unreported=len(there["cur"] - reported), writer_kills=kills["w"],
    )  # fmt: skip


def show(name: str, found: Outcome, table: Table) -> None:
    cuts = [found.delays[min(len(found.delays) - 1, int(len(found.delays) * part))] for part in (0.5, 0.99)]
    table.add_row(
        name, f"{found.messages:,}", f"{found.kills}", f"{found.seconds:.0f}", f"{found.messages / found.seconds:,.0f}",
        *(f"{cut:.1f}" for cut in cuts), str(found.lost), str(found.twice), str(found.half), str(found.disordered),
        f"{found.in_hand} of {found.reader_kills}", f"{found.unreported} of {found.writer_kills}",
    )  # fmt: skip


def timed(act: Callable[[], object], prepare: Callable[[], object] = lambda: None, times: int = 7) -> float:
    """Median milliseconds of an act; `prepare` runs before each and is not counted."""
    found = []
    for _ in range(times):
        prepare()
        began = time.perf_counter()
        act()
        found.append(1000 * (time.perf_counter() - began))
    return statistics.median(found)


def looks(folder: Path, old: tuple[int, ...]) -> Table:
    """What looking costs beside so many old messages in cur/, and so many on a channel."""
    table = Table("old messages", "waiting", "take 10 new", "read one", "post", "channel, newest 10", box=None)
    for count in old:
        mail = Mail(folder / f"looks{count}")
        mail.inbox("r1")
        mail.channel("all")
        for number in range(count):  # without fsync: only the number of files matters here
            one = messages.compose("w1", "r1", f"message {number}")
            (mail.root / f"inbox/r1/cur/{one.id}.md").write_bytes(messages.render(one))
            post = messages.compose("w1", "#all", f"message {number}")
            (mail.root / f"channels/all/{post.id}.md").write_bytes(messages.render(post))
        last = mail.send("w1", "r1", "the last one")
        mail.take("r1")

        def ten(mail: Mail = mail) -> str:
            first = mail.post("w1", "all", "x").id
            for _ in range(10):
                mail.send("w1", "r1", "x")
                mail.post("w1", "all", "x")
            return first

        marks = [ten()]
        mail.take("r1")
        table.add_row(
            f"{count:,}",
            f"{timed(lambda mail=mail: mail.waiting('r1')):.2f}",
            f"{timed(lambda mail=mail: mail.take('r1'), lambda ten=ten: ten()):.1f}",
            f"{timed(lambda mail=mail, last=last: mail.read('r1', last.id)):.2f}",
            f"{timed(lambda mail=mail: mail.post('w1', 'all', 'x')):.1f}",
            f"{timed(lambda mail=mail, marks=marks: mail.channel('all', marks[-1]), lambda ten=ten, marks=marks: marks.append(ten())):.1f}",
        )
    return table


def parsing() -> str:
    data = messages.render(one := messages.compose("r1", "r2", "word " * 100, about="E0004: a question"))
    both, before = [], messages.LOADER
    for loader in (before, messages.yaml.SafeLoader):
        messages.LOADER = loader
        both.append(1000 * timed(lambda: [messages.parse(data, one.id) for _ in range(200)]) / 200)
    messages.LOADER = before
    return f"reading one message file: {both[0]:.0f} us with {before.__name__}, {both[1]:.0f} us with SafeLoader"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--readers", type=int, default=16)
    parser.add_argument("--kill-every", type=float, default=0.5, help="seconds between kills")
    parser.add_argument("--only", choices=("stress", "paced", "looks"))
    parser.add_argument("--old", type=int, nargs="+", default=[0, 10_000, 50_000])
    parser.add_argument("--folder", type=Path, help="where mail is written; a temporary folder without it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    for name, kind in (("--first", int), ("--last", int), ("--pause", float)):
        parser.add_argument(name, type=kind, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        log = os.open(args.folder / "logs" / args.worker, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        mail = Mail(args.folder / "comms")
        if args.worker[0] == "w":
            write(mail, args.worker, args.readers, args.first, args.last, args.pause, log)
        else:
            read(mail, args.worker, args.folder / "stop", log)
        return
    console = Console(width=None if sys.stdout.isatty() else 200)
    columns = ("part", "messages", "killed", "s", "a second", "p50 ms", "p99 ms", "lost", "twice", "half read", "out of order")
    table = Table(*columns, "in a killed reader's hand", "unreported by a killed writer", box=None)
    wrong = 0
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        place = Path(temporary)
        for name, count, kill_every, pause in (
            ("stress", args.messages, args.kill_every, 0.0), ("paced", min(args.messages, args.writers * 200), 0.0, 0.1),
        ):  # fmt: skip
            if args.only in (None, name):
                (place / name).mkdir()
                found = stress(place / name, args.writers, args.readers, count, kill_every, pause)
                show(name, found, table)
                wrong += found.problems
        if args.only != "looks":
            console.print(table)
        if args.only in (None, "looks"):
            console.print(looks(place, tuple(args.old)), f"\n(milliseconds, medians)\n{parsing()}")
    if wrong:
        raise SystemExit(f"{wrong} promises were broken")


if __name__ == "__main__":
    main()
