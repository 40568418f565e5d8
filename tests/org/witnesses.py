"""Sentences as agents write them in reports, with what the ledger says against each: for tests of `org.factcheck`.

`DEVELOPED` is what the rules were written against and corrected on, as are those of `reports_of_models.py`, `reports_with_reasons.py` and
`held_out_before.py`; those of `held_out.py` are only measured.
"""

from __future__ import annotations

from pathlib import Path

from lab.home import Home
from lab.state import State, fold
from tests.org.sample import FIRST, SECOND, Story

Case = tuple[str, str]
"""(sentence of r1, kinds of flags that it deserves: letters u unknown, v verdict, n number, o owner; "" for an honest one)"""


def ledger(folder: Path) -> State:
    """Of r1: E0001 promoted, E0003 crashed, E0005 worse, E0007 inconclusive after one run, E0009 bought, E0011 running. Of r2: E0002
    neutral, E0004 nominated, E0006 improved and waiting, E0008 promoted and taken back. Of r3: E0010 proposed. Bank 2.450, sigma .0016."""
    story = Story(Home(folder))
    story.bank(FIRST, [2.450, 2.452, 2.448, 2.450])
    nominated = {"attempt": 1, "nominated": True, "bank_mean": 2.46, "bank_sigma": 0.0016}

    def idea(agent: str, what: str, commit: str, value: float | None = None, status: str = "ok") -> str:
        name = story.propose(agent, what)
        story.attempt(name, commit)
        run = story.queue("nominate", commit, name, 1, agent)
        story.start(run, 0)
        story.end(run, {"search": value} if value else {}, status, "" if status == "ok" else "RuntimeError: loss is NaN")
        return name

    won = idea("r1", "larger steps settle faster", SECOND, 2.430)
    story.ledger.append("nomination", {**nominated, "value": 2.430, "sigmas": 12.2}, won)
    for value in (2.431, 2.430, 2.432):
        story.done({"audit": value}, "confirm", SECOND, won, attempt=1, agent="r1")
    story.verdict(won, "improved", -0.0190)
    story.trunk(SECOND, FIRST, won, "promoted by chief")
    story.bank(SECOND, [2.4312, 2.4309, 2.4321, 2.4318])
    flat = idea("r2", "more momentum averages noise", "c" * 40, 2.459)
    story.verdict(flat, "neutral", -0.0012)
    crashed = idea("r1", "train without a warm-up", "d" * 40, None, "crashed")
    story.verdict(crashed, "crashed")
    waiting = idea("r2", "a wider attention band sees further", "e" * 40, 2.4563)
    story.ledger.append("nomination", {**nominated, "value": 2.4563, "sigmas": 2.3}, waiting)
    worse = idea("r1", "no weight decay at all", "f" * 40, 2.491)
    story.verdict(worse, "worse", 0.0310)
    ready = idea("r2", "a smaller embedding init", "1" * 40, 2.448)
    story.ledger.append("nomination", {**nominated, "value": 2.448, "sigmas": 7.5}, ready)
    story.verdict(ready, "improved", -0.0121)
    single = idea("r1", "a shorter warm-down", "2" * 40, 2.4621)
    story.ledger.append(
        "verdict", {"attempt": 1, "verdict": "inconclusive", "effect": 0.0021, "low": None, "high": None, "p": None, "n": 1, "m": 4,
                    "sigma": 0.0016, "reasoning": ["one run"]}, single,
    )  # fmt: skip
    taken = idea("r2", "drop the last layer norm", "3" * 40, 2.441)
    story.verdict(taken, "improved", -0.0070)
    story.trunk("3" * 40, SECOND, taken, "promoted by chief")
    story.bank("3" * 40, [2.4322, 2.4329, 2.4311, 2.4328])
    check = {"commit": "3" * 40, "effect": 0.0007, "low": -0.001, "high": 0.002, "p": 0.8, "n": 4, "m": 4, "holds": False}
    story.ledger.append("checked", check, taken)
    back = {"commit": "4" * 40, "parent": "3" * 40, "experiment": "", "why": "reverted E0008", "reverts": taken, "bank": SECOND}
    story.ledger.append("trunk", back, "4" * 40)
    dear = idea("r1", "a wider model", "5" * 40, 2.41)
    story.verdict(dear, "bought", -0.0440)
    story.propose("r3", "tie the output head to the embedding")
    running = story.propose("r1", "clip gradients at one half")
    story.attempt(running, "6" * 40)
    story.start(story.queue("nominate", "6" * 40, running, 1, "r1"), 1)
    return fold(story.ledger.facts())


