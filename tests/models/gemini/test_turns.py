"""Turn numbers: each story is a string of what the wire said, with the number each thing must get."""

import pytest

from offhook.gateway.models.gemini.turns import Turns, broke_off


def numbered(story: str) -> str:
    """c content, g generationComplete, i interrupted, t turnComplete, m turnComplete IN_PROGRESS, x lost.

    The link's own few lines; the answer is the generation of each, "-" for none.
    """
    turns, last, out = Turns(), 0, []

    def opened() -> int:
        nonlocal turns, last
        if not turns.open:
            last += 1
            turns = turns.begun(last)
        return turns.generation

    for said in story:
        if said in "cg":
            out.append(str(opened()))
        elif said == "i":
            turns = turns.interrupted()
            out.append(str(turns.generation or "-"))
        elif said in "tm":
            out.append(str(turns.generation if turns.excused else opened()))
            turns = turns.ended(more=said == "m")
        else:
            turns = turns.lost()
            out.append("-")
    return "".join(out)


@pytest.mark.parametrize(
    ("story", "numbers", "why"),
    [
        ("ccgt ccgt", "1111 2222", "one turn after another"),
        ("cci ct c", "111 11 2", "late audio behind interrupted is the old turn's"),
        ("cgt i c", "111 1 2", "interrupted after the end speaks of the last turn, and does not reopen it"),
        ("cgt it cgt", "111 11 222", "the turnComplete behind it is no empty turn"),
        ("it cgt", "-1 222", "interrupted before anything was said"),
        ("t t cgt", "1 2 333", "empty turns are turns"),
        ("gt cgt", "11 222", "generationComplete alone opens an empty turn"),
        ("cgm cgt", "111 222", "extended thinking: a second reply in one interaction"),
        ("cgm t cgt", "111 1 222", "its last turnComplete may be bare"),
        ("cgm i t c", "111 1 1 2", "interrupted between two replies of one interaction"),
        ("cc x cgt", "11 - 222", "a lost connection ends the turn"),
        ("cgm x t", "111 - 2", "and excuses nothing"),
        ("ci x c", "11 - 2", "nor does an interruption outlive it"),
    ],
)
def test_numbers(story, numbers, why):
    assert numbered(story.replace(" ", "")) == numbers.replace(" ", ""), why


def test_a_turn_begins_once_and_numbers_grow():
    turns = Turns().begun(3)
    with pytest.raises(ValueError):
        turns.begun(4)
    with pytest.raises(ValueError):
        turns.ended().begun(3)


@pytest.mark.parametrize(
    ("characters", "audio_s", "cut"),
    [
        (120, 1.0, True),
        (120, 7.5, False),  # 16 a second
        (120, 4.8, False),  # 25 a second: as fast as anybody
        (120, 0.0, False),  # an empty turn is another trouble
        (30, 0.2, False),  # too short to tell
        (0, 9.0, False),
    ],
)
def test_a_turn_with_more_words_than_audio_broke_off(characters, audio_s, cut):
    assert broke_off(characters, audio_s) is cut
