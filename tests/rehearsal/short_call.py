"""The shortest scenario in which both sides speak, shared by several modules."""

from __future__ import annotations

__all__ = ["SHORT"]

SHORT = """\
name: short
agent:
  name: anna
  greeting: {text: Hello}
caller:
  steps:
    - wait_for_agent: end
    - say: Uh-huh.
    - wait_for_agent: end
    - hang_up
model:
  replies:
    - {on: text, say: Hello, length_ms: 600, delay_ms: 50}
    - {on: caller, say: Well, length_ms: 600, delay_ms: 50}
expect:
  answered_within_ms: 2500
  end_reason: caller_hung_up
  no_gap: true
"""
