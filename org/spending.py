"""What the agents of a running session spend: written down, and held to their budgets, politely first, then firmly. Called by `org.team`.

Whose budget is spent is told so by one letter, in a turn of its own if need be; one whose budget is raised afterwards is told that too,
since the last it heard was to finish. Both are facts: neither a restart nor a new controller buys new grace. What was counted is held to,
not what lies in a file, and it never becomes less, not with another controller either, since it is a fact too: records of the agents may
be lost, or be made unreadable.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from comms.mailbox import Mail
from comms.message import MailError
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Fact, Ledger
from lab.text import clean
from org import cost
from org.agents.base import Cost, Seat
from org.agents.event import write_event
from org.attendance import Attendance
from org.design import Design
from org.grid import Grid


@dataclass
class Spending:
    """Everybody's cost and budget."""

    home: Home
    ledger: Ledger
    grid: Grid
    mail: Mail
    attendance: dict[str, Attendance]
    """The team's own."""
    counted: dict[str, Cost] = field(default_factory=dict)
    """Agent -> what it has used."""
    noted: dict[str, Cost] = field(default_factory=dict)
    """The same, as far as it is a fact."""

    def recall(self, fact: Fact) -> None:
        """Go on from what was counted before, by whichever controller."""
        if (found := cost.counted(fact.body)) is not None:
            self.counted[fact.subject] = self.noted[fact.subject] = cost.grown(self.counted.get(fact.subject), found)

    def note(self) -> None:
        """Write down as facts what was counted since the last time: when somebody is told or ended, and at the end."""
        new = {name: one for name, one in self.counted.items() if self.noted.get(name) != one}
        self.ledger.append_all([("agent", name, {"what": "counted", **cost.kept(one)}) for name, one in new.items()])
        self.noted |= new

    def count(self, seats: Mapping[str, Seat], design: Design) -> str:
        """Count and write down what every agent has used, and hold them to their budgets. Returns what is wrong with the count of one
        of them while all others are held to theirs; "" for nothing."""
        trouble = []
        for name, seat in seats.items():
            try:
                found = cost.of(seat)
                if found is not None:
                    self.counted[name] = cost.grown(self.counted.get(name), found)
                    cost.write(self.home, name, self.counted[name])
            except Exception as error:  # whatever it is: a backend, which may be another package's, reads what an agent lets it see
                trouble.append(f"the cost of {name} cannot be read and written down: {error}")
        costs = {name: cost.kept(self.counted[name]) for name in seats if name in self.counted}
        whole = cost.Budget.of(design.process.budget.model_dump())
        for name, used in costs.items():
            own = cost.Budget.of(seats[name].settings)
            if own.dollars and used["tokens"] and used["dollars"] is None:
                unknown = f"the price of {clean(used.get('model'), 60)}" if not cost.least(used) else "of some of its requests the price"
                trouble.append(f"{name} is not held to all of its budget of ${own.dollars:g}: {unknown} is not known")
            part, budget, whose = own.spent([used]), own, "your"
            if (all_of_us := whole.spent(costs.values())) > part:
                part, budget, whose = all_of_us, whole, "the organisation's"
            try:
                self.hold(name, part, budget, whose)
            except (UserError, MailError, OSError) as error:  # one who cannot be told or ended now does not free the others
                trouble.append(f"the budget of {name}: {error}")
        return "; ".join(trouble)

    def hold(self, name: str, part: float, budget: cost.Budget, whose: str) -> None:
        """Hold one agent to a budget of which this part is spent. Raises UserError, MailError or OSError: it is tried again."""
        record = self.attendance.setdefault(name, Attendance())
        if record.given_up:
            return
        if part < 1 and record.budget_told is not None:
            self._raised(name, record, part, budget)
        now = time.time()
        what = cost.limit(part, record.budget_told, now)
        if what:
            self.note()
        if what == "end":
            self.grid.end(name)
            record.given_up = True
            self.ledger.append("agent", {"what": "budget_spent", "part": part, "budget": str(budget)}, name)
            write_event(self.home, name, "paused", f"{'its' if whose == 'your' else whose} budget of {budget} is spent", ended=True)
        elif part >= 1 and not record.budget_letter:
            record.budget_told = record.budget_told or now  # who blocks its own inbox wins no time by that
            text = (
                f"{whose.capitalize()} budget of {budget} is spent. Finish in this turn: what is known, what is open, what you would do "
                "next. Runs that are going on will be judged all the same."
            )
            record.budget_letter = self.mail.send("org", name, text, kind="budget").id
            body = {"what": "budget_told", "part": part, "budget": str(budget), "letter": record.budget_letter}
            self.ledger.append("agent", body, name)

    def _raised(self, name: str, record: Attendance, part: float, budget: cost.Budget) -> None:
        """It may go on, and hears so if it was told; what the process says to the idle begins anew."""
        if record.budget_letter:
            text = f"The budget was raised: it is {budget} now, of which {part:.0%} is spent. You need not finish: go on with your round."
            self.mail.send("org", name, text, kind="budget")
            self.ledger.append("agent", {"what": "budget_raised", "part": part, "budget": str(budget)}, name)
        record.budget_told, record.budget_letter, record.words, record.idle_since = None, "", 0, None
