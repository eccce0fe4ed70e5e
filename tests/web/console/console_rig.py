"""A real gateway with a console, simulated calls through it, and what a browser reports of its pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.app import Gateway
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, SayOver, Step, WaitForAgent, WaitForEnd
from tests.needs import require
from tests.rig.gateway import serving
from tests.rig.sounds import sound

if TYPE_CHECKING:
    from playwright.async_api import Page

__all__ = ["HOSTILE", "SHORT", "TALK", "Stage", "Watch", "faults", "staged"]

SERIOUS = ("serious", "critical")  # what axe-core says of a fault's impact
HOSTILE = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
NUMBER = "+15550142"

HELLO, WAIT, YES = (str(sound(part)) for part in ("hello_i_would", "oh_sorry", "yes_please"))
GREETING = Speak("Thank you for calling the Blue Door. How can I help you?", sound("agent_thank_you"))
LOOK = Speak(
    "Of course. Let me look for a table on Friday evening. We are nearly full that night, so please give me a moment "
    "while I go through the book.",
    sound("of_course"),
    delay_ms=420,
)
SATURDAY = Speak("Saturday for two is no problem. Shall I book it?", sound("saturday"), delay_ms=250)
GOODBYE = Speak("It is booked. Thank you for calling. Goodbye!", sound("it_is_booked"), delay_ms=380)

# A caller changes their mind over the agent's voice, a tool is asked, the agent hangs up after its goodbye.
TALK: tuple[Step, ...] = (
    WaitForAgent("end"),
    Say(HELLO),
    SayOver(WAIT, 2_600),
    WaitForAgent("end"),
    Pause(400),
    Say(YES),
    WaitForEnd(30_000),
)
SHORT: tuple[Step, ...] = (WaitForAgent("end"), Say(YES), WaitForAgent("end"), Say(YES), WaitForAgent("end"), HangUp())


def script(hostile: bool) -> Script:
    """What the model says; `hostile`: the caller's transcript holds markup."""
    first = ("Hello,", f" {HOSTILE} I would like a table." if hostile else " I would like a table for two on Friday.")
    return Script(
        (
            Reply("text", (GREETING,)),
            Reply("caller", (LOOK,), heard=first),
            Reply(
                "caller",
                (CallTool("find_table", {"day": "Saturday"}),),
                heard=("Oh, sorry, wait.", " Could we make it Saturday?"),
            ),
            Reply("tool:find_table", (SATURDAY,)),
            Reply("caller", (GOODBYE, CallTool("end_call")), heard=("Yes please,", " that is perfect. Thank you!")),
        )
    )


def short_script(nth: int) -> Script:
    """Two answers; no two calls wait for the model equally long."""
    first_ms, second_ms = 40 + 53 * nth % 250, 60 + 71 * nth % 300
    return Script(
        (
            Reply("text", (GREETING,)),
            Reply("caller", (replace(SATURDAY, delay_ms=first_ms),), heard=("Yes please.",)),
            Reply("caller", (replace(GOODBYE, delay_ms=second_ms),), heard=("Thank you!",)),
        )
    )


@dataclass
class Stage:
    """A gateway that serves; `call` makes a simulated call to it."""

    gateway: Gateway
    url: str

    def call(self, steps: tuple[Step, ...] = TALK, *, agent: int = 0, caller: str = "+15550187") -> SimulatedCall:
        return SimulatedCall(self.url, steps, caller=caller, dialled=f"{NUMBER}{agent}")


@asynccontextmanager
async def staged(
    environ: Mapping[str, str] | None = None, *, hostile: bool = False, recording: Path | None = None
) -> AsyncIterator[Stage]:
    """Agents 0 (receptionist: the whole talk) and 1 (waiting list: short ones). `recording`: agent 0's folder."""

    sessions = count()

    def script_for(setup: dict) -> Script:
        text = setup["systemInstruction"]["parts"][0]["text"]
        return short_script(next(sessions)) if "short" in text else script(hostile)

    agents = [
        parse_agent(
            f"name: receptionist\nnumbers: ['{NUMBER}0']\ninstructions: talk.\ngreeting: {{text: Greet.}}\n"
            "tools: [{builtin: end_call}, {function: 'tests.web.console.console_tools:find_table', name: find_table}]\n"
            + (f"recording: {{enabled: true, directory: {recording}}}\n" if recording else "")
        ),
        parse_agent(f"name: waiting list\nnumbers: ['{NUMBER}1']\ninstructions: short.\ngreeting: {{text: Greet.}}\n"),
    ]
    async with (
        ModelServer(script_for) as model,
        serving(agents, {"OFFHOOK_INSECURE": "1", **(environ or {})}, model=model) as (gateway, url),
    ):
        yield Stage(gateway, url)


@dataclass
class Watch:
    """What a page did that it should not."""

    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def page(self, page: Page, url: str) -> None:
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(url) else self.elsewhere.append(r.url))


async def faults(page: Any) -> list[str]:
    """What axe-core reports that makes the page inaccessible to some."""
    require("axe_playwright_python")
    if await page.evaluate("!window.axe"):
        await page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:120]} {v['nodes'][0].get('failureSummary', '')[:300]}"
        for v in found["violations"]
        if v["impact"] in SERIOUS
    ]
