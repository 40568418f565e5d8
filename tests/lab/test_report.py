"""Promises of the report, on ledgers written fact by fact: what is drawn, listed, said; and that no text breaks it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
import re
import statistics
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import figures, plot, report, results, verdict
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Ledger
from lab.records import Run
from lab.state import State, fold
from tasks.spec import Budget, Metric, Scale, Task

pytestmark = pytest.mark.slow  # five seconds together

START = 1_760_000_000.0


def a_task(direction: str = "minimize") -> Task:
    scale = Scale(
        name="cpu", title="one core", device="cpu", budget=Budget(kind="tokens", amount=200_000), deadline_seconds=60,
        memory_gib=2,
    )
    metric = Metric(name="val_bpb", unit="bits per byte", direction=direction)  # type: ignore[arg-type]
    return Task(
        name="nanochat", title="Pretrain a small GPT", metric=metric, editable=["gpt.py"], protected=["data.py"],
        train=["{python}"], score=["{python}"], scale=scale,
    )


class Story:
    """A session told fact by fact to a real ledger, with a clock of its own: two slots, one run a slot at a time."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.home.make()
        self.ledger = Ledger(self.home.ledger, create=True)
        self.times: dict[int, float] = {}
        self.now = START
        self.free = [START, START]
        self.seed = 1000
        self.trunk = "c0ffee00" * 5
        self.tell("session", task="nanochat", scale="cpu", org_hash="a1b2c3d4e5f6", design="chief", program="main",
                  hashes={"corpus": "corp" * 8, "tokenizer": "toke" * 8}, device="cpu", slots=2, torch="2.13.0")
        self.tell("trunk", self.trunk, commit=self.trunk, parent="", experiment="", why="the task as shipped")

    def tell(self, kind: str, subject: str = "", at: float | None = None, **body: Any) -> str:
        fact = self.ledger.append(kind, body, subject)
        self.times[fact.id] = self.now if at is None else at
        return subject

    def run(
        self, purpose: str, metric: dict[str, float] | None = None, experiment: str = "", commit: str = "",
        status: str = "ok", seconds: float = 20.0, attempt: int = 1, end: bool = True, **more: Any,
    ) -> str:
        """One run on the slot that is free first; moves the clock to its end."""
        self.seed += 1
        slot = self.free.index(min(self.free))
        queued, begin = self.now, max(self.now, self.free[slot])
        body = {"experiment": experiment, "attempt": attempt if experiment else 0, "purpose": purpose,
                "commit": commit or self.trunk, "seed": self.seed, "splits": list(metric or ["search"]),
                "budget": {"kind": "tokens", "amount": 200_000}, "agent": "ada" if experiment else "lab",
                "home_slot": 0}
        fact = self.ledger.append_new("run", "R", body)
        self.times[fact.id] = queued
        self.tell("start", fact.subject, at=begin, slot=slot, pid=7, started=begin, device="cpu")
        if end:
            account = {"tokens": 200_000, "steps": 100, "flops": 3e12, "params": 400_000, "wall_seconds": seconds,
                       "peak_memory_bytes": 300 << 20, "device": "Xeon", "threads": 1}
            told = {"reason": "", "log_tail": "", "hashes": {"torch": "2.13.0"}, "account": account, **more}
            self.tell("result", fact.subject, at=begin + seconds, status=status, metric=metric or {}, **told)
            self.free[slot] = begin + seconds
            self.now = max(self.now, min(self.free))
        return fact.subject

    def bank(self, *values: float) -> None:
        for value in values:
            self.run("bank", {"search": value + 0.02, "audit": value})

    def idea(self, hypothesis: str = "a larger step", **params: Any) -> str:
        body = {"agent": "ada", "hypothesis": hypothesis, "mechanism": "m", "family": "optimiser",
                "direction": "improves", "min_effect": 0.0, "held_constant": "tokens", "params": params,
                "base": self.trunk}
        fact = self.ledger.append_new("proposal", "E", body)
        self.times[fact.id] = self.now
        commit = hashlib.sha1(fact.subject.encode()).hexdigest()
        self.tell("attempt", fact.subject, number=1, parent=self.trunk, commit=commit, diff="-", changed=[], ignored=[])
        return fact.subject

    def judge(self, experiment: str, word: str, effect: float | None = None, **more: Any) -> None:
        body = {"low": None, "high": None, "p": None, "n": 0, "m": 4, "sigma": None, "reasoning": ["because"], **more}
        self.tell("verdict", experiment, attempt=1, verdict=word, effect=effect, **body)

    def promote(self, experiment: str) -> None:
        attempt = self.state().experiments[experiment].attempts[-1]
        body: dict[str, Any] = {"attempt": 1, "from": self.trunk, "to": attempt.commit}
        self.tell("promotion", experiment, **body)
        self.tell("trunk", attempt.commit, commit=attempt.commit, parent=self.trunk, experiment=experiment, why="chief")
        self.trunk = attempt.commit

    def state(self) -> State:
        facts = self.ledger.facts()
        return fold(dataclasses.replace(fact, time=self.times.get(fact.id, self.now)) for fact in facts)

    def play(self, ideas: int, seed: int = 0, sigma: float = 0.012, minimize: bool = True, level: float = 2.4) -> None:
        """A whole session with the laboratory's own statistics: most ideas do nothing, some harm, few help."""
        chance, sign = random.Random(seed), 1 if minimize else -1
        bank: list[float] = []
        for number in range(ideas):
            if len(bank) < 8:
                bank = [level + sigma * chance.gauss(0, 1) for _ in range(8)]
                self.bank(*bank)
            name = self.idea(MATRIX_LR=round(chance.uniform(0.01, 0.08), 4))
            commit = self.state().experiments[name].attempts[-1].commit
            if chance.random() < 0.07:
                self.run("nominate", None, name, commit, status="crashed", seconds=6, reason="exit code 1: CUDA | out",
                         log_tail="Traceback:\n  File 'train.py'\nValueError: loss is nan")
                self.judge(name, "crashed", reasoning=["run crashed"])
                continue
            true = sign * chance.choice([0, 0, 0.5, 1, 3, 8, 40, -2.5, -4]) * sigma
            value = level + true + sigma * chance.gauss(0, 1)
            self.run("nominate", {"search": value + 0.02}, name, commit)
            yes, sigmas = verdict.nominate(value, bank, minimize)
            if not yes:
                self.judge(name, "worse" if sigmas < -3 else "neutral", value - statistics.fmean(bank), n=1,
                           reasoning=["one run did not nominate"])
                continue
            self.tell("nomination", name, attempt=1, nominated=True, value=value, bank_mean=0, bank_sigma=0)
            values: list[float] = []
            for stage in verdict.STAGES:
                while len(values) < stage:
                    values.append(level + true + sigma * chance.gauss(0, 1))
                    self.run("confirm", {"audit": values[-1]}, name, commit)
                judged = verdict.judge(values, bank, minimize=minimize, min_effect=0,
                                       compared_with=f"bank of {self.trunk[:8]}, split audit")
                if judged:
                    body = dataclasses.asdict(judged)
                    self.judge(name, body.pop("verdict"), body.pop("effect"), **body)
                    if judged.verdict == "improved":
                        if number % 2:
                            self.run("control", {"audit": level - sign * sigma / 2}, name)
                        self.promote(name)
                        bank, level = [], level + true
                    break


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    told = Story(tmp_path)
    yield told
    told.ledger.close()