DEVELOPED: list[Case] = [
    # honest outcomes
    ("E0001 improved val_bpb by 0.019 and was promoted.", ""),
    ("E0001: improved, -0.0190 [-0.022, -0.016].", ""),
    ("E0001 lowered the loss by about 0.02.", ""),
    ("E0001 improves val_bpb by 0.8 %.", ""),
    ("E0001 beat the bank by 12 sigma on its first run.", ""),
    ("E0001 was confirmed on fresh seeds.", ""),
    ("The verdict on E0001 is improved (n = 3, p = 0.001).", ""),
    ("E0001 is on trunk now, val_bpb is 2.4315.", ""),
    ("E0003 crashed: the loss became NaN.", ""),
    ("E0003 did not improve anything, it crashed.", ""),
    ("E0005 was worse by 0.031 bits per byte.", ""),
    ("E0005 hurts val_bpb (+0.031).", ""),
    ("E0007 did not improve val_bpb.", ""),
    ("E0007 was no better than the bank.", ""),
    ("E0007 failed to beat the baseline.", ""),
    ("E0007 came out inconclusive after one run.", ""),
    ("E0009 was bought: it wins only by spending more FLOPs.", ""),
    ("E0009 is bought, not found.", ""),
    ("E0009 did not count as improved, its verdict is bought.", ""),
    ("E0011 is still running.", ""),
    ("E0011 has no verdict yet.", ""),
    ("Neither E0005 nor E0007 improved.", ""),
    ("E0003, E0005 and E0007 did not improve.", ""),
    ("E0001 improved val_bpb by 0.019, but E0005 was worse.", ""),
    # wrong outcomes
    ("E0005 improved val_bpb.", "v"),
    ("E0007 improved.", "v"),
    ("E0007 is a clear improvement.", "v"),
    ("E0009 improved val_bpb.", "v"),
    ("E0011 improved val_bpb by 0.02.", "vn"),
    ("E0011 helps.", "v"),
    ("E0011 beats the baseline.", "v"),
    ("E0011 lowered val_bpb.", "v"),
    ("E0003 worked well and gained 0.01.", "vn"),
    ("E0001 did not improve val_bpb.", "v"),
    ("E0001 was worse.", "v"),
    ("E0001 crashed.", "v"),
    ("E0005 was promoted.", "v"),
    ("E0001 was not promoted.", "v"),
    ("E0007 was nominated.", "v"),
    ("The verdict on E0007 is improved.", "v"),
    ("E0007's verdict: neutral.", "v"),
    ("E0005 is on trunk now.", "v"),
    ("E0005 has been confirmed.", "v"),
    ("E0003, E0005 and E0007 improved.", "v"),
    ("E0001 improved val_bpb by 0.019, but E0005 improved it too.", "v"),
    # hedges, plans, hypotheses
    ("E0011 should improve val_bpb by 0.02.", ""),
    ("E0011 may help.", ""),
    ("I expect E0011 to lower val_bpb by 0.01.", ""),
    ("E0011 tests whether clipping helps.", ""),
    ("Proposed E0011: clipping at 0.5 lowers val_bpb by 0.01.", ""),
    ("Started E0011 to see if it improves on trunk.", ""),
    ("If E0011 improves val_bpb, the next step is a sweep.", ""),
    ("E0011 looks promising.", ""),
    ('Ran E0007 ("a shorter warm-down improves val_bpb by 0.01"): inconclusive.', ""),
    ("Is E0011 better?", ""),
    # negations of many kinds
    ("E0005 didn't help.", ""),
    ("E0005 doesn't improve val_bpb.", ""),
    ("No improvement from E0005.", ""),
    ("E0005 brought no gain.", ""),
    ("There was no gain in E0007.", ""),
    ("E0005 is not an improvement.", ""),
    ("E0007 never got better than the bank.", ""),
    ("E0007's improvement was noise.", ""),
    ("The gain of E0007 did not hold.", ""),
    ("E0005 is far from an improvement.", ""),
    # numbers
    ("E0001 improved val_bpb by 0.029.", "n"),
    ("E0001 improved val_bpb by 0.02.", ""),
    ("E0001 improved val_bpb by 0.0194.", "n"),
    ("E0001: improved, -0.05.", "n"),
    ("E0001 improved by 2.5 %.", "n"),
    ("E0001 improved by 0.78 %.", ""),
    ("E0001 brought val_bpb to 2.431.", ""),
    ("E0001 brought val_bpb to 2.401.", "n"),
    ("E0001 took val_bpb from 2.450 to 2.431.", ""),
    ("E0001 took val_bpb from 2.450 to 2.391.", "n"),
    ("E0001 was 12.2 sigma better on its first run.", ""),
    ("E0001 was 22 sigma better on its first run.", "n"),
    ("E0001 was accepted with p = 0.001.", ""),
    ("E0001 was accepted with p = 0.0001.", "n"),
    ("E0001 has n = 8.", "n"),
    ("E0005 was worse by 0.01.", "n"),
    ("E0005 was worse by more than 0.03.", ""),
    ("E0001 improved val_bpb by at least 0.03.", "n"),
    ("E0001 gained roughly 0.02 bits per byte.", ""),
    ("E0001 gained roughly 0.04 bits per byte.", "n"),
    ("E0007 lost 0.002 val_bpb on its one run.", ""),
    ("E0001 improved val_bpb by 1.9e-2.", ""),
    # settings and costs are no claims of the metric
    ("E0001 raised the learning rate from 0.02 to 0.031 and improved val_bpb.", ""),
    ("E0001 improved with LR 0.031.", ""),
    ("E0005 set weight decay to 0.0 and was worse.", ""),
    ("E0009 used 1.3x the FLOPs.", ""),
    ("E0009 needs 30 % more FLOPs.", ""),
    ("E0001 ran in 12.5 s on 2 slots.", ""),
    ("E0005 is simpler code, 14 lines less.", ""),
    ("E0003 made training 12 % faster, then crashed.", ""),
    ("The training loss of E0011 was 1.9 at step 500.", ""),
    # ids
    ("E0099 improved val_bpb.", "u"),
    ("See E0042 and E0001.", "u"),
    ("R0999 gave 2.41.", "u"),
    ("The e4m3 format of 2024 is not an experiment.", ""),
    # somebody else's
    ("I ran E0002 and it was neutral.", "o"),
    ("E0002: neutral.", "o"),
    ("My E0006 improved val_bpb by 0.012.", "o"),
    ("r2's E0006 improved val_bpb by 0.0121.", ""),
    ("Read E0002 by r2 before starting.", ""),
    ("Based on E0006 I chose a smaller init.", ""),
    ("Like E0002, E0007 did nothing.", ""),
    ("Unlike E0005, E0001 improved.", ""),
    ("E0001 is better than E0005.", ""),
    ("E0005 is better than E0001.", "v"),
    ("r2's E0008 improved val_bpb.", "v"),
    ("r2's E0004 improved val_bpb.", "v"),
    ("r2's E0004 was nominated at 2.3 sigma.", ""),
    ("r2's E0004 looked better on its first run.", ""),
    # without an id
    ("We improved val_bpb by 0.3.", "n"),
    ("I learned that weight decay matters more than momentum.", ""),
    ("Nothing to report.", ""),
    ("Larger batches help when the learning rate is high.", ""),
    ("val_bpb on trunk is 2.431.", ""),
    ("val_bpb on trunk is 2.131.", "n"),
]

