"""Which ideas count as the same and which only as related: the examples on which the thresholds were calibrated."""

from __future__ import annotations

import pytest

from lab.records import Attempt, Experiment
from lab.similar import RELATED_TEXT, SAME_TEXT, UNSAID, Changes, Near, cosines, lines, overlap, proposals, settings
from lab.state import State

IDEAS = [
    ("A peak matrix learning rate of 0.03 instead of 0.02 lowers val_bpb by at least 0.01",
     "The loss is still falling steeply at the end: with this budget the optimiser lacks steps, not precision"),
    ("Initialising the output projection at zero lowers val_bpb by about 0.005",
     "Residual branches start as identity, so early gradients are not noisy"),
    ("Squared ReLU instead of GELU in the MLP lowers val_bpb", "Sparse activations give cleaner gradients at small width"),
    ("Decaying the learning rate over the last 60 % of the budget lowers val_bpb by 0.01",
     "A longer decay averages out the noise of the last steps"),
    ("Weight decay of 0.1 on the matrices lowers val_bpb",
     "Regularisation keeps the weights small so that the effective learning rate stays high"),
    ("Halving the batch size to 16 sequences lowers val_bpb",
     "More steps for the same tokens: the run is far from the critical batch size"),
    ("Tying the embedding and the unembedding lowers val_bpb at equal FLOPs", "Fewer parameters to learn from few tokens"),
    ("A sliding window of 128 tokens in three of four layers keeps val_bpb and saves FLOPs",
     "Most dependencies are local at this scale"),
    ("Rotary base of 1000 instead of 10000 lowers val_bpb", "In a short context most wavelengths of a large base never turn"),
    ("Removing the logit softcap does not change val_bpb", "The cap is never reached in a short run"),
    ("A warmup of 5 % of the steps lowers val_bpb", "Small first steps protect zero-initialised projections from noisy gradients"),
    ("QK norm with a learned scale lowers val_bpb by 0.004", "Attention can be sharper where it needs to be"),
    ("Adam beta2 of 0.99 instead of 0.95 lowers val_bpb",
     "Rows of rare tokens get few gradients, a longer memory makes their steps steadier"),
    ("Momentum of 0.9 for Muon lowers val_bpb", "Less averaging: the direction is fresher in a short run"),
    ("Sorting documents by length before packing lowers val_bpb", "Less padding and fewer cut documents"),
    ("Dropout of 0.1 in the MLP lowers val_bpb", "The model sees its small corpus several times and overfits"),
    # The same sentence about something else, or for another reason.
    ("A peak embedding learning rate of 0.3 instead of 0.2 lowers val_bpb by at least 0.01",
     "Rare tokens are seen only a few times, so each sighting has to teach more"),
    ("Weight decay of 0.1 on the embedding lowers val_bpb", "Rows of rare tokens drift when nothing pulls them back"),
    ("SiLU instead of GELU in the MLP lowers val_bpb", "A smooth gate lets more gradient through at small width"),
    ("QK norm without a scale lowers val_bpb by 0.004", "Attention logits stay bounded, so larger steps are stable"),
    ("Decaying the learning rate to 10 % instead of zero lowers val_bpb", "The last steps still learn something"),
]  # fmt: skip
REWORDED = [
    (0, "Raising the peak matrix learning rate from 0.02 to 0.03 lowers val_bpb by at least 0.02",
     "The loss still falls steeply at the end of the run: the optimiser lacks steps and not precision"),
    (1, "Zero initialisation of the output projections lowers val_bpb",
     "Residual branches start as the identity and early gradients are less noisy"),
    (3, "Decay the learning rate during the last 60 % of the budget: val_bpb falls by at least 0.02",
     "Longer decay averages the noise of the final steps"),
    (5, "Halve the batch size (16 sequences): lower val_bpb",
     "For the same tokens there are more steps, and the run is far from the critical batch size"),
    (8, "A rotary base of 1000 rather than 10000 reduces val_bpb", "Most wavelengths of a large base never turn in a short context"),
    (10, "Warming up over the first 5 % of steps lowers val_bpb",
     "The zero-initialised projections are protected from noisy gradients by small first steps"),
    (12, "Lower val_bpb with beta2 = 0.99 in Adam instead of 0.95",
     "Rare tokens' rows get few gradients and need a longer memory for steady steps"),
]  # fmt: skip


