"""The words by which reports assert, deny and compare, as patterns. English only; used by `org.factcheck`, `org.outcome` and
`org.tally`; `org.hedges` has those by which they do not assert.

Each pattern says what it means for a claim. A word too many in LOOKED costs a miss, one too few a false flag; the examples in
tests/org/witnesses.py hold the balance.
"""

from __future__ import annotations

import re

from tasks.spec import Task

DECIMAL = r"\d*\.\d+"


def words(*parts: str, before: str = r"\b", after: str = r"\b") -> re.Pattern[str]:
    return re.compile(f"{before}(?:{'|'.join(parts)}){after}", re.IGNORECASE)


ID = re.compile(r"(?<![\w.])([ER])(\d{4,9})(?!\w)", re.IGNORECASE)
GROUP = re.compile(r"E\d{4,9}(?!\w)(?:\s*(?:,\s*and|,\s*or|,|and|or|nor|&|/|\+)\s*E\d{4,9}(?!\w))*", re.IGNORECASE)
"""Experiments in a row: E0001, E0002 and E0003."""
EMPHASIS = re.compile(r"\*\*|`|(?<!\w)__(?=\w)|(?<=\w)__(?!\w)")
"""Marks of Markdown that say nothing."""
QUOTED = re.compile(r"\"[^\"]{8,400}\"|“[^”]{8,400}”")
"""Somebody's words, a hypothesis most often: no claim."""
PERHAPS = r"likely|probably|possibly|presumably|perhaps|maybe|apparently|hopefully"
PRONOUN = re.compile(
    r"^\W*(?:it|this|that|its|the (?:effect|gain|verdict|improvement|change|idea|result|run))\b", re.IGNORECASE
)
"""Opens a sentence about what the one before was about."""
CLAUSE = re.compile(
    rf";|(?:,?\s+(?:most |very |quite )?(?:{PERHAPS}))?\s+because\b|"
    r"\s+(?:but|while|whereas|although|though|however|(?<!not )(?<!n['’]t )yet(?! to\b))\b|"
    r",\s*(?:which|so|since|and then)\b|(?<!\bor)\s+so\s+(?!far)|"
    r",\s+and\s+(?!E\d)|(?<!E\d{4})(?<!E\d{5})(?<=[a-zσ%)\d])\s*,?\s+and\s+(?=E\d{4,}\s+(?!and\b|or\b|nor\b)\w)|"
    r"(?<=[a-zσ%)])\s*,\s+(?=E\d{4,}\b)|\s+[–—]\s+",
    re.IGNORECASE,
)
"""Where one statement ends and the next begins."""
OPENS_CONDITION = re.compile(r"\W*(?:if|unless|should|provided|assuming)\b[^,]*$", re.IGNORECASE)

