"""What one step of the conversation machine costs, over the events of a recorded call with an interruption.

    python -m tests.bench.bench_machine

The call was placed through real sockets between the simulated carrier and the rehearsal model. The measure to
compare with is what making the event itself costs, in the same run.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from offhook.gateway.conversation import events
from offhook.gateway.conversation.machine import step
from offhook.gateway.conversation.state import Greets, Phase, Policy, State

CALL = Path(__file__).parents[1] / "conversation" / "recorded_call.json"
POLICY = Policy(greets=Greets.MODEL)
RUNS = 200
AIM_US = 5.0


def recorded() -> list[events.Event]:
    return [getattr(events, name)(*fields) for name, *fields in json.loads(CALL.read_text())]


def best_us(work: Callable[[], object], n: int) -> float:
    """Best of many, microseconds for each of n."""
    best_s = float("inf")
    for _ in range(RUNS):
        start_s = time.perf_counter()
        work()
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s / n * 1e6


def main() -> None:
    call = recorded()

    def play() -> int:
        state, said = State(), 0
        for event in call:
            state, commands = step(POLICY, state, event)
            said += len(commands)
        assert state.phase is Phase.ENDED
        return said

    step_us = best_us(play, len(call))
    making_us = best_us(recorded_again(), len(call))
    print(f"{len(call)} events, {play()} commands: {step_us:.2f} us a step (aim: {AIM_US:.0f})")
    print(f"making the event: {making_us:.2f} us; a step is {step_us / making_us:.1f} times that")
    spent: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for _ in range(RUNS):
        state = State()
        for event in call:
            start_s = time.perf_counter()
            state, _ = step(POLICY, state, event)
            kind = spent[type(event).__name__]
            kind[0] += 1
            kind[1] += time.perf_counter() - start_s
    for name, (times, seconds) in sorted(spent.items(), key=lambda item: -item[1][1]):
        print(f"  {name:<20} {times / RUNS:>4.0f} a call, {seconds / times * 1e6:5.2f} us (with the clock's own cost)")


def recorded_again() -> Callable[[], object]:
    made = [(getattr(events, name), fields) for name, *fields in json.loads(CALL.read_text())]
    return lambda: [kind(*fields) for kind, fields in made]


if __name__ == "__main__":
    main()