def state(*ideas: tuple[str, str], params: dict[str, object] | None = None) -> State:
    """Experiments E1, E2, ... that say this; with `params` each of them set these knobs."""
    made = State()
    for number, (hypothesis, mechanism) in enumerate(ideas, start=1):
        made.experiments[f"E{number}"] = Experiment(
            f"E{number}", "r1", hypothesis, mechanism, "other", "improves", 0.0, "", params or {}, "t0", 0.0
        )
    return made


def near(known: State, hypothesis: str, mechanism: str = "", **params: object) -> list[Near]:
    return proposals(known, {"hypothesis": hypothesis, "mechanism": mechanism}, params)


def same(found: list[Near]) -> list[str]:
    return [one.experiment for one in found if one.same]


def test_the_same_idea_in_other_words_is_found_whatever_effect_it_predicts() -> None:
    known = state(*IDEAS)
    for index, hypothesis, mechanism in REWORDED:
        assert same(near(known, hypothesis, mechanism)) == [f"E{index + 1}"], hypothesis
        assert same(near(state(IDEAS[index]), hypothesis, mechanism)) == ["E1"], "also where nothing else is known"


def test_different_ideas_in_similar_sentences_stay_below_the_threshold_with_room_to_spare() -> None:
    said = [f"{hypothesis}\n{mechanism}" for hypothesis, mechanism in IDEAS]
    for index, one in enumerate(said):
        assert max(cosines(one, said[:index] + said[index + 1 :])) < SAME_TEXT - 0.08, one
    lowest = min(cosines(f"{a}\n{b}", said)[index] for index, a, b in REWORDED)
    assert lowest > SAME_TEXT + 0.1


def test_ideas_of_people_that_came_without_a_mechanism_are_not_alike_for_that() -> None:
    known = state(("larger batches average the noise of gradients", UNSAID))
    for other in ("tie the layers", "train on primes", "wider"):
        assert near(known, other, UNSAID) == [], other
    assert same(near(known, "larger batches average noise of the gradients", UNSAID)) == ["E1"]


def test_the_same_sentence_with_another_value_is_related_and_no_duplicate() -> None:
    hypothesis, mechanism = IDEAS[0]
    (found,) = near(state(IDEAS[0]), hypothesis.replace("0.03", "0.04"), mechanism)
    assert not found.same and found.likeness > 0.9
    assert same(near(state(IDEAS[0]), hypothesis.replace("0.03", "0.0304"), mechanism)) == ["E1"], "within 2 %"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a step of 0.1 lowers val_mse by 0.05", [0.1]),
        ("a step of 0.1 lowers val_mse\n200 steps of 0.02 are few", [0.1, 200.0, 0.02]),
        ("scaling by 2 gains by about 3 %", [2.0]),
        ("width 96, d8, 1e-3 and .5: val_bpb improves by at least 0.01.", [96.0, 0.001, 0.5]),
    ],
)
def test_the_numbers_of_an_idea_are_its_settings_and_not_what_it_predicts(text: str, expected: list[float]) -> None:
    assert settings(text) == expected


def test_the_nearest_come_first_and_what_has_nothing_in_common_is_left_out() -> None:
    found = near(state(*IDEAS), *IDEAS[17])
    assert [one.experiment for one in found if one.same] == ["E18"] == [found[0].experiment]
    assert all(one.likeness >= RELATED_TEXT for one in found) and len(found) < 6


@pytest.mark.parametrize(
    ("params", "likeness", "duplicate"),
    [
        ({"LR": 0.03}, 1.0, True),
        ({"LR": 0.0305}, 1.0, True),
        ({"LR": 0.04}, 0.5, False),
        ({"LR": 0.03, "WIDTH": 8}, 0.5, False),
        ({"WIDTH": 8}, None, False),
        ({"LR": True}, 0.5, False),
    ],
)
def test_proposals_with_knobs_are_compared_by_these_and_not_by_their_sentence(
    params: dict[str, object], likeness: float | None, duplicate: bool
) -> None:
    found = near(state(("h", "m"), params={"LR": 0.03}), "h", "m", **params)
    assert [(one.likeness, one.same) for one in found] == ([] if likeness is None else [(likeness, duplicate)])