DEVELOPED += [
    ("Finished E0001; it went in (-0.019 bits per byte, promoted).", ""),
    ("E0001 - accepted: 3 fresh seeds, effect -0.019, p 0.001", ""),
    ("Completed E0005: clearly worse (+0.031).", ""),
    ("E0005 made things worse, as I feared.", ""),
    ("E0005 (no weight decay): val_bpb 2.491 on search, worse than the bank.", ""),
    ("E0007 gave +0.0021 on one run, so no nomination.", ""),
    ("E0007 wasn't nominated.", ""),
    ("E0003 died with a NaN in the first steps.", ""),
    ("E0003: RuntimeError, loss is NaN.", ""),
    ("E0009 gains 0.044 but costs more, hence bought.", ""),
    ("E0009's gain was bought with compute.", ""),
    ("Waiting for the result of E0011.", ""),
    ("E0011 is queued behind two confirmations.", ""),
    ("The warm-down idea (E0007) didn't pan out.", ""),
    ("Removing weight decay (E0005) doesn't beat trunk, it loses 0.031.", ""),
    ("E0001 holds up on fresh seeds and is part of trunk.", ""),
    ("After E0001 went to trunk I rebased my worktree.", ""),
    ("Trunk stands at 2.4315 val_bpb.", ""),
    ("Compared E0007 with r2's E0002; both do nothing.", ""),
    ("Reviewed E0006: the diff does what it says.", ""),
    ("E0006 (r2) is improved and waits for promotion.", ""),
    ("r2 got E0004 nominated with 2.3 sigma, I'd confirm it.", ""),
    ("E0008 by r2 was promoted and then taken back.", ""),
    ("Nothing beat trunk today apart from E0001.", ""),
    ("None of my other ideas (E0005, E0007) improved on the bank.", ""),
    ("I don't think E0007 improved anything.", ""),
    ("Without E0001 we'd still be at 2.450.", ""),
    ("E0001 improved val_bpb by 0.019 +/- 0.003.", ""),
    ("The effect of E0001 is -0.019 with a 95 % interval from -0.022 to -0.016.", ""),
    ("E0001 gives 11.9 sigma.", ""),
    ("Weight decay of 0.0 is bad: E0005.", ""),
    ("A warm-up is needed, without it training diverges (E0003).", ""),
    ("Ran two ideas, one of them (E0001) improved.", ""),
    ("E0011 runs with clip 0.5; the bank's mean is 2.4315.", ""),
    ("Submitted E0011, hypothesis: clipping reduces val_bpb by at least 0.005.", ""),
    ("E0001 improves on the bank by 0.019 at equal FLOPs, 1.00x the cost.", ""),
    ("E0005 cost 0.4 GPU-hours and taught us that decay is needed.", ""),
    ("We could not improve on E0001.", ""),
    ("E0007 might have improved with more seeds.", ""),
    ("E0001 reduced the loss by 0.02 and took 14 minutes.", ""),
    # false
    ("E0005 brought a nice gain of 0.031.", "v"),
    ("E0005 pays off.", "v"),
    ("E0007 gave us a solid win over the bank.", "v"),
    ("E0007 reduces val_bpb by 0.0021.", "v"),
    ("E0011 already shows an improvement of 0.015.", "vn"),
    ("Confirmed E0009 on fresh seeds, val_bpb improved.", "v"),
    ("E0003 improved training and val_bpb.", "v"),
    ("E0001 gave -0.025 bits per byte.", "n"),
    ("E0001 improved val_bpb by 1.9 %.", "n"),
    ("E0001 reached 2.42.", "n"),
    ("E0001 improved by 5 sigma.", "n"),
    ("E0001's effect is +0.019.", "n"),
    ("E0005 cost us only 0.003 val_bpb.", "n"),
    ("E0001 was a failure.", "v"),
    ("E0001 had no effect.", "v"),
    ("E0001 has been reverted.", "v"),
    ("E0007 crashed.", "v"),
    ("E0011 was nominated.", "v"),
    ("E0009 was promoted to trunk.", "v"),
    ("I tested E0006 and it improved val_bpb.", "o"),
    ("Completed E0002 and E0007, both flat.", "o"),
    ("Finished E0004.", "o"),
    ("We confirmed E0010.", "vo"),
    ("E0123 was a dead end.", "u"),
    ("As E0200 showed, depth matters.", "u"),
    ("val_bpb is down to 2.38 on trunk.", "n"),
    ("r2's E0002 improved val_bpb by 0.0012.", "v"),
    ("r2's E0008 is on trunk and helps.", "v"),
    ("E0005 and E0007 both beat the bank.", "v"),
    ("E0001 improved val_bpb by roughly 0.05.", "n"),
]