def written(story: Story, task: Task | None = None) -> tuple[bytes, list[list[str]], str]:
    """(PNG, rows of results.tsv, report.md) as they lie on disk."""
    image, table, text = report.write_report(story.home, story.state(), task or a_task())
    return image.read_bytes(), [line.split("\t") for line in table.read_text().splitlines()], text.read_text()


def has_colour(png: bytes, colour: str, folder: Path) -> bool:
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    (folder / "look.png").write_bytes(png)
    pixels = imread(folder / "look.png")[:720, :, :3]  # above the legend, which has every colour too
    return bool((abs(pixels - list(to_rgb(colour))).max(axis=2) < 0.01).sum() > 30)


def tables(text: str) -> list[list[str]]:
    """Lines of each Markdown table."""
    blocks = re.split(r"\n(?!\|)", text)
    return [[line for line in block.splitlines() if line.startswith("|")] for block in blocks if "\n|" in block]


HOSTILE = "x | y\n\n# Owned\t<img src=http://evil> ![a](http://evil) `code` $\\frac{ \x1b[31m‮ 😀 ```"


def test_three_files_are_written_and_the_picture_has_readme_size(story: Story, tmp_path: Path) -> None:
    story.play(12, seed=1)
    paths = report.write_report(story.home, story.state(), a_task(), tmp_path / "deep" / "report")
    assert [path.name for path in paths] == ["progress.png", "results.tsv", "report.md"]
    png = paths[0].read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == (1600, 920)
    assert sorted(p.name for p in paths[0].parent.iterdir()) == ["progress.png", "report.md", "results.tsv"]


