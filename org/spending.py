"""What the agents of a running session spend: written down, and held to their budgets, politely first, then firmly. Called by `org.team`.

Whose budget is spent is told so by one letter, in a turn of its own if need be; one whose budget is raised afterwards is told that too,
since the last it heard was to finish. Both are facts: neither a restart nor a new controller buys new grace.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from comms.mailbox import Mail
from comms.message import MailError
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Ledger
from org import cost
from org.agents.base import Seat
from org.agents.event import write_event
from org.attendance import Attendance
from org.design import Design
from org.grid import Grid

log = logging.getLogger("orgctl")


@dataclass
class Spending:
    """Everybody's cost and budget."""

    home: Home
    ledger: Ledger
    grid: Grid
    mail: Mail
    attendance: dict[str, Attendance]
    """The team's own."""

    def count(self, seats: Mapping[str, Seat], design: Design) -> None:
        """Write down what every agent has used, and hold them to their budgets."""
        for name, seat in seats.items():
            try:
                if (found := cost.of(seat)) is not None:
                    cost.write(self.home, name, found)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
                log.warning("the cost of %s cannot be read: %s", name, error)
        costs = {name: cost.read(self.home, name) for name in seats}
        whole = cost.Budget.of(design.process.budget.model_dump())
        for name, seat in seats.items():
            if costs[name] is None:
                continue
            own = cost.Budget.of(seat.settings)
            part, budget, whose = own.spent([costs[name]]), own, "your"
            if (all_of_us := whole.spent(costs.values())) > part:
                part, budget, whose = all_of_us, whole, "the organisation's"
            try:
                self.hold(name, part, budget, whose)
            except (UserError, MailError, OSError) as error:  # one who cannot be told or ended now does not free the others
                log.error("the budget of %s: %s", name, error)

    def hold(self, name: str, part: float, budget: cost.Budget, whose: str) -> None:
        """Hold one agent to a budget of which this part is spent. Raises UserError, MailError or OSError: it is tried again."""
        record = self.attendance.setdefault(name, Attendance())
        if record.given_up:
            return
        if part < 1 and record.budget_told is not None:
            self._raised(name, record, part, budget)
        now = time.time()
        what = cost.limit(part, record.budget_told, now)
        if what == "tell":
            record.budget_told = now
            text = (
                f"{whose.capitalize()} budget of {budget} is spent. Finish in this turn: what is known, what is open, what you would do "
                "next. Runs that are going on will be judged all the same."
            )
            record.budget_letter = self.mail.send("org", name, text, kind="budget").id
            body = {"what": "budget_told", "part": part, "budget": str(budget), "letter": record.budget_letter}
            self.ledger.append("agent", body, name)
        elif what == "end":
            self.grid.end(name)
            record.given_up = True
            write_event(self.home, name, "paused", f"{'its' if whose == 'your' else whose} budget of {budget} is spent", ended=True)
            self.ledger.append("agent", {"what": "budget_spent", "part": part, "budget": str(budget)}, name)

    def _raised(self, name: str, record: Attendance, part: float, budget: cost.Budget) -> None:
        """It may go on, and hears so; what the process says to the idle begins anew."""
        record.budget_told, record.budget_letter, record.words, record.idle_since = None, "", 0, None
        self.ledger.append("agent", {"what": "budget_raised", "part": part, "budget": str(budget)}, name)
        text = f"The budget was raised: it is {budget} now, of which {part:.0%} is spent. You need not finish: go on with your round."
        self.mail.send("org", name, text, kind="budget")
