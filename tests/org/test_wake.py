"""Waking is typing into somebody's pane: what is decided, move by move, and that Enter never meets anything but our own line."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from org.wake import HEARD, IDLE, LINE, LOST, SETTLE, Sight, Try, decide

CALM = Sight("idle", 1, "", None)
STATES = ["idle", "waiting", "working", "needs_person", "taken_over", "rate_limited", "starting", "unknown", "dead", "paused"]


def test_mail_for_an_idle_agent_is_pasted_entered_and_heard() -> None:
    move, trying = decide(CALM, IDLE, 100.0)
    assert move == "paste"
    assert decide(replace(CALM, box=LINE), trying, 100.0 + SETTLE / 2)[0] == "", "too early: an Enter now may become a newline"
    move, trying = decide(replace(CALM, box=LINE), trying, 100.5)
    assert move == "enter"
    assert decide(replace(CALM, state="working"), trying, 101.0) == ("", IDLE)
    assert decide(replace(CALM, heard=100.9, unread=0), trying, 101.0) == ("", IDLE), "it may be done already"


def test_a_box_that_wraps_the_line_is_still_ours() -> None:
    _, trying = decide(CALM, IDLE, 100.0)
    assert decide(replace(CALM, box=LINE.replace(" ", "\n  ", 2)), trying, 100.5)[0] == "enter"


def test_nothing_is_typed_where_it_could_do_harm() -> None:
    for sight in (
        *(replace(CALM, state=state) for state in STATES if state not in ("idle", "waiting")),
        replace(CALM, box=None),
        replace(CALM, box="half a sentence of a per"),
        replace(CALM, typed=3.0),
        replace(CALM, in_mode=True),
        replace(CALM, unread=0),
    ):
        assert decide(sight, IDLE, 100.0)[0] == "", sight
    assert decide(replace(CALM, typed=3000.0), IDLE, 100.0)[0] == "paste", "a person only looks"


def test_a_dialog_that_opens_after_the_paste_gets_no_enter_and_it_is_reported() -> None:
    _, trying = decide(CALM, IDLE, 100.0)
    for seconds in range(1, int(LOST)):
        move, trying = decide(replace(CALM, box=None), trying, 100.0 + seconds)
        assert move == ""
    move, trying = decide(replace(CALM, box=None), trying, 100.0 + LOST)
    assert move == "undelivered" and "input box" in trying.why and trying.failures == 1
    assert decide(CALM, trying, 110.0)[0] == "", "not at once again"
    assert decide(CALM, trying, 140.0)[0] == "paste"


def test_a_persons_words_in_the_box_beside_ours_are_never_sent() -> None:
    _, trying = decide(CALM, IDLE, 100.0)
    move, trying = decide(replace(CALM, box=f"delete it all{LINE}"), trying, 100.5)
    assert move == ""
    move, trying = decide(replace(CALM, box=f"delete it all{LINE}"), trying, 100.0 + LOST)
    assert move == "undelivered" and "other text" in trying.why


def test_an_enter_that_was_swallowed_is_pressed_once_more_and_never_a_third_time() -> None:
    stuck, now = replace(CALM, box=LINE), 100.0
    _, trying = decide(CALM, IDLE, now)
    moves = []
    while now < 130.0:
        now += 0.5
        move, trying = decide(stuck, trying, now)
        moves += [move] if move else []
        if move == "undelivered":
            break
    assert moves == ["enter", "enter", "undelivered"]
    assert HEARD < LOST


def test_a_paste_that_was_lost_is_made_once_more_into_the_empty_box() -> None:
    _, trying = decide(CALM, IDLE, 100.0)
    move, trying = decide(CALM, trying, 100.0 + HEARD)
    assert move == "paste"
    assert decide(CALM, trying, 100.0 + 2 * HEARD)[0] == "", "never a third time"
    assert decide(CALM, trying, 100.0 + HEARD + LOST)[0] == "undelivered"


def test_a_line_left_in_the_box_by_a_killed_controller_is_entered_not_doubled() -> None:
    move, trying = decide(replace(CALM, box=LINE), IDLE, 100.0)
    assert move == ""
    assert decide(replace(CALM, box=LINE), trying, 100.5)[0] == "enter"


def test_failures_make_the_pauses_longer_and_success_forgets_them() -> None:
    _, one = decide(replace(CALM, box=None), Try(pasted=0.0), LOST)
    _, two = decide(replace(CALM, box=None), replace(one, pasted=200.0), 200.0 + LOST)
    assert two.failures == 2 and two.until - 200.0 > one.until
    assert decide(replace(CALM, state="working"), replace(two, pasted=900.0, entered=901.0), 902.0) == ("", IDLE)


def test_mail_that_stays_unread_though_the_agent_was_woken_wakes_it_more_and_more_rarely() -> None:
    sight, trying, now, pastes = replace(CALM, first="a.md"), IDLE, 100.0, []
    while now < 100.0 + 3600:  # every turn lasts 20 s and reads nothing
        move, trying = decide(sight, trying, now)
        if move == "paste":
            pastes.append(now)
            move, trying = decide(replace(sight, box=LINE), trying, now + 0.5)
            assert move == "enter"
            for second in range(1, 20):
                _, trying = decide(replace(sight, state="working"), trying, now + second)
            now += 20
        now += 0.5
    assert 4 <= len(pastes) <= 9
    _, trying = decide(sight, Try(over="a.md", heard=now, failures=2), now + 1)
    assert trying.failures == 2, "the hook may be at it still"
    assert decide(replace(sight, first="b.md"), trying, now + 2) == ("", IDLE), "it read one: nothing is wrong"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(STATES), st.integers(0, 2), st.sampled_from([None, "", LINE, f"x{LINE}", "a word", f"{LINE}{LINE}"]),
            st.one_of(st.none(), st.floats(0, 60)), st.booleans(), st.floats(0.1, 40),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_whatever_is_seen_enter_meets_only_our_line_in_an_idle_agents_box(
    seen: list[tuple[str, int, str | None, float | None, bool, float]],
) -> None:
    trying, now = IDLE, 0.0
    for state, unread, box, typed, in_mode, pause in seen:
        now += pause
        sight = Sight(state, unread, box, None, typed, in_mode)
        move, trying = decide(sight, trying, now)
        safe = state in ("idle", "waiting") and not in_mode and (typed is None or typed >= 10)
        if move == "enter":
            assert safe and box == LINE
        if move == "paste":
            assert safe and box == "" and unread
