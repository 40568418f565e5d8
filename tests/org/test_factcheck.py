"""Claims in reports against the ledger: what is false is flagged, and what is honest is left alone; both are measured."""

from __future__ import annotations

import time

import pytest

from org.factcheck import Witness, check, sentences
from org.recorded import Known
from tasks.spec import Task
from tests.lab.story import TASK as PLAIN
from tests.org import held_out_before, reports_of_models, reports_with_reasons
from tests.org.held_out import HELD_OUT, REASONS
from tests.org.witnesses import DEVELOPED, Case, ledger

METRIC = {"name": "val_bpb", "unit": "bits per byte", "direction": "minimize"}
TASK = Task.model_validate({**PLAIN.model_dump(), "metric": METRIC, "scale": PLAIN.scale.model_dump()})
R1 = Witness("r1", ("chief", "r1", "r2", "r3"))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return Known(ledger(tmp_path_factory.mktemp("ledger")), TASK)


def kinds(text: str, known: Known, witness: Witness = R1, section: str = "done") -> str:
    found = check(text, known, witness, section)
    return "".join(sorted({flag.kind[0] for one in found for flag in one.flags}))


CORRECTED_ON = [*DEVELOPED, *reports_of_models.SENTENCES, *reports_with_reasons.SENTENCES, *held_out_before.SENTENCES]


@pytest.mark.parametrize(("sentence", "deserved"), CORRECTED_ON)
def test_a_sentence_gets_the_flags_that_it_deserves(known: Known, sentence: str, deserved: str) -> None:
    assert kinds(sentence, known) == "".join(sorted(deserved)), check(sentence, known, R1)


@pytest.mark.parametrize("held_out", [HELD_OUT, REASONS], ids=["first", "reasons"])
def test_of_sentences_that_no_rule_was_written_for_few_are_misread(known: Known, held_out: list[Case]) -> None:
    wrong = missed = deserved = 0
    for sentence, wanted in held_out:
        got = kinds(sentence, known)
        wrong += len(set(got) - set(wanted))
        missed += len(set(wanted) - set(got))
        deserved += len(wanted)
    print(f"{len(held_out)} sentences: {deserved - missed} of {deserved} flags found, {wrong} false")
    assert wrong <= 2 and missed <= 0.2 * deserved, (wrong, missed, deserved)


def test_the_flag_says_what_the_ledger_says(known: Known) -> None:
    said = {
        "E0005 improved val_bpb.": "E0005's verdict is worse",
        "E0011 helps.": "E0011 has no verdict (running)",
        "E0001 improved val_bpb by 0.05.": "E0001's effect is -0.019, not 0.05",
        "My E0006 improved val_bpb by 0.012.": "E0006 is r2's",
        "E0099 improved.": "there is no E0099",
        "r2's E0008 improved val_bpb.": "E0008 was promoted and taken back: its own bank was no better",
        "r2's E0004 improved val_bpb.": "E0004 has no verdict (nominated): one run only nominates",
    }
    assert {text: check(text, known, R1)[0].flags[0].text for text in said} == said


def test_a_pronoun_means_the_experiment_of_the_sentence_before(known: Known) -> None:
    first, second = check("E0005 removed weight decay. It improved val_bpb by 0.02.", known, R1)
    assert not first.flags and {flag.kind for flag in second.flags} == {"verdict", "number"}
    assert kinds("E0001 took larger steps. It improved val_bpb by 0.019.", known) == ""


def test_what_one_learned_from_others_is_not_told_as_one_s_own(known: Known) -> None:
    told = "E0006 improved val_bpb by 0.0121. E0008 looked good until its own bank came in."
    assert kinds(told, known) == "o", "among what was done, it is"
    assert kinds(told, known, section="learned") == ""
    assert kinds("My E0006 improved val_bpb by 0.0121.", known, section="learned") == "o"


def test_plans_are_no_claims_but_their_ids_must_exist(known: Known) -> None:
    assert kinds("E0011 improves val_bpb by 0.5. Then E0099.", known, section="next") == "u"


def test_a_chief_may_tell_of_everybodys_work(known: Known) -> None:
    chief = Witness("chief", R1.agents, decides=True)
    assert kinds("I promoted E0001. My E0006 improved val_bpb by 0.0121.", known, chief) == ""
    assert kinds("I promoted E0005.", known, chief) == "v", "it was not"
    assert kinds("E0005 was promoted.", known, chief) == "v"


def test_emphasis_is_no_part_of_what_is_said() -> None:
    assert sentences("**E0001** got `improved`, __not__ bought, on my_knob_x.") == ["E0001 got improved, not bought, on my_knob_x."]


def test_markdown_is_cut_into_sentences_and_numbers_stay_whole() -> None:
    text = "- E0001 gave -0.019. It is on trunk.\n* e.g. this one\n1. First.\n---\n## Head\n> quoted, cf. Smith"
    assert sentences(text) == [
        "E0001 gave -0.019.",
        "It is on trunk.",
        "e.g. this one",
        "First.",
        "Head",
        "quoted, cf. Smith",
    ]


@pytest.mark.parametrize(
    "hostile",
    ["a" * 50_000, "E0001 " * 8_000, "not " * 10_000 + "improved", "0.1 " * 10_000, "(" * 20_000, "E0001, " * 5_000 + "improved",
     '"' * 9_999,
     "improved by " * 3_000, "\n" * 50_000, "E0001 improved " + "9" * 30_000, "[](" * 5_000, "–" * 9_000, "E0001 and " * 3_000],
)  # fmt: skip
def test_hostile_text_is_read_to_an_end(known: Known, hostile: str) -> None:
    began = time.process_time()
    check(hostile, known, R1)
    assert time.process_time() - began < 2


def test_where_more_is_better_lowering_the_metric_is_no_success(known: Known) -> None:
    other = Task.model_validate(
        {**TASK.model_dump(), "metric": {**METRIC, "direction": "maximize"}, "scale": TASK.scale.model_dump()}
    )
    assert kinds("E0005 raised val_bpb.", Known(known.state, other)) == "v"
    assert kinds("E0005 lowered val_bpb.", Known(known.state, other)) == ""