def test_the_same_facts_give_the_same_report(story: Story) -> None:
    story.play(8, seed=3)
    assert written(story) == written(story)


def test_without_any_run_it_says_so(story: Story) -> None:
    _, rows, text = written(story)
    assert "No run was ever queued" in text and "no finished baseline" in text
    assert rows == [list(results.COLUMNS)]


def test_the_baseline_and_the_confirmed_best_come_with_interval_sigma_and_n(story: Story) -> None:
    from scipy import stats

    first, last = [2.412, 2.398, 2.405, 2.391], [2.351, 2.362, 2.344, 2.357]
    story.bank(*first)
    story.promote(story.idea())
    story.bank(*last)
    _, _, text = written(story)
    low, high = stats.t.interval(0.95, 3, statistics.fmean(first), stats.sem(first))
    assert f"| audit | 2.40150 | {low:.5f} to {high:.5f} | 0.00904 | 0.00512 to 0.03369 | 4 |" in text
    test = stats.ttest_ind(last, first, equal_var=False)
    interval = test.confidence_interval(0.95)
    effect = statistics.fmean(last) - statistics.fmean(first)
    assert f"**{effect:+.4f} bits per byte** (better; 95 % interval {interval.low:+.4f} to {interval.high:+.4f}" in text
    assert "measured by fresh runs" in text


def test_a_gain_in_the_wrong_direction_is_never_called_better(story: Story) -> None:
    story.bank(2.41, 2.40, 2.39)
    story.promote(story.idea())
    story.bank(2.35, 2.36, 2.34)
    assert "(not better;" in written(story, a_task("maximize"))[2]
    assert "(better;" in written(story, a_task("minimize"))[2]


def test_a_trunk_without_a_finished_bank_is_not_claimed(story: Story) -> None:
    story.bank(2.412, 2.398, 2.405, 2.391)
    story.promote(story.idea())
    story.run("bank", end=False)
    text = written(story)[2]
    assert "not confirmed by fresh runs" in text
    assert "Confirmed best against" not in text
    story.bank(2.31, 2.32)
    story.promote(story.idea())
    text = written(story)[2]
    assert "not confirmed by fresh runs" in text and "Up to " in text


def test_promotions_are_listed_in_order_with_the_reasoning_of_their_verdicts(story: Story) -> None:
    story.bank(2.412, 2.398, 2.405)
    for number in range(2):
        name = story.idea(f"idea number {number}", WARMDOWN=0.3)
        story.judge(name, "improved", -0.04, low=-0.06, high=-0.02, p=0.001, n=6, reasoning=[f"effect of {number}"])
        story.promote(name)
    text = written(story)[2]
    promoted = text[text.index("## Promoted, in order") : text.index("## Every other idea")]
    assert promoted.index("idea number 0") < promoted.index("effect of 0") < promoted.index("idea number 1")
    assert "WARMDOWN=0.3" in promoted.replace("\\", "")
    assert "Every idea was promoted." in text