NEGATED = re.compile(
    r"(?:\b|(?<=\w))(?:not|n't|n’t|no|never|neither|nor|none|nobody|nothing|without|cannot|hardly|barely|unable|instead of|rather than|"
    r"far from|fail(?:s|ed)? to)\b(?:\W+[\w'’%.-]+){0,4}\W*$",
    re.IGNORECASE,
)
"""Ends right before the word that it denies, up to four words earlier."""
TAKEN_BACK = words(
    "vanish", "disappear", "evaporat", "went away", "gone", "noise", "luck", "lucky", "unclear", "unconfirmed", "pending", "not yet",
    "yet to", "at first", "until", "did(?: not|n't) (?:hold|survive)", r"(?:is|was|are|were|has|have|did|does)(?: not|n't|n’t)\b", after="",
)  # fmt: skip
"""After a word of success: it is denied."""
NOT_PROMOTED = re.compile(
    r"(?:\bnot|n't|n’t|\byet to be|\bpending)\b(?: \w+){0,2}? (?:promot\w+|merged|(?:on|in|into) trunk)\b", re.IGNORECASE
)
"""What improved may wait for that."""
REASON = re.compile(r",\s*(?:\w+ ){0,2}(?:due|thanks|owing) to\b.*|\bby \w+ing\b.*", re.IGNORECASE)
"""Why something is so: what stands in it denies nothing ("due to less noise")."""
FIRST_RUN = words("first run", "one run", "one seed", "single (?:run|seed)", r"nominat\w*", "on search", "so far")
"""What is said is said of the run that nominates."""
PROPOSED = words(
    r"propos\w+", r"register\w+", r"submit\w*", "queued?", r"launch\w*", r"start\w*", "testing", "trying", "running", r"hypothes\w+",
    "idea", "question",
)  # fmt: skip
"""What follows in the present tense is a hypothesis."""
ELSEWHERE = words(
    r"speed\w*", "throughput", "memory", "mfu", "seconds", "faster", "slower", "time", "code", r"readab\w*", "simpler", "flops", "cost",
    "compute", "tokens per", "train(?:ing)? loss", r"log\w*", "style", "bug", "tests?", "chances?",
)  # fmt: skip
"""What may get better or worse beside the metric."""
EQUAL = re.compile(r"\b(?:at|with|for|under)\s+(?:the\s+)?(?:equal|matched|same|iso)[- ](?:compute|costs?|flops|time)\b", re.IGNORECASE)
"""Says that nothing more was spent, and nothing of what got better."""
_UNDERSTAND = r"(?! (?:us |me )?(?:to )?(?:understand|decide|explain|see|tell|know|learn|find|narrow)\b)"
PAST = rf"improved|beat|beaten|outperformed|helped{_UNDERSTAND}|gained|won|succeeded|paid off|worked"
PAST_OF_METRIC = (
    r"lowered|reduced|decreased|dropped|raised|increased|lifted|shaved|took|knocked|trimmed|carved|brought|pushed|sent|drove|got|pulled|"
    r"cut|fell|sank|went|came|rose|climbed"
)
"""Verbs that need the metric beside them."""
PRESENT = (
    rf"improves?|improving|improvements?|positive results?|beats|outperforms?|better|helps?{_UNDERSTAND}|gains?|wins?|winner|"
    r"succeeds?|success(?:ful)?|works(?! so far)|pays? off"
)
PASSED = (
    r"\b(?:passed|survived|cleared|(?:came|went) through|(?:held|stood) up (?:to|in|on|under))\s+(?:the\s+)?"
    r"(?:confirmation|fresh seeds)\b"
)
CONFIRMED = re.compile(
    rf"\bconfirmed\b(?!\s+(?:to be|as|that|its|by reading|with (?:the )?(?:chief|r\d))\b)|{PASSED}", re.IGNORECASE
)
REVERTED = words("taken back", r"revert\w*", "did not stand")
"""Says that a promotion did not last."""
BEAT_BANK = re.compile(rf"\b(?:beats?|beaten|outperform\w*)\s+(?:the\s+)?(?:bank|baseline)|{PASSED}", re.IGNORECASE)
"""Which what is bought does."""
CONFIRMED_BAD = words(r"(?:no|not|confirmed)\W+(?:better|(?:to be |as )?(?:worse|neutral|dead))")
COSTLY = words(
    "bought", r"(?<!equal )(?<!matched )(?<!same )(?<!iso-)(?<!equal-)(?:costs?|compute|flops)(?!-(?:matched|equal))", "dearer", "expensive"
)
"""Says that a gain was paid for."""
BAD = words(
    "worse", "hurts?", r"degrad\w+", "harm(?:s|ed|ful)", "neutral", "inconclusive", "dead end", "no effect", "no difference", "did nothing",
    "useless", "lost", "f[ae]ll(?:s|en)? short", "negative result", "sets? (?:us|me) back",
    r"regress\w+", "failures?", "fail(?:s|ed)?(?! to)", "bought", "crash(?:ed|es)?", "invalid",
)  # fmt: skip
RAN_WELL = re.compile(
    r"\b(?:ran|trained|finished|completed|ended)\s+(?:fine|well|through|cleanly|successfully|normally|to the end|without (?:a |any )?"
    r"(?:problems?|trouble|crash))",
    re.IGNORECASE,
)
"""Which what crashed did not."""
OTHERS = re.compile(
    r"\b(?:unlike|like|than|over|versus|vs\.?|against|from|after|on top of|top of|with|as|compared (?:to|with)|beats?|outperform\w*|"
    r"since|before|similar to|same as|because of|following|based on|(?<!all )(?<!both )of|read|reviewed?|reading|replicat\w+|see|cf\.?|"
    r"besides|repeats?|improv\w+ (?:up)?on|"
    r"repeated|duplicates?|into|behind|and not|not|control for|stacked on|builds? on|built on)\s+(?:\w+['’]s\s+|the\s+|my\s+|our\s+)?$",
    re.IGNORECASE,
)
"""Before an id: it is what the sentence compares with, not what it is about."""
MEANS = re.compile(
    r"^\W*(?:finally,? |and |then )?(?:with|using|from|through|via|by|thanks to|because of)\s+(?:my |our |the |\w+['’]s )?$", re.IGNORECASE
)
MEANT = re.compile(r"^\s*(?:\([^()]{0,80}\))?,?\s*(?:I|we|trunk|the loss|val\w*)\s(?!know|knew|learn|see\b|saw)", re.IGNORECASE)
"""Before and after an id at the opening: what follows came of that experiment ("With E0007 we beat the bank")."""
MEASURED_OF = re.compile(
    r"\b(?:effect|gain|improvement|benefit|contribution|reduction|drop|delta|interval)\s+(?:(?:measured|reported|seen|found)\s+)?"
    r"(?:of|from|for|in|by)\s+(?:\w+['’]s\s+|the\s+|my\s+|our\s+)?$",
    re.IGNORECASE,
)
"""Before an id: the number that follows is said of it."""
MINE = words(
    "my", "our", "mine", "ours",
    r"(?:I|we)(?!['’](?:d|ll)| (?:would|should|could|might|may|can|will|want|need|hope|suggest|recommend|think|expect)\b)",
)
"""Tells of one's own doing; a wish does not."""
DID = re.compile(
    r"^\W*(?:I |we )?(?:have |had |also |then |just )*(?:ran|run|proposed|tested|tried|finished|completed|submitted|implemented|did|got|"
    r"made|brought|landed|found)\b",
    re.IGNORECASE,
)
LOOKED = words(
    "read", r"review\w*", "looked", "studied", r"replicat\w*", r"compar\w*", "unlike", "like", "based on", "on top of", "builds? on",
    "built on", r"rebas\w*", "others?['’]?s?", "another", "same as", "similar", r"duplicat\w*", "instead of", "than", "after", "following",
    "trunk", "merged", "saw", "noticed", "noted", "waiting", "wait", r"agree\w*", r"disagree\w*", r"learn\w*", "control for",
)  # fmt: skip
"""An experiment of somebody else is mentioned, and not claimed."""

