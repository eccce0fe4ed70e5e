"""The models of a scenario whose caller thinks: the caller's, the judge's, and without a key what stands in for both.

Keys are read from the environment alone. A model at a URL of the scenario's gets `REHEARSAL_CALLER_KEY`, never a key of
OpenAI's: a scenario file must not choose where that is sent.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import OperatorError
from offhook.gateway.models import Model, Prices
from offhook.gateway.models.pricing import cost, load_prices, price_of
from offhook.gateway.providers import model_for, provider_of, published_prices
from offhook.gateway.rehearsal.model.reached import model_environ
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.quick_clock import Clock
from offhook.gateway.rehearsal.results.report import CallReport
from offhook.gateway.rehearsal.results.thinking import Judgement, ThinkingReport
from offhook.gateway.rehearsal.scenario.load import Scenario
from offhook.gateway.rehearsal.scenario.thinking import Judge, ModelChoice, Thinker
from offhook.gateway.rehearsal.thinking.caller import ThinkingCaller
from offhook.gateway.rehearsal.thinking.judge import (
    SCHEMA,
    NotJudged,
    question,
    statements_from,
    transcript,
    verdicts,
)
from offhook.gateway.rehearsal.thinking.persona import TOOLS, caller_spec
from offhook.gateway.rehearsal.thinking.text_models import TEXT_PRICES, TextModel, text_model

__all__ = ["Party", "check_models", "party_for"]

CALLER_KEY = "REHEARSAL_CALLER_KEY"
NO_KEY = "none"  # servers of one's own often take any


@dataclass(slots=True)
class Party:
    """The caller's model and the judge of one scenario."""

    thinker: Thinker
    spec: Agent
    model: Model
    prices: Prices | None
    judge: Judge
    text: TextModel
    text_prices: Prices | None
    rehearsed: bool
    clock: Clock

    def caller(self) -> ThinkingCaller:
        """The caller of one call."""
        return ThinkingCaller(self.model, self.spec, self.thinker.limits, self.prices, self.clock)

    async def judged(self, caller: ThinkingCaller, truth: CallTruth, report: CallReport) -> None:
        """Enter what the caller did in the call's report, and the judge's verdicts."""
        said = ThinkingReport(
            persona=self.thinker.persona,
            goal=self.thinker.goal,
            model=self.model.name_of(self.spec),
            rehearsed=self.rehearsed,
            ended=caller.ended,
            why=caller.why,
            turns=caller.turns,
            cost_usd=caller.cost_usd,
            transcript=transcript(truth, report, caller.heard),
        )
        said.judgement = await self._judgement(said)
        report.thinking = said
        report.verdicts += verdicts(said)

    async def _judgement(self, said: ThinkingReport) -> Judgement:
        found = Judgement(model=self.text.name)
        statements = self.judge.statements
        try:
            if not any(line.who == "agent" for line in said.transcript):
                raise NotJudged("the agent was never heard")
            answer = await self.text.answer(question(said, statements), SCHEMA)
            if self.text_prices is not None:
                found.cost_usd = cost(answer.usage, self.text_prices)
            found.statements = statements_from(answer.text, statements)
        except NotJudged as why:
            found.problem = str(why)
        return found


def check_models(scenario: Scenario, *, real: bool) -> None:
    """Raises `OperatorError`: this scenario's caller cannot think as asked."""
    if scenario.thinker is not None and not real and scenario.thinker.script is None:
        raise OperatorError(
            f"{scenario.name}: its caller has no script: give --real, with a model's key, or add caller.script and "
            "judge.script for the rehearsal model"
        )


@asynccontextmanager
async def party_for(
    scenario: Scenario, *, real: bool, clock: Clock, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Party | None]:
    """The models, closed when the block is left; None for a caller with steps. Raises `OperatorError`.

    `real`: those that `environ` has keys for; else the rehearsal model plays the scenario's scripts.
    """
    thinker, judge = scenario.thinker, scenario.judge
    if thinker is None or judge is None:
        yield None
        return
    check_models(scenario, real=real)
    async with AsyncExitStack() as stack:
        spec = caller_spec(thinker, scenario.agent.language)
        provider = provider_of(spec)
        judging = judge.model.provider or ("openai" if judge.model.name.startswith("gpt-") else "gemini")
        if real:
            env = {name: _environment(choice, environ) for name, choice in _choices(thinker, judge)}
        else:
            assert thinker.script is not None
            server = ModelServer(thinker.script, text=judge.script, clock=clock)
            await stack.enter_async_context(server)
            env = dict.fromkeys(("caller", "judge"), model_environ(server))
        model = model_for(provider, env["caller"])
        stack.push_async_callback(model.close)
        theirs = ("model.name", "voice") if thinker.model.url else ()  # what a server of one's own has, is not known
        if problems := [problem for problem in model.check(spec, TOOLS) if problem.field not in theirs]:
            raise OperatorError(f"{scenario.name}: the caller's {'; '.join(map(str, problems))}")
        text = text_model(judging, judge.model.name, env["judge"])
        stack.push_async_callback(text.close)
        table = load_prices(environ.get("OFFHOOK_PRICES", ""), {**published_prices(), **TEXT_PRICES})
        prices = None if thinker.model.url else price_of(model.name_of(spec), table)
        if prices is None and not thinker.model.url:
            raise OperatorError(
                f"{scenario.name}: caller.limits.cost_usd cannot be kept, no price is known for {model.name_of(spec)}: "
                "add it to the file of OFFHOOK_PRICES"
            )
        text_prices = None if judge.model.url else price_of(text.name, table)
        yield Party(thinker, spec, model, prices, judge, text, text_prices, not real, clock)
        if not real:
            for failure in server.failures:
                raise failure


def _choices(thinker: Thinker, judge: Judge) -> tuple[tuple[str, ModelChoice], ...]:
    return ("caller", thinker.model), ("judge", judge.model)


def _environment(choice: ModelChoice, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment that a model's settings are read from."""
    if not choice.url:
        return environ
    kept = {name: value for name, value in environ.items() if not name.startswith("OPENAI_")}
    return kept | {"OPENAI_BASE_URL": choice.url, "OPENAI_API_KEY": environ.get(CALLER_KEY, "") or NO_KEY}
