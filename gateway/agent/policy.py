"""An agent file's settings as the conversation machine, the detector and the call take them."""

from __future__ import annotations

from offhook.gateway.agent.spec import LOCAL_END_SILENCE_MS, LOCAL_PRE_ROLL_MS, Agent
from offhook.gateway.conversation.state import Greets, Mode, Policy
from offhook.gateway.errors import OperatorError
from offhook.media.vad import EnergyDetector, SileroDetector, SpeechDetector

__all__ = ["detector_of", "policy_of", "pre_roll_s"]


def policy_of(agent: Agent) -> Policy:
    """An agent file's settings as the conversation machine takes them."""
    greeting, turns = agent.greeting, agent.turn_detection
    end_silence_ms = LOCAL_END_SILENCE_MS if turns.end_silence_ms is None else turns.end_silence_ms
    return Policy(
        mode=Mode(agent.barge_in.mode),
        min_barge_in_s=agent.barge_in.min_barge_in_ms / 1000,
        verdict_timeout_s=agent.barge_in.verdict_timeout_ms / 1000,
        dtmf_barge_in=agent.barge_in.dtmf,
        local_turns=turns.mode == "local",
        end_silence_s=end_silence_ms / 1000,
        greets=Greets.SOUND if greeting.sound else Greets.MODEL if greeting.text else Greets.NOBODY,
        greeting_protected=greeting.protected,
        report_heard=agent.repair.mode != "none",
        idle_prompt_s=agent.idle.prompt_after_s,
        idle_goodbye_s=agent.idle.goodbye_after_s,
        call_limit_s=agent.limits.call_s,
        warning_s=agent.limits.warning_s,
        silent_after_s=agent.model.silent_after_ms / 1000,
        connect_timeout_s=agent.model.setup_timeout_s + 2,
    )


def pre_roll_s(agent: Agent) -> float:
    """Seconds of caller audio from before the onset that a local turn sends to the model."""
    pre_roll_ms = agent.turn_detection.pre_roll_ms
    return (LOCAL_PRE_ROLL_MS if pre_roll_ms is None else pre_roll_ms) / 1000


def detector_of(agent: Agent) -> SpeechDetector:
    """The agent's speech detector, for one call. Raises `OperatorError` when it is not installed."""
    detector = SileroDetector if agent.barge_in.detector == "silero" else EnergyDetector
    try:
        return detector(min_speech_ms=agent.barge_in.min_speech_ms)
    except RuntimeError as error:
        raise OperatorError(str(error)) from None
