"""The softphone: a page of the console on which an operator talks to an agent, over a WebSocket of our own."""

from offhook.gateway.carriers.softphone.calls import Softphones

__all__ = ["Softphones"]
