"""The console: one page for whoever is on call, live, read only."""

from gateway.console.access import Access
from gateway.console.boards import Boards
from gateway.console.pages import Console
from gateway.console.views import LiveCall

__all__ = ["Access", "Boards", "Console", "LiveCall"]
