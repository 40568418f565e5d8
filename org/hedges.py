"""What a report does not assert, but hopes, plans or holds possible, as patterns and what they govern. English only; used by
`org.factcheck`, `org.outcome`, `org.tally` and `org.recorded`.

The choice that matters most: a hedge governs what stands after it. Reports put reasons and hopes behind what they claim ("improved by
0.05, likely because ...", "... and should be promoted"), and those take nothing back; `hedged` has the few that do. A word too many
in HEDGE costs a miss, one too few a false flag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from org.phrases import PAST, PAST_OF_METRIC, PERHAPS, words

HEDGE = words(
    "should", "must", "ought to", "ha(?:s|ve|d) to", "could(?! not)", "may", "might", "would", "will", "shall", "can(?! not)",
    "had (?:we|i|they|the chief)", r"wish\w*", r"expect\w*", r"hope\w*", "hoping", r"hypothes\w*", r"predict\w*",
    "if", "whether", r"plan\w*", r"intend\w*", r"aim\w*", "try(?:ing)? to", r"attempt\w*", "going to", r"want\w*", r"suspect\w*",
    r"believe\w*", "think", "thought", "guess", "perhaps", "maybe", "probably", "presumably", "possibly", "possible", "likely",
    r"potential\w*", "promising", r"seem\w*", r"appear\w*", "looks?", "looked", r"suggest\w*", "hints?", "in order to", "so as to",
    "until", "unless", "once", "when", r"wait\w*", r"await\w*", "pending", "not yet", "yet to", "candidate", "goal",
    "due to be", "ready to", "too early",
    r"(?<!turned out )(?<!proved )(?<!shown )(?<!found )to be", "being", "needs?", "propose to",
    r"worth(?!\s+(?:(?:about|roughly|almost|nearly|around|only|some|just) )?[-+−~]?\d*\.\d)",
    "ask(?:ed)? (?:for|the|to)", "please", r"order\w*", "no (?:evidence|sign|indication|reason)",
    "(?<!failed )(?<!fails )(?<!managed )(?<!unable )"
    "to (?:improve|beat|lower|reduce|help|gain|win|confirm|promote|see|find|test|check)", after=r"\b|\?",
)  # fmt: skip
"""An intention, a hope or a question, where it stands before what is said."""
OF_THE_PAST = re.compile(r"when|once|promising|potential|candidate", re.IGNORECASE)
"""Hedges that leave what is told in the past as told ("When trained longer, E0007 improved")."""
CONDITION = re.compile(
    r"[^,;]{0,80}?\b(?:if|unless|until|once|as soon as|provided|assuming|when (?:the|it|we|I|they))\b|\s*or not\b", re.IGNORECASE
)
"""After what is said in the present: it holds on a condition."""
AFTERTHOUGHT = re.compile(
    rf"\W(?:or so |at least )?(?:(?:I|we) (?:hope|think|believe|guess|suspect|expect|assume)|if (?:at all|anything)|{PERHAPS})\W*$",
    re.IGNORECASE,
)
"""Closes a statement, and is a hedge of all of it."""
OUTCOME_NOUN = re.compile(
    r"(?<!\d )\b(?:improvements?|gains?|wins?|success|failures?|crash|effects?|reduction|drop|difference)\b", re.IGNORECASE
)
VERB = re.compile(
    r"\b(?:is|was|are|were|be|been|shows?|showed|has|had|have|got|brings?|brought|gives?|gave|yield\w*|deliver\w*|made|makes?|saw|see|"
    r"produc\w+|achiev\w+|remain\w*|became|ran|found|confirm\w*)\b|:",
    re.IGNORECASE,
)
"""Between a noun of outcome and the opening: it is no subject, of which what follows is said."""
SOON_HEDGED = re.compile(rf"[^,;]{{0,60}}?{HEDGE.pattern}", re.IGNORECASE)
_EXPECTED = r"(?:expected|hoped|predicted|planned|intended|suspected|anticipated|assumed|feared|hypothesi[sz]ed|thought|wanted|believed)"
AS_EXPECTED = re.compile(
    rf"(?:\bwork(?:s|ed) )?\bas (?:\w+ ){{0,4}}?(?:{_EXPECTED}|it should|\w+ (?:would|should)(?=\W*$))\b|"
    rf"\b(?:in line|consistent|in agreement|in accordance) with (?:\w+ ){{0,3}}?(?:{_EXPECTED}|hypothesis|prediction|expectations?|plan)\b|"
    r"\b(?:confirm\w*|support\w*|match\w*) (?:my|our|the|its|this) (?:\w+ )?(?:hypothesis|prediction|expectations?|suspicion|guess)\b|"
    rf"\b(?:(?:\w+ )?less|better|worse) than (?:(?:I|we)(?: had)? )?{_EXPECTED}\b|\bthan (?:(?:I|we)(?: had)? )?{_EXPECTED}\b",
    re.IGNORECASE,
)
"""Compares with what was expected: it neither hedges nor says what came out."""


def told_as_past(clause: str, found: re.Match[str]) -> bool:
    """Is a word of outcome a verb in the past? "Is improved" is not: it may hold on a condition."""
    participle = r"\b(?:is|are|be|been|as|gets?|stays?|remains?)\s+(?:\w+ly\s+|also\s+)?$"
    verb = re.search(rf"\b(?:{PAST}|{PAST_OF_METRIC}|confirmed)\b", found[0], re.IGNORECASE)
    return bool(verb) and not re.search(participle, clause[: found.start()], re.IGNORECASE)


def hedged(clause: str, found: re.Match[str], past: bool) -> bool:
    """Does a hedge govern what was found in a clause? One that stands before it does; of those after it only a condition of what is not
    told in the past, an afterthought, and what is said of the noun that opens the clause ("the gain of E0011 should be small")."""
    before, after = clause[: found.start()], clause[found.end() :]
    if before.rfind("(") > before.rfind(")"):
        after = after.partition(")")[0]  # what follows brackets is not said of what stands in them
    earlier = (one for one in HEDGE.finditer(clause) if one.start() < found.start())
    if any(not (past and OF_THE_PAST.fullmatch(one[0])) for one in earlier) or AFTERTHOUGHT.search(after):
        return True
    if not past and CONDITION.match(after):
        return True
    subject = OUTCOME_NOUN.search(clause[: found.end()]) and not VERB.search(before)
    return bool(subject and SOON_HEDGED.match(after))


def asserted(clause: str, found: Iterable[re.Match[str]]) -> list[re.Match[str]]:
    """Those words of outcome that no hedge governs."""
    return [one for one in found if not hedged(clause, one, told_as_past(clause, one))]