def test_a_choice_is_the_same_only_when_it_is_the_same_word() -> None:
    known = state(("h", "m"), params={"ACTIVATION": "gelu"})
    assert same(near(known, "h", ACTIVATION="gelu")) == ["E1"] and same(near(known, "h", ACTIVATION="silu")) == []


def test_a_person_who_says_in_words_what_a_sweep_has_turned_is_told() -> None:
    sentence = ("LR 0.02 → 0.03 lowers val_mse", "a step that is too small leaves the curve half fitted")
    known = state(sentence, params={"LR": 0.03})
    assert same(near(known, *sentence)) == ["E1"]
    assert same(near(known, sentence[0].replace("0.03", "0.05"), sentence[1])) == []


def test_what_was_withdrawn_before_it_ran_stands_in_nobodys_way() -> None:
    known = state(("h", "m"))
    known.experiments["E1"].withdrawn = "no time"
    (found,) = near(known, "h", "m")
    assert not found.same and found.likeness == 1.0


def diff(*changed: str) -> str:
    return "\n".join(["--- a/toy/model.py", "+++ b/toy/model.py", "@@ -1,2 +1,2 @@", " context = 1", *changed])


BIG = [f"+    layer_{name} = {name}(inputs)" for name in ("norm", "attend", "mix", "gate", "drop", "scale", "out", "skip", "add", "cut")]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (["-LR = 0.02", "+LR = 0.03"], ["-LR = 0.02", "+LR = 0.03"], "same"),
        (["-LR = 0.02", "+LR = 0.03"], ["-LR = 0.02", "+LR   =  0.0301  # a little more"], "same"),
        (["-LR = 0.02", "+LR = 0.03"], ["-LR = 0.02", "+LR = 0.04"], "other"),
        (["-LR = 0.02", "+LR = 0.03"], ["-LR = 0.02", "+LR = 0.03", "-WIDTH = 4", "+WIDTH = 8"], "related"),
        (BIG, BIG[5:] + BIG[:5], "same"),
        (BIG, [*BIG[:-1], "+    something_else()"], "related"),
        (BIG, [*BIG, "+# a remark", "+"], "same"),
        (BIG, [line.replace("layer", "block") for line in BIG], "other"),
        (["+# only a remark"], ["+# only a remark"], "same"),
    ],
)
def test_changes_are_alike_by_their_lines_without_remarks_blanks_order_and_the_last_percent(
    a: list[str], b: list[str], expected: str
) -> None:
    known = state(("h", "m"))
    known.experiments["E1"].attempts.append(Attempt(1, "t0", "c1", diff(*a), []))
    found = Changes().near(known, diff(*b))
    assert ("same" if same(found) else "related" if found else "other") == expected
    assert overlap(lines(diff(*a)), lines(diff(*b))) == overlap(lines(diff(*b)), lines(diff(*a)))


def test_an_earlier_attempt_on_another_trunk_counts_too_but_not_the_experiment_itself() -> None:
    known = state(("h", "m"), ("h2", "m2"))
    text = diff("-LR = 0.02", "+LR = 0.03")
    known.experiments["E1"].attempts += [Attempt(1, "t0", "c1", diff("+x = 1"), []), Attempt(2, "t1", "c2", text, [])]
    known.experiments["E2"].attempts.append(Attempt(1, "t2", "c3", text, []))
    changes = Changes()
    assert same(changes.near(known, text)) == ["E2", "E1"], "the newest first"
    assert same(changes.near(known, text, but="E2")) == ["E1"]
    known.experiments["E3"] = state(("h3", "m3")).experiments["E1"]
    known.experiments["E3"].id = "E3"
    known.experiments["E3"].attempts.append(Attempt(1, "t3", "c4", text, []))
    assert same(changes.near(known, text)) == ["E3", "E2", "E1"], "what came since is seen"
