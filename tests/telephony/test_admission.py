"""Who may enter: read as the story of calls."""

from __future__ import annotations

import pytest

from offhook.gateway.agent.spec import Agent, Fallback
from offhook.gateway.errors import OperatorError
from offhook.gateway.telephony import admission as module
from offhook.gateway.telephony.admission import Admission, Admitted, Refusal, Refused

SHOP = Agent(name="shop", numbers=("+1 (555) 000-1111",), fallback=Fallback(say="The shop is busy."))
DESK = Agent(name="desk", fallback=Fallback(say="", dial="+15559990000"))
SHOP_NUMBER, OTHER_NUMBER = "+15550001111", "+15552223333"


def entered(decision: Admitted | Refused) -> Admitted:
    assert isinstance(decision, Admitted)
    return decision


def refused(decision: Admitted | Refused) -> Refusal:
    assert isinstance(decision, Refused)
    return decision.reason


def test_a_call_from_ring_to_end():
    door = Admission([DESK], max_calls=5)
    ring = entered(door.ring("CA1", OTHER_NUMBER, 0.0))
    assert (ring.agent, ring.repeated, door.calls) == (DESK, False, 1)
    assert door.start("CA1", ring.token, 1.0) == DESK
    assert door.calls == 1
    door.end("CA1")
    door.end("CA1")
    assert door.calls == 0


# --- the agent


def test_the_agent_is_chosen_by_the_dialled_number():
    door = Admission([DESK, SHOP], max_calls=5)
    assert entered(door.ring("CA1", SHOP_NUMBER, 0.0)).agent == SHOP
    assert entered(door.ring("CA2", OTHER_NUMBER, 0.0)).agent == DESK
    assert entered(door.ring("CA3", "", 0.0)).agent == DESK
    assert entered(door.ring("CA4", f"sip:{SHOP_NUMBER}@pbx.example.com", 0.0)).agent == SHOP


def test_a_number_nobody_answers():
    door = Admission([SHOP], max_calls=5)
    decision = door.ring("CA1", OTHER_NUMBER, 0.0)
    assert decision == Refused(Refusal.NO_AGENT, Fallback())
    assert door.calls == 0


def test_a_call_we_place_names_its_agent():
    door = Admission([SHOP], max_calls=5)
    assert entered(door.ring("CA1", OTHER_NUMBER, 0.0, agent=DESK)).agent == DESK


@pytest.mark.parametrize(
    ("agents", "words"),
    [
        ([SHOP, Agent(name="twin", numbers=("+15550001111",))], "'shop' and 'twin' both name"),
        ([DESK, Agent(name="twin")], "'desk' and 'twin' both take any number"),
    ],
)
def test_agents_that_contradict_each_other(agents, words):
    with pytest.raises(OperatorError, match=words):
        Admission(agents, max_calls=5)


def test_a_sip_user_is_told_apart_by_host_first():
    desk_a = Agent(name="a", numbers=("sip:200@a.example",))
    desk_b = Agent(name="b", numbers=("sip:200@b.example", "+15550002222"))
    short = Agent(name="short", numbers=("200",))
    door = Admission([desk_a, desk_b, short], max_calls=9)
    assert door.agent_for("sip:200@A.example:5060;transport=tls") is desk_a
    assert door.agent_for("sip:200@b.example") is desk_b
    assert door.agent_for("sip:200@c.example") is short
    assert door.agent_for("whatsapp:+15550002222") is desk_b
    assert door.agent_for("anonymous") is None


# --- refusals


def test_the_limit_counts_ringing_and_live_calls():
    door = Admission([DESK], max_calls=2)
    ring = entered(door.ring("CA1", "", 0.0))
    door.start("CA1", ring.token, 1.0)
    entered(door.ring("CA2", "", 1.0))
    assert door.ring("CA3", "", 1.0) == Refused(Refusal.AT_LIMIT, DESK.fallback)
    door.end("CA1")
    entered(door.ring("CA3", "", 2.0))


def test_draining_refuses_only_new_calls():
    door = Admission([DESK], max_calls=5)
    ring = entered(door.ring("CA1", "", 0.0))
    door.draining = True
    assert door.ring("CA2", "", 1.0) == Refused(Refusal.DRAINING, DESK.fallback)
    assert entered(door.ring("CA1", "", 1.0)).token == ring.token
    assert door.start("CA1", ring.token, 2.0) == DESK
    again = door.again("CA1", 3.0)
    assert again is not None
    assert door.start("CA1", again.token, 4.0) == DESK


