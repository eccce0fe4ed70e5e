"""One-time stream tokens."""

from __future__ import annotations

import pytest

from offhook.gateway.telephony import tokens as module
from offhook.gateway.telephony.tokens import CLOCKS_APART_S, StreamTokens

CALL, OTHER = "CA" + "1" * 32, "CA" + "2" * 32


def test_a_token_opens_its_call_once():
    tokens = StreamTokens()
    token = tokens.mint(CALL, 10.0)
    assert tokens.claim(token, CALL, 11.0)
    assert not tokens.claim(token, CALL, 11.0)


def test_a_token_is_fresh_and_fits_a_parameter():
    tokens = StreamTokens(node="x" * 40)
    many = {tokens.mint(CALL, 0.0) for _ in range(1_000)}
    assert len(many) == 1_000
    assert max(map(len, many)) < 160
    assert all(token.isascii() and " " not in token for token in many)


@pytest.mark.parametrize(("after_s", "claimed"), [(0.0, True), (59.9, True), (60.0, False), (3600.0, False)])
def test_it_lives_for_60_seconds(after_s, claimed):
    tokens = StreamTokens()
    assert bool(tokens.claim(tokens.mint(CALL, 100.0), CALL, 100.0 + after_s)) is claimed


def test_it_is_bound_to_its_call():
    tokens = StreamTokens()
    token, other = tokens.mint(CALL, 0.0), tokens.mint(OTHER, 0.0)
    assert not tokens.claim(token, OTHER, 1.0)
    assert not tokens.claim(token, "CA unknown", 1.0)
    assert tokens.claim(token, CALL, 1.0)  # the wrong attempts have not burnt it
    assert tokens.claim(other, OTHER, 1.0)


@pytest.mark.parametrize("wrong", ["", "x", "☎", "\ud800", "x" * 60_000, "v1......", "v1.a.b.c.d.e.f"])
def test_wrong_tokens(wrong):
    tokens = StreamTokens()
    token = tokens.mint(CALL, 0.0)
    for attempt in (wrong, token + wrong if wrong else "", token[:-1], token.swapcase(), token.replace("v1", "v2")):
        assert not tokens.claim(attempt, CALL, 1.0)
    assert tokens.claim(token, CALL, 1.0)


def test_every_field_is_signed():
    tokens = StreamTokens(["key of the fleet"], "a")
    token = tokens.mint(CALL, 0.0, epoch=3)
    fields = token.split(".")
    for n in range(6):
        changed = [*fields[:n], fields[n] + "1", *fields[n + 1 :]]
        assert tokens.read(".".join(changed), CALL, 1.0) is None
        assert tokens.read(".".join(changed), CALL + "1", 1.0) is None
    assert (read := tokens.read(token, CALL, 1.0)) is not None
    assert (read.node, read.epoch) == ("a", 3)


def test_another_node_reads_it_with_the_fleets_key():
    a = StreamTokens(["new key", "old key"], "a", wall=lambda now_s: 1_000.0 + now_s)
    b = StreamTokens(["old key", "new key"], "b", wall=lambda now_s: 990.0 + now_s)
    token = a.mint(CALL, 0.0, epoch=7)
    assert (read := b.read(token, CALL, 0.0)) is not None
    assert (read.node, read.epoch) == ("a", 7)
    assert b.read(token, CALL, 70.0 + CLOCKS_APART_S - 0.1) is not None  # a node's clock may be wrong by this much
    assert b.read(token, CALL, 70.0 + CLOCKS_APART_S) is None
    assert StreamTokens(["another key"], "b").read(token, CALL, 0.0) is None
    assert StreamTokens().read(StreamTokens().mint(CALL, 0.0), CALL, 0.0) is None  # each process has a key of its own


def test_memory_is_bounded_by_time_and_by_number(monkeypatch):
    monkeypatch.setattr(module, "MAX_BURNT", 100)
    tokens = StreamTokens()
    for _ in range(150):
        assert tokens.claim(tokens.mint(CALL, 0.0), CALL, 0.0)
    assert len(tokens) == 100
    assert tokens.claim(tokens.mint(CALL, 500.0), CALL, 500.0)
    assert len(tokens) == 1