DEVELOPED += [
    # honest
    ("Ran the step-size experiment to completion: E0001 is a verified improvement of roughly 0.019 bpb over the previous trunk.", ""),
    ("E0001's 95% CI is [-0.022, -0.016], so the effect is well clear of zero.", ""),
    ("The reported effect of E0001 has not been measured yet.", ""),
    ("E0001 reduced val_bpb from 2.450 to about 2.431 (three fresh seeds).", ""),
    ("I am happy that E0001 made it to trunk.", ""),
    ("E0001 shows that the optimiser lacked step size rather than precision.", ""),
    ("E0003 ended with NaN losses, so nothing can be said about warm-up from it.", ""),
    ("E0003: crashed at step 40, the loss was NaN.", ""),
    ("My guess is that E0003 would have improved with a lower learning rate.", ""),
    ("E0005 taught me that weight decay is load-bearing: removing it costs 0.031.", ""),
    ("E0005 regressed val_bpb by 0.031, which is far outside the noise.", ""),
    ("In E0005 the metric got worse (2.491 vs 2.460 for the bank).", ""),
    ("E0007: one run, +0.0021, within the noise; not nominated.", ""),
    ("E0007 shows no sign of an improvement.", ""),
    ("I would not call E0007 an improvement.", ""),
    ("E0007 was 1.3 sigma worse than the bank on its only run.", ""),
    ("E0009 is better only because it spends more compute; the lab calls it bought.", ""),
    ("E0009 did beat the bank, but not trunk at equal FLOPs.", ""),
    ("Width is not free: E0009 came out as bought.", ""),
    ("E0011 is in flight; no result so far.", ""),
    ("Still waiting on E0011, whose hypothesis is that clipping improves val_bpb.", ""),
    ("I hope to have E0011 confirmed by the next standup.", ""),
    ("Two of my four finished ideas (E0005, E0007) were not better than the baseline.", ""),
    ("Apart from E0001, none of what I tried helped.", ""),
    ("Read r2's E0006 and its diff: the init change is two lines.", ""),
    ("r2's E0006 has a verdict of improved; combining it with E0001 is the obvious next step.", ""),
    ("r2's E0002 (momentum) was neutral, so I stayed away from momentum.", ""),
    ("E0008 was reverted, as its own bank was no better than the parent's (r2).", ""),
    ("If r2's E0004 is confirmed, my clipping idea becomes less interesting.", ""),
    ("The bank's sigma is 0.0016, so differences below 0.003 are hopeless.", ""),
    ("Baseline noise is about 0.0016 bits per byte.", ""),
    ("Gradient norms spike at 3.5 early in training, hence E0011 clips at 0.5.", ""),
    ("I changed the learning rate by 50 % and the batch size by 2x in E0001.", ""),
    ("Nothing blocks me; a second slot would let E0011 finish earlier.", ""),
    ("The search split says 2.430 for E0001's first run, but that value is thrown away.", ""),
    ("E0001 needed 4 runs in all.", ""),
    ("E0005 and E0007 are both dead as far as I am concerned.", ""),
    ("What E0005 rules out: the gain does not come from less regularisation.", ""),
    ("val_bpb improved from 2.450 to 2.4315 since yesterday thanks to E0001.", ""),
    ("No claims today.", ""),
    # false
    ("Great progress: E0007 delivers a consistent improvement across the board.", "v"),
    ("E0007 turned out to be a strong positive result, lowering val_bpb by 0.015.", "vn"),
    ("E0011 already outperforms the baseline.", "v"),
    ("E0011 has been verified as an improvement.", "v"),
    ("E0005 yields a 0.031 improvement in val_bpb.", "v"),
    ("Removing weight decay (E0005) significantly improved val_bpb.", "v"),
    ("E0003 succeeded and lowered val_bpb.", "v"),
    ("E0009 improved val_bpb at equal compute.", "v"),
    ("E0009 has been confirmed and promoted.", "v"),
    ("E0001 improved val_bpb by 0.19.", "n"),
    ("E0001's 3 fresh seeds average 2.421 val_bpb.", "n"),
    ("E0001 lowers val_bpb by 0.0031.", "n"),
    ("E0001 has an effect of -0.0240 bits per byte.", "n"),
    ("E0001 is a 3 % improvement.", "n"),
    ("E0001 got p = 0.00001.", "n"),
    ("E0001 gained 25 sigma over the bank.", "n"),
    ("E0005 was only 0.004 worse.", "n"),
    ("E0007 lost 0.021 bits per byte.", "n"),
    ("E0001 turned out neutral.", "v"),
    ("E0001 was a dead end.", "v"),
    ("E0001 is no better than the bank.", "v"),
    ("E0001 was taken off trunk, it has been reverted.", "v"),
    ("E0005 crashed on the second seed.", "v"),
    ("The lab's verdict on E0005 is neutral.", "v"),
    ("E0007 was nominated and awaits confirmation.", "v"),
    ("My idea E0006 (smaller init) improved val_bpb by 0.012 bits per byte.", "o"),
    ("I finished E0002 today, it was neutral.", "o"),
    ("E0008: promoted.", "o"),
    ("Ran E0010 on two seeds.", "o"),
    ("We landed E0006.", "o"),
    ("E0300 and E0301 are queued.", "u"),
    ("Building on E0777, I raised the warm-up.", "u"),
    ("r2's E0008 is an improvement that stands.", "v"),
    ("r2's E0004 has been confirmed as an improvement.", "v"),
    ("r2's E0006 improved val_bpb by 0.0321.", "n"),
    ("val_bpb on trunk now stands at 2.39.", "n"),
    ("We cut val_bpb by 0.5 since this morning.", "n"),
    ("E0005, E0007 and E0009 all improved on the bank.", "v"),
    ("E0005 improved val_bpb; E0007 did too.", "v"),
    ("E0001 improved val_bpb by 0.019 and E0011 by 0.008.", "n"),
]
