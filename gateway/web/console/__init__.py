"""The console: one live, read-only page for the operator."""

from offhook.gateway.web.access import Access
from offhook.gateway.web.console.boards import Boards
from offhook.gateway.web.console.listen_in import ListenIn
from offhook.gateway.web.console.pages import Console
from offhook.gateway.web.console.steering import OperatorActions
from offhook.gateway.web.console.views import LiveCall

__all__ = ["Access", "Boards", "Console", "ListenIn", "LiveCall", "OperatorActions"]
