"""Scripts that are ready to play."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from tests.loopback.talk import Answer, Call, Conversation, Failure, Reply

Step = Answer | str | Callable[[Conversation], Answer]


def run(command: str, text: str = "") -> Reply:
    """Run a shell command."""
    return Reply(text, (Call("shell", {"command": command}),))


class Steps:
    """One step for each answer of the conversation; strings are text. A failure is played as often as it says and then left out.
    After the last step every question gets `last`."""

    def __init__(self, *steps: Step, last: str = "Nothing more to do.") -> None:
        self.steps = list(steps)
        self.last = last
        self._left: dict[int, int] = {}
        self._lock = threading.Lock()

    def __call__(self, talk: Conversation) -> Answer:
        with self._lock:
            position = 0
            for index, step in enumerate(self.steps):
                if isinstance(step, Failure):
                    left = self._left.setdefault(index, step.times)
                    if position == talk.answers and left:
                        self._left[index] = left - 1
                        return step
                    continue
                if position == talk.answers:
                    return Reply(step) if isinstance(step, str) else step if isinstance(step, Reply) else step(talk)
                position += 1
            return Reply(self.last)


def researcher(
    file: str, knob: str, values: list[str], chief: str = "chief", because: str = "the shipped value is far from the optimum"
) -> Callable[[Conversation], Answer]:
    """Reads its mail, proposes an idea for each value, edits the constant `knob` in `file`, runs it, ends its turn, and reports to the
    chief when the result has come. One idea at a time; after the last it stays idle. Stateless: all it knows is the conversation."""

    def answer(talk: Conversation) -> Answer:
        ran = [call.arguments for turn in talk.turns for call in turn.calls]
        commands = [str(one.get("command") or one.get("cmd") or "") for one in ran]
        latest = [turn for turn in talk.turns if turn.role != "system"][-1]
        reported = sum("orgctl mail send" in command for command in commands)
        proposed = [command for command in commands if "exp propose" in command]
        if not commands:
            return run("orgctl mail inbox", "I read my mail first.")
        last = commands[-1]
        if latest.role != "tool":  # somebody woke it: mail, or a result
            if len(proposed) > reported:
                return run(f'orgctl mail send {chief} "Measured: {knob} in {file}. See the ledger."')
            if len(proposed) < len(values):
                return _propose(knob, values[len(proposed)], because)
            return Reply("All ideas are measured.")
        if "exp propose" in last:
            value = values[len(proposed) - 1]
            return run(
                f"git reset -q --hard org/trunk; sed -i 's/^{knob} = .*/{knob} = {value}/' {file} && git diff --stat"
            )
        if "sed -i" in last:
            found = re.findall(r"\bE\d{4}\b", talk.text)
            return run(f"orgctl exp run {found[-1]}") if found else Reply("The proposal was refused.")
        if "exp run" in last:
            if "--again" in latest.text and "--again" not in last:  # somebody tried this, or nearly this, a moment ago
                return run(f'{last} --again "{because}"')
            return Reply("It is queued; I end my turn until the result arrives.")
        if len(proposed) < len(values):
            return _propose(knob, values[len(proposed)], because)
        return Reply("All ideas are measured.")

    return answer


def _propose(knob: str, value: str, because: str) -> Reply:
    return run(
        f'orgctl exp propose --hypothesis "{knob} {value} fits better" --mechanism "{because}" '
        "--family optimiser"
    )