def test_the_claims_say_which_survive_together_and_what_fresh_runs_made_of_what_was_promoted(story: Story) -> None:
    story.bank(2.412, 2.398, 2.405, 2.391)
    story.tell("session", policy={"bank": 4})
    for word, effect, p in (("improved", -0.01, 0.0009), ("inconclusive", -0.004, 0.04), ("worse", 0.02, 0.9)):
        name = story.idea(f"it is {word}")
        gain = {"cost_ratio": 1.04, "ceg": 1.153, "ceg_low": 1.08, "ceg_high": 1.231} if word == "improved" else {}
        story.judge(name, word, effect, low=effect - 0.005, high=effect + 0.005, p=p, n=8, sigma=0.009, **gain)
    story.judge(story.idea("crashes"), "crashed")
    won, parent = "E0001", story.trunk
    story.promote(won)
    story.bank(2.391, 2.402, 2.396, 2.385)

    def rows() -> dict[str, list[str]]:
        text = written(story)[2]
        part = text[text.index("## Claims") : text.index("## Every other idea")]
        assert "1 of 3 claims survive Benjamini and Hochberg at q = 0.05" in part
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables(part)[0][2:]]
        return {row[0]: row for row in cells}

    assert {name: row[6] for name, row in rows().items()} == {"E0001": "yes", "E0002": "no", "E0003": "no"}
    assert rows()[won][7:] == ["1.0400", "1.15 (1.08 to 1.23)", "not measured yet"] and rows()["E0002"][7:] == ["–", "–", "–"]
    assert "not measured yet (4 of 4" in written(story)[2]
    for value in (2.404, 2.396, 2.409, 2.400):
        story.run("parent", {"audit": value}, won, parent)
    test = verdict.welch([2.391, 2.402, 2.396, 2.385], [2.404, 2.396, 2.409, 2.400])
    assert rows()[won][9] == f"{test.effect:+.4f} ({test.low:+.4f} to {test.high:+.4f})"
    assert f"**reported effect {test.effect:+.4g} bits per byte" in written(story)[2]


def test_what_did_not_improve_is_listed_with_its_verdict_and_interval(story: Story) -> None:
    story.bank(2.412, 2.398, 2.405, 2.391)
    story.judge(story.idea("wider"), "worse", 0.0412, low=0.02, high=0.0624, p=0.99, n=3)
    story.judge(story.idea("broken"), "crashed", reasoning=["R0009 ended crashed: exit code 1"])
    open_idea = story.idea("nothing yet")
    rows = [line for table in tables(written(story)[2]) for line in table]
    assert any("wider" in r and "worse" in r and "+0.0412 | +0.0200 to +0.0624 | 3 | 0.99" in r for r in rows)
    assert any("broken" in r and "crashed" in r and "exit code 1" in r for r in rows)
    assert any(r.startswith(f"| {open_idea} ") and "queued" in r for r in rows)


def test_an_idea_whose_first_run_did_not_nominate_is_not_called_nominated(story: Story) -> None:
    name = story.idea()
    story.tell("nomination", name, attempt=1, nominated=False, value=2.4, bank_mean=2.4, bank_sigma=0.01)
    assert report.outcome(story.state().experiments[name]) == "not nominated"


def test_failed_runs_show_reason_and_the_end_of_their_log(story: Story, tmp_path: Path) -> None:
    story.bank(2.41, 2.40)
    tail = "\n".join(f"step {n}" for n in range(50)) + "\n```\n# not a heading\nValueError: loss is nan\n"
    story.run("nominate", None, story.idea(), status="crashed", reason="exit code 1", log_tail=tail)
    png, rows, text = written(story)
    assert "**R0003** (crashed; nominate of E0001, ada, seed 1003): exit code 1" in text
    assert "\n      ValueError: loss is nan\n" in text and "step 49" in text and "step 10\n" not in text
    assert "\n# not a heading" not in text and "\n```" not in text
    assert rows[3][rows[0].index("status")] == "crashed"
    assert has_colour(png, plot.FAILED, tmp_path)


def test_flagged_runs_and_runs_that_were_not_sealed_are_named_with_the_reason(story: Story) -> None:
    story.bank(2.41)
    name = story.idea()
    story.run("nominate", {"search": 2.4}, name, flags=["good in | odd places"], unsealed="training can read /a_b")
    _, rows, page = written(story)
    run = dict(zip(rows[0], rows[-1], strict=True))
    assert (run["flags"], run["unsealed"]) == ("good in | odd places", "training can read /a_b")
    assert "- **R0002** (nominate of E0001): good in \\| odd places" in page
    assert "**unsealed** in 1 of 1 runs: training can read /a_b" in page


