"""Scripts from plain mappings: the language of a scenario file, and its error messages."""

import dataclasses

import pytest

from offhook.gateway.rehearsal.model import script as model_script
from offhook.gateway.rehearsal.model.script import (
    Abort,
    CallTool,
    Close,
    EmptyTurn,
    Fault,
    Reply,
    Say,
    Script,
    ScriptError,
    Send,
    SendGoAway,
    SendInterrupted,
    Stall,
    Wait,
    script_from,
)
from offhook.gateway.yamlfile import parse_yaml


def test_a_whole_script(tmp_path):
    (tmp_path / "hello.wav").touch()
    text = """
    replies:
      - {on: text, say: "Hello, this is the clinic.", sound: hello.wav, delay_ms: 120, chunk_ms: [40, 0, 320]}
      - on: caller
        heard: [" I want", " a table"]
        heard_when: after
        min_speech_ms: 200
        do:
          - say: Let me see.
          - {tool: book, args: {party_size: 4}}
          - {tool: notify}
          - wait_ms: 50
      - {on: "tool:book", say: Done.}
      - {on: any, do: [empty_turn, interrupted]}
    default: {say: "Pardon?", heard: "(noise)"}
    faults:
      - {at_s: 4.5, stall_ms: 3000}
      - {at_s: 6, do: [{go_away: 5, then_close: false}, {send: {newThing: {}}}, {send: "{}"}, abort]}
      - {at_s: 9, close: 1011, reason: Internal error}
    refuse_resumes: [{code: 1011, reason: busy}, 1007]
    lifetime_s: 60
    end_of_life: {code: 1000, reason: The operation was cancelled.}
    """
    assert script_from(parse_yaml(text).value, tmp_path) == Script(
        replies=(
            Reply(
                "text",
                (Say("Hello, this is the clinic.", tmp_path / "hello.wav", delay_ms=120, chunk_ms=(40, 0, 320)),),
            ),
            Reply(
                "caller",
                (Say("Let me see."), CallTool("book", {"party_size": 4}), CallTool("notify"), Wait(50)),
                heard=(" I want", " a table"),
                heard_when="after",
                min_speech_ms=200,
            ),
            Reply("tool:book", (Say("Done."),)),
            Reply("any", (EmptyTurn(), SendInterrupted())),
        ),
        default=Reply("caller", (Say("Pardon?"),), heard=("(noise)",)),
        faults=(
            Fault(4.5, (Stall(3000),)),
            Fault(6, (SendGoAway(5, then_close=False), Send({"newThing": {}}), Send("{}"), Abort())),
            Fault(9, (Close(1011, "Internal error"),)),
        ),
        refuse_resumes=(Close(1011, "busy"), Close(1007, "")),
        lifetime_s=60,
        end_of_life=Close(1000, "The operation was cancelled."),
    )


def test_an_empty_script_is_a_script():
    assert script_from({}) == Script()


def test_every_action_can_be_written_in_a_file():
    named = {kind for kind, _ in model_script.ACTIONS.values()}
    assert named == set(model_script.Action.__args__)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ([], "model: is list; give a mapping"),
        ({"reply": []}, "model: unknown field 'reply'; did you mean replies? known are replies, default"),
        ({"replies": {}}, "model.replies: is dict; give a list"),
        ({"replies": ["say"]}, "model.replies[0]: is str; give a mapping"),
        ({"replies": [{"on": "caller"}]}, "model.replies[0]: no action; give do: [...] or one action"),
        ({"replies": [{"say": "x"}]}, "model.replies[0]: on is missing"),
        ({"replies": [{"on": "speech", "say": "x"}]}, "on is 'speech'; give start, resume, caller"),
        ({"replies": [{"on": "tool:", "say": "x"}]}, "on is 'tool:'; give"),
        ({"replies": [{"on": "any", "say": "x", "do": []}]}, "'say' beside do; put the action into do"),
        ({"replies": [{"on": "any", "say": "x", "wait_ms": 3}]}, "needs exactly one of say, tool"),
        ({"replies": [{"on": "any", "do": ["shout"]}]}, "replies[0].do[0]: needs exactly one of"),
        (
            {"replies": [{"on": "any", "say": "x", "delay": 3}]},
            "unknown field 'delay'; did you mean delay_ms? known are text, sound",
        ),
        ({"replies": [{"on": "any", "say": "x", "delay_ms": "long"}]}, "delay_ms: expected `float`, got `str`"),
        ({"replies": [{"on": "any", "say": "x", "speed": 0}]}, "speed is 0.0; give a number above 0"),
        ({"replies": [{"on": "any", "say": "x", "chunk_ms": [0]}]}, "chunk_ms needs lengths of 0 or more"),
        ({"replies": [{"on": "any", "say": "x", "sound": "no.wav"}]}, "no sound file at no.wav"),
        ({"replies": [{"on": "any", "say": "x", "transcript": "loud"}]}, "transcript: invalid enum value 'loud'"),
        ({"faults": [{"at_s": 1, "say": "x"}]}, "faults[0]: fault: Say is part of a reply"),
        ({"faults": [{"close": 1011}]}, "model.faults[0]: no at_s"),
        (
            {"replies": [{"on": "any", "say": "x", "sound": 7}]},
            "sound is int; give the path of a WAV file",
        ),
        ({"refuse": "no"}, "model.refuse: is str; give a mapping"),
        ({"lifetime_s": "long"}, "model.lifetime_s: expected `float`"),
    ],
)
def test_a_mistake_is_named_with_its_field(mapping, expected):
    with pytest.raises(ScriptError) as error:
        script_from(mapping)
    assert expected in str(error.value)


def test_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Say("x").text = "y"  # type: ignore[misc]
