"""The gate before trunk: whose word a promotion waits for, by the design's policy. Pure; workflow, laboratory, verification and
letters ask here.

`skeptic`: a reviewer must have called the change `ok` since it was found `improved`. `partner`: that, and a replication on fresh
seeds must hold. Each reviewer's newest finding counts, so a doubt shuts the gate again. A person may pass it; the record shows that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.records import Experiment

GATED = ("skeptic", "partner")
"""Policies of promotion under which the laboratory promotes what has passed its review, and nothing else."""


def waits(promotion: str, reviewers: Mapping[str, Sequence[str]], experiment: Experiment) -> str | None:
    """What the promotion of an `improved` experiment still waits for, as a clause; None when for nothing.

    `promotion`: the design's policy. `reviewers`: agent -> those whose finding its ideas need.
    """
    if promotion not in GATED or experiment.removes:
        return None
    who = reviewers.get(experiment.agent, ())
    if not who:
        return f"nobody here reviews what {experiment.agent} finds: a person may promote it"
    found = findings(experiment, who)
    if doubting := next((name for name, finding in found.items() if finding != "ok"), None):
        return f"{doubting}'s review says `{found[doubting]}`"
    if "ok" not in found.values():
        return f"it waits for the review of {' or '.join(who)}: `orgctl exp review {experiment.id} --finding ok --text ...`"
    held = [one for one in experiment.replications if one.attempt >= experiment.edited and one.result and one.result["holds"]]
    if promotion == "partner" and not held:
        return f"no replication of it holds yet: `orgctl exp replicate {experiment.id}`"
    return None


def findings(experiment: Experiment, who: Sequence[str]) -> dict[str, str]:
    """Reviewer -> newest finding since the experiment's code was found `improved`; those without one are left out."""
    counted = (one for one in experiment.reviews if one.judged == "improved" and one.attempt >= experiment.edited)
    return {one.actor: one.finding for one in counted if one.actor in who and one.finding}