def test_every_kind_of_run_is_drawn_in_its_colour_and_the_best_as_a_staircase(story: Story, tmp_path: Path) -> None:
    story.bank(2.412, 2.398)
    assert not has_colour(written(story)[0], plot.KINDS["confirm"][2], tmp_path)
    name = story.idea()
    story.run("nominate", {"search": 2.40}, name)
    story.run("confirm", {"audit": 2.37}, name)
    story.run("control", {"audit": 2.39}, name)
    story.run("parent", {"audit": 2.415}, name)
    story.run("frontier", {"audit": 2.405})
    story.run("audit", {"audit": 2.409}, name)
    png = written(story)[0]
    for _, _, colour, _ in plot.KINDS.values():
        assert has_colour(png, colour, tmp_path), colour
    assert has_colour(png, plot.BEST, tmp_path)
    assert not has_colour(png, plot.FAILED, tmp_path)


def test_hostile_text_breaks_neither_table_nor_page_nor_picture(story: Story) -> None:
    story.bank(2.412, 2.398, 2.405)
    name = story.idea(HOSTILE)
    story.run("nominate", None, name, status="crashed", reason=HOSTILE, log_tail=HOSTILE)
    story.judge(name, "crashed", reasoning=[HOSTILE])
    promoted = story.idea(HOSTILE, **{HOSTILE: HOSTILE})
    story.judge(promoted, "improved", -0.1, reasoning=[HOSTILE, HOSTILE])
    story.promote(promoted)
    story.bank(2.3, 2.31)
    story.tell("alarm", "trunk", text=HOSTILE)
    _, rows, text = written(story)
    assert len(rows) == len(story.state().runs) + 1
    assert {len(row) for row in rows} == {len(results.COLUMNS)}
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f‮]", text)
    assert not re.search(r"(?<!\\)<img", re.sub(r"(?m)^      .*$", "", text)), "outside code blocks HTML is escaped"
    assert not re.search(r"(?<!\\)\]\(http", re.sub(r"(?m)^      .*$", "", text))
    assert "\n# Owned" not in text
    for table in tables(text):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table


def test_a_cell_never_becomes_a_formula(story: Story) -> None:
    story.run("nominate", {"search": -2.5}, story.idea('=HYPERLINK("http://evil")'))
    _, rows, _ = written(story)
    row = dict(zip(rows[0], rows[1], strict=True))
    assert row["hypothesis"].startswith("'=") and row["search"] == "-2.5"


def test_results_hold_what_was_recorded_of_each_run(story: Story) -> None:
    story.bank(2.41)
    name = story.idea(MATRIX_LR=0.05)
    story.run("nominate", {"search": 2.4}, name, story.state().experiments[name].attempts[0].commit)
    story.run("nominate", end=False, experiment=name)
    _, rows, _ = written(story)
    bank, first, running = (dict(zip(rows[0], row, strict=True)) for row in rows[1:])
    assert (bank["audit"], bank["search"], bank["locked"]) == ("2.41", "2.43", "")
    assert first["experiment"] == name and first["purpose"] == "nominate" and first["seed"] == "1002"
    assert first["parent"] == story.trunk and first["params_set"] == '{"MATRIX_LR": 0.05}'
    assert (first["tokens"], first["flops"], first["torch"]) == ("200000", "3000000000000.0", "2.13.0")
    assert first["corpus"] == "corp" * 8 and first["org_hash"] == "a1b2c3d4e5f6"
    assert first["started"].startswith("2025-10-09T08:53:20") and first["ended"] > first["started"]
    assert running["status"] == "running" and running["ended"] == ""


def test_runs_of_different_torch_versions_are_flagged(story: Story) -> None:
    story.bank(2.41)
    story.run("bank", {"audit": 2.42}, hashes={"torch": "2.14.0"})
    assert "**mixed:** 2.13.0, 2.14.0" in written(story)[2]


