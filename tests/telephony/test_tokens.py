"""One-time stream tokens."""

from __future__ import annotations

import base64

import pytest

from offhook.gateway.telephony.tokens import StreamTokens

CALL, OTHER = "CA" + "1" * 32, "CA" + "2" * 32


def test_a_token_opens_its_call_once():
    tokens = StreamTokens()
    token = tokens.mint(CALL, 10.0)
    assert tokens.claim(token, CALL, 11.0)
    assert not tokens.claim(token, CALL, 11.0)
    assert len(tokens) == 0


def test_a_token_is_long_fresh_and_fits_a_parameter():
    tokens = StreamTokens()
    many = {tokens.mint(f"CA{i}", 0.0) for i in range(1_000)}
    assert len(many) == 1_000
    for token in many:
        assert len(base64.urlsafe_b64decode(token + "=")) * 8 >= 128
        assert len(token) < 100


@pytest.mark.parametrize(("after_s", "claimed"), [(0.0, True), (59.9, True), (60.0, False), (3600.0, False)])
def test_it_lives_for_60_seconds(after_s, claimed):
    tokens = StreamTokens()
    assert tokens.claim(tokens.mint(CALL, 100.0), CALL, 100.0 + after_s) is claimed


def test_it_is_bound_to_its_call():
    tokens = StreamTokens()
    token, other = tokens.mint(CALL, 0.0), tokens.mint(OTHER, 0.0)
    assert not tokens.claim(token, OTHER, 1.0)
    assert not tokens.claim(token, "CA unknown", 1.0)
    assert tokens.claim(token, CALL, 1.0)  # the wrong attempts have not burnt it
    assert tokens.claim(other, OTHER, 1.0)


@pytest.mark.parametrize("wrong", ["", "x", "☎", "\ud800", "x" * 60_000])
def test_wrong_tokens(wrong):
    tokens = StreamTokens()
    token = tokens.mint(CALL, 0.0)
    for attempt in (wrong, token + wrong if wrong else "", token[:-1], token.swapcase()):
        assert not tokens.claim(attempt, CALL, 1.0)
    assert not tokens.claim("", OTHER, 1.0)  # nor an empty token for a call without one
    assert tokens.claim(token, CALL, 1.0)


def test_minted_again_it_is_the_same_and_lives_on():
    tokens = StreamTokens()
    token = tokens.mint(CALL, 0.0)
    assert tokens.mint(CALL, 50.0) == token
    assert tokens.claim(token, CALL, 100.0)
    assert tokens.mint(CALL, 101.0) != token


def test_memory_is_bounded_by_time_and_by_number():
    tokens = StreamTokens(max_tokens=100)
    first = [tokens.mint(f"CA{i}", 0.0) for i in range(150)]
    assert len(tokens) == 100
    assert not tokens.claim(first[49], "CA49", 1.0)  # the oldest had to go
    assert tokens.claim(first[50], "CA50", 1.0)
    tokens.mint(CALL, 60.0)
    assert len(tokens) == 1