WORD = re.compile(
    r"\b(?:is|was|are|were|came (?:back|out)(?: as)?|ended(?: up)?(?: as)?|turned out(?: to be)?|remains?)\s+"
    r"(?:also |both |all |again |just |simply )?(?P<word>neutral|inconclusive|bought|invalid)\b",
    re.IGNORECASE,
)
"""One of the laboratory's own words for a failure, said of an experiment."""
STATUS = r"improved|bought|neutral|worse|inconclusive|invalid|crashed|promoted|nominated|reverted|withdrawn"
_IDS = r"(?:my\s+|our\s+|the\s+|\w+['’]s\s+)?E\d{4,9}\b[^.;:]{0,60}?"
_TAKEN = r"(?:accepted|merged|taken|pulled|adopted|admitted|integrated|incorporated)"
_TRUNK = r"(?:on|in|onto|into|to)\s+(?:the\s+)?trunk\b"
SAID = re.compile(
    r"(?P<verdict>\bverdict\b(?:\s+(?:on|of|for)\s+E\d+)?\W{0,3}(?:is|was|(?:is|came|has come|comes) (?:out|in|back)(?: as)?|"
    r"(?:has )?arrived|says|:|=)?\W{0,3}|"
    rf"\b(?:judged|called|ruled)\W{{1,3}})(?P<word>{STATUS})\b|"
    r"\b(?:was|is|were|are|got|been|has been|now)\s+(?P<not>not\s+|never\s+)?(?:also\s+|already\s+|just\s+|finally\s+)?"
    r"(?P<passive>promoted|nominated|reverted|withdrawn|merged)\b|"
    rf"\b(?:had|got)\s+{_IDS}\s(?P<had>promoted|nominated|reverted|merged)\b|"
    r"\b(?P<active>promoted|merged|reverted)\s+(?:my\s+|our\s+|the\s+|\w+['’]s\s+)?(?=E\d{4})|"
    rf"\b(?P<put>put|took|accepted|landed|brought)\s+{_IDS}\s{_TRUNK}|"
    rf"\b(?P<became>reached trunk|(?:went|landed|made it|got|came|(?:was|were|is|are|been|got) {_TAKEN}) {_TRUNK})|"
    r"\b(?P<noun>(?:is|was) (?:a|an|our|my|the)(?! next)(?: \w+){0,2} promotion\b|"
    r"promotions?(?: (?:to report|of the day|today|so far))?\s?[:(]\s?(?=E\d))|"
    r"\b(?P<trunk>(?:is|are|now|stands|sits|stays|remains)(?: still| now)? (?:part of |(?:on|in|into|to) )?trunk)\b|"
    r"\b(?P<open>has no verdict|(?:is|am) (?:still )?(?:waiting|without) (?:for )?(?:a|its|the) verdict|awaits its verdict)\b",
    re.IGNORECASE,
)
"""A verdict or state that is named as such."""