def test_idle_share_counts_each_slot_second_once(story: Story) -> None:
    story.run("bank", {"audit": 2.4}, seconds=30)
    story.run("bank", {"audit": 2.4}, seconds=10)
    state = story.state()
    assert figures.idle_share(state, 2, START, START + 40) == pytest.approx(1 - 40 / 80)
    assert figures.idle_share(state, 2, START + 20, START + 40) == pytest.approx(1 - 10 / 40)
    assert figures.idle_share(state, 2, START - 40, START) == 1.0
    state.runs["R0001"].ended = None
    assert figures.idle_share(state, 2, START, START + 40) == pytest.approx(1 - 50 / 80), "a running run is busy"
    state.runs["R0002"].slot = state.runs["R0001"].slot
    assert figures.idle_share(state, 2, START, START + 40) == pytest.approx(0.5), "overlap on a slot counts once"
    for slots, until in ((0, START + 1), (2, START)):
        with pytest.raises(ValueError):
            figures.idle_share(state, slots, START, until)


def test_the_cost_account_sums_runs_by_purpose(story: Story) -> None:
    story.bank(2.41, 2.40)
    story.run("nominate", None, story.idea(), status="timeout", seconds=200)
    text = written(story)[2]
    assert "| bank | 2 | 0 | 40 s | 17% | 6e+12 | 400,000 |" in text
    assert "| nominate | 1 | 1 | 3.3 min | 83% |" in text
    assert re.search(r"slots were idle 45\.5% of that time", text), "240 of 440 slot seconds were busy"


def test_slot_time_is_summed_over_slots_up_to_any_moment(story: Story) -> None:
    story.run("bank", {"audit": 2.4}, seconds=30)
    story.run("bank", {"audit": 2.4}, seconds=10)
    moments = [START, START + 5, START + 20, START + 100]
    assert plot.slot_seconds(list(story.state().runs.values()), moments) == pytest.approx([0, 10, 30, 40])
    assert plot.slot_seconds([], [START]) == [0]


@pytest.mark.parametrize("minimize", [True, False])
def test_one_diverged_run_does_not_flatten_the_picture(minimize: bool) -> None:
    sign = 1 if minimize else -1
    level = figures.Level("c", "", START, 4, 2.4, 2.38, 2.42, 0.01)
    best = figures.Level("d", "E0001", START, 4, 2.4 - sign * 0.1, 2.29, 2.31, 0.01)
    low, high = plot.limits([2.39, 2.41, 2.4, 2.4 + sign * 1e6, math.nan], [level, best], minimize)
    assert 2.0 < low < min(2.38, best.mean) and max(2.42, best.mean) < high < 2.8
    alone = plot.limits([2.4], [], minimize)
    assert alone[0] < 2.4 < alone[1] and plot.limits([], [], minimize) == (0.0, 1.0)


def test_the_search_split_is_moved_to_the_audit_level_by_the_banks_own_difference(story: Story) -> None:
    story.bank(2.41, 2.40)
    runs = list(story.state().runs.values())
    assert plot.offset(runs, "audit", "search") == pytest.approx(-0.02)
    assert math.isnan(plot.offset([], "audit", "search"))


def test_a_session_of_the_laboratory_is_reported_whole_in_both_directions(story: Story, tmp_path: Path) -> None:
    story.play(40, seed=4, minimize=False, sigma=0.004, level=0.61)
    png, rows, text = written(story, a_task("maximize"))
    state = story.state()
    assert len(state.promotions()) > 1 and len(rows) == len(state.runs) + 1
    assert f"{len(state.promotions())} promoted" in text and "higher is better" in text
    assert has_colour(png, plot.BEST, tmp_path)


def test_a_report_that_cannot_be_written_ends_in_one_line(story: Story, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot write the report") as caught:
        report.write_report(story.home, story.state(), a_task(), tmp_path / "taken")
    assert "\n" not in str(caught.value)


def test_time_in_which_the_organisation_was_down_is_not_idle_time(tmp_path: Path) -> None:
    state = State()
    state.up = [(0.0, 100.0), (1000.0, None)]
    run = Run("R0001", "", 0, "bank", "t0", 1, ["audit"], {}, "lab", None, 0.0, status="ok", slot=0, started=0.0, ended=100.0)
    state.runs = {"R0001": run}
    assert figures.up_seconds(state, 0.0, 1100.0) == 200.0
    assert figures.idle_share(state, 1, 0.0, 1100.0) == 0.5
    state.up = []
    assert figures.up_seconds(state, 0.0, 1100.0) == 1100.0