def test_no_room_at_all():
    assert refused(Admission([DESK], max_calls=0).ring("CA1", "", 0.0)) == Refusal.AT_LIMIT


# --- repeats


def test_a_repeated_webhook_makes_one_call():
    door = Admission([DESK], max_calls=1)
    first = entered(door.ring("CA1", "", 0.0))
    for at_s in (0.0, 1.0, 15.0):
        repeat = entered(door.ring("CA1", "", at_s))
        assert (repeat.agent, repeat.token, repeat.repeated) == (first.agent, first.token, True)
    assert door.calls == 1
    assert door.start("CA1", first.token, 16.0) == DESK
    # Asked even now, the same document, whose token opens nothing any more: one stream.
    assert entered(door.ring("CA1", "", 17.0)).token == first.token
    assert door.start("CA1", first.token, 18.0) is None


def test_replayed_webhook_of_ended_call():
    door = Admission([DESK], max_calls=5)
    entered(door.ring("CA1", "", 0.0))
    door.end("CA1")
    assert refused(door.ring("CA1", "", 10_000.0)) == Refusal.ENDED
    assert door.calls == 0


def test_an_end_told_before_the_ring():
    """Status callbacks and webhooks may arrive in any order."""
    door = Admission([DESK], max_calls=5)
    door.end("CA1")
    assert refused(door.ring("CA1", "", 1.0)) == Refusal.ENDED


def test_ended_calls_are_forgotten_oldest_first(monkeypatch):
    monkeypatch.setattr(module, "MAX_ENDED", 3)
    door = Admission([DESK], max_calls=5)
    for sid in ("CA1", "CA2", "CA3", "CA3"):  # told twice, it pushes nobody out
        door.end(sid)
    assert refused(door.ring("CA1", "", 0.0)) == Refusal.ENDED
    for sid in ("CA1", "CA4"):  # CA1 was told again: CA2 is the oldest
        door.end(sid)
    entered(door.ring("CA2", "", 0.0))
    for sid in ("CA1", "CA3", "CA4"):
        assert refused(door.ring(sid, "", 0.0)) == Refusal.ENDED


# --- streams


def test_only_the_call_s_own_token_starts_it():
    door = Admission([DESK], max_calls=5)
    one, two = entered(door.ring("CA1", "", 0.0)), entered(door.ring("CA2", "", 0.0))
    assert door.start("CA1", two.token, 1.0) is None
    assert door.start("CA1", "", 1.0) is None
    assert door.start("CA9", one.token, 1.0) is None
    assert door.start("CA1", one.token, 1.0) == DESK


def test_token_is_void_after_call_and_time():
    door = Admission([DESK], max_calls=5)
    ring = entered(door.ring("CA1", "", 0.0))
    door.end("CA1")
    assert door.start("CA1", ring.token, 1.0) is None
    late = entered(door.ring("CA2", "", 0.0))
    assert door.start("CA2", late.token, 60.0) is None


def test_connecting_again():
    door = Admission([DESK], max_calls=1)
    ring = entered(door.ring("CA1", "", 0.0))
    ringing = door.again("CA1", 0.5)  # its first stream's handshake failed: the unused token stands
    assert ringing is not None
    assert ringing.token == ring.token
    door.start("CA1", ring.token, 1.0)
    again = door.again("CA1", 100.0)
    assert again is not None
    assert again.token != ring.token
    assert door.again("CA1", 101.0) == again  # asked twice, one document
    assert door.calls == 1
    assert door.start("CA1", again.token, 102.0) == DESK
    door.end("CA1")
    assert door.again("CA1", 103.0) is None


def test_a_stream_that_never_came_gives_its_place_back():
    door = Admission([DESK], max_calls=2)
    entered(door.ring("CA1", "", 0.0))
    live = entered(door.ring("CA2", "", 0.0))
    door.start("CA2", live.token, 5.0)
    assert door.given_up(59.9) == []
    assert door.given_up(60.0) == ["CA1"]
    assert door.given_up(61.0) == []
    assert door.calls == 1
    assert door.given_up(1e6) == []  # a live call is not given up
    door.again("CA2", 2e6)
    assert door.given_up(2e6 + 59.9) == []
    assert door.given_up(2e6 + 60.0) == ["CA2"]  # unless it is awaited again, in vain
    assert door.calls == 0


def test_a_token_is_not_shown():
    ring = entered(Admission([DESK], max_calls=1).ring("CA1", "", 0.0))
    assert ring.token not in repr(ring) + str(ring)
