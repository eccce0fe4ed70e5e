"""Gemini's messages as JSON, each with the values that the parser makes of it."""

from __future__ import annotations

import base64

from offhook.gateway.models.gemini import messages as wire

__all__ = ["AUDIO", "CASES", "PCM", "content"]

PCM = bytes(range(256)) * 3
AUDIO = {"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": base64.b64encode(PCM).decode()}}


def content(**keys: object) -> dict[str, object]:
    return {"serverContent": keys}


CASES = {
    "setup": ({"setupComplete": {}}, [wire.SetupComplete()]),
    "setup with an id": ({"setupComplete": {"sessionId": "s"}}, [wire.SetupComplete()]),
    "audio": (content(modelTurn={"role": "model", "parts": [AUDIO]}), [wire.Audio(PCM)]),
    "audio without a type": (
        content(modelTurn={"parts": [{"inlineData": {"data": AUDIO["inlineData"]["data"]}}]}),
        [wire.Audio(PCM)],
    ),
    "two parts": (content(modelTurn={"parts": [AUDIO, AUDIO]}), [wire.Audio(PCM), wire.Audio(PCM)]),
    "empty audio": (content(modelTurn={"parts": [{"inlineData": {"data": ""}}]}), []),
    "thought": (content(modelTurn={"parts": [{"text": "hm", "thought": True}]}), [wire.OtherPart(thought=True)]),
    "code": (content(modelTurn={"parts": [{"executableCode": {}}]}), [wire.OtherPart(thought=False)]),
    "audio and transcript in one frame": (
        content(outputTranscription={"text": " Hello"}, modelTurn={"parts": [AUDIO]}),
        [wire.ModelText(" Hello"), wire.Audio(PCM)],
    ),
    "caller": (content(inputTranscription={"text": " hi"}), [wire.CallerText(" hi", False)]),
    "caller, finished": (content(inputTranscription={"finished": True}), [wire.CallerText("", True)]),
    "complete": (content(generationComplete=True), [wire.GenerationComplete()]),
    "interrupted": (content(interrupted=True), [wire.Interrupted()]),
    "false is nothing": (content(interrupted=False, turnComplete=False), []),
    "turn": (content(turnComplete=True), [wire.TurnEnd(more=False, reason="")]),
    "turn goes on": (
        content(turnComplete=True, interactionStatus="IN_PROGRESS"),
        [wire.TurnEnd(more=True, reason="")],
    ),
    "turn, idle by its old name": (
        content(turnComplete=True, interactionStatus="REQUIRES_ACTION"),
        [wire.TurnEnd(more=False, reason="")],
    ),
    "turn with a reason": (
        content(turnComplete=True, turnCompleteReason="MALFORMED_FUNCTION_CALL"),
        [wire.TurnEnd(more=False, reason="MALFORMED_FUNCTION_CALL")],
    ),
    "call": (
        {"toolCall": {"functionCalls": [{"id": "1", "name": "f", "args": {"x": 1}}, {"name": "g"}]}},
        [wire.FunctionCall("1", "f", {"x": 1}), wire.FunctionCall("", "g", {})],
    ),
    "withdrawn": ({"toolCallCancellation": {"ids": ["1", "2"]}}, [wire.CallsCancelled(("1", "2"))]),
    "going": ({"goAway": {"timeLeft": "50s"}}, [wire.ClosingSoon(50.0)]),
    "going, fraction": ({"goAway": {"timeLeft": "9.5s"}}, [wire.ClosingSoon(9.5)]),
    "handle": ({"sessionResumptionUpdate": {"newHandle": "h", "resumable": True}}, [wire.Handle("h", True)]),
    "no handle": ({"sessionResumptionUpdate": {"resumable": False}}, [wire.Handle("", False)]),
    "handle not to be used": (
        {"sessionResumptionUpdate": {"newHandle": "h", "resumable": False}},
        [wire.Handle("", False)],
    ),
    "usage": (
        {
            "usageMetadata": {
                "promptTokenCount": 7,
                "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 5}, {"modality": "TEXT", "tokenCount": 2}],
            }
        },
        [
            wire.TokenCounts(
                {"promptTokenCount": 7, "promptTokensDetails.AUDIO": 5, "promptTokensDetails.TEXT": 2},
            )
        ],
    ),
    "usage by Vertex's names": (
        {
            "usageMetadata": {
                "candidatesTokenCount": 3,
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}],
            }
        },
        [wire.TokenCounts({"responseTokenCount": 3, "responseTokensDetails.AUDIO": 3})],
    ),
    "nothing": ({}, []),
    "a new message": ({"brandNew": {"x": 1}}, [wire.Skipped("brandNew", unknown=True)]),
    "a new field": (
        content(turnComplete=True, brandNew=1),
        [wire.Skipped("serverContent.brandNew", unknown=True), wire.TurnEnd(more=False, reason="")],
    ),
}