def metric_words(task: Task) -> str:
    """A pattern for what the metric may be called."""
    names = {re.escape(task.metric.name), re.escape(task.metric.name.replace("_", " ")), re.escape(task.metric.unit)}
    stem = re.escape(task.metric.name.split("_")[-1])
    longest = "|".join(sorted(names, key=len, reverse=True))
    return rf"(?<!train )(?<!training )(?<!\w)(?:{longest}|{stem}|val(?:idation)? loss|loss|metric|score)(?!\w)"


def better(task: Task) -> re.Pattern[str]:
    """Words that say that something got better; lowering and raising count beside the metric only."""
    metric, down = metric_words(task), r"(?:down|below|under)"
    verbs = r"lower(?:s|ed|ing)?|reduc(?:es|ed|ing)|cuts?|cutting|decreas(?:es|ed|ing)|drop(?:s|ped|ping)"
    went = "fell|falls|drops|dropped|sank|went down|came down|is down|was down"
    by = rf"(?:shav\w+|takes?|took|knock\w*|trim\w*|cuts?|carv\w+) (?:\w+ )?{DECIMAL}(?: {metric})? "
    by += rf"(?:off|from)(?: {metric}|\s*(?:[.,;)]|$))"
    if task.metric.direction == "maximize":
        verbs, down = r"rais(?:es|ed|ing)|increas(?:es|ed|ing)|lift(?:s|ed|ing)?", r"(?:up|above|over)"
        went = "rose|rises|climb(?:s|ed)|went up|came up|is up|was up"
        by = rf"(?:adds?|added|puts?) (?:\w+ )?{DECIMAL}(?: {metric})? (?:to|on) {metric}"
    made = r"brings?|brought|push(?:es|ed)?|sends?|sent|drives?|drove|gets?|got|takes?|took|pull(?:s|ed)?"
    moved = rf"(?:{made}) (?:the )?{metric} (?:\w+ )?{down}\b"
    return re.compile(
        rf"\b(?:{PAST}|{PRESENT})\b|\b(?:{verbs})\s+(?:the\s+)?{metric}|\b{by}|\b{moved}|{metric} (?:{went})\b", re.IGNORECASE
    )


def negated(before: str) -> bool:
    """Does what stands before a word deny it? What is in brackets between them, or in another cell of a table, does not count."""
    return bool(NEGATED.search(re.sub(r"\([^()]{0,80}\)", " ", before.rpartition("|")[2])))


def taken_back(after: str) -> bool:
    """Does what stands after a word of success deny it?"""
    nothing = re.match(r"(?: us| me)? (?:nothing|nobody|none|no|little)\b", after, re.IGNORECASE)
    return bool(nothing or TAKEN_BACK.search(NOT_PROMOTED.sub("", REASON.sub("", after))))


# Parts of a sentence


def clauses(text: str) -> list[str]:
    """A sentence cut where one statement ends and the next begins; a condition stays with what depends on it."""
    found: list[str] = []
    for piece in CLAUSE.split(text):
        if found and OPENS_CONDITION.match(found[-1]):
            found[-1] += f", {piece}"
        elif re.search(r"\w", piece):
            found.append(piece)
    return found


def ids_of(text: str) -> list[str]:
    """Experiments named in a text, in order."""
    return list(dict.fromkeys(f"E{found[2]}" for found in ID.finditer(text) if found[1].upper() == "E"))


def run_ids(text: str) -> list[str]:
    return list(dict.fromkeys(f"R{found[2]}" for found in ID.finditer(text) if found[1].upper() == "R"))


def subjects(clause: str) -> tuple[list[str], list[str]]:
    """(experiments that a clause is about, those that it merely compares with). Where it cannot be told which of several it is
    about, it is about none."""
    about: list[list[str]] = []
    others: list[str] = []
    for group in GROUP.finditer(clause):
        before, after = clause[: group.start()], clause[group.end() :]
        if OTHERS.search(before) and not (MEANS.search(before) and MEANT.search(after)):
            others += ids_of(group[0])
        else:
            about.append(ids_of(group[0]))
    if len(about) == 1:
        return about[0], others
    return [], others + [name for one in about for name in one]


def measured_of(clause: str) -> list[str]:
    """Experiments of which a clause names an effect: the numbers of "the gain of E0001 is ..." are said of it."""
    return [name for group in GROUP.finditer(clause) if MEASURED_OF.search(clause[: group.start()]) for name in ids_of(group[0])]
