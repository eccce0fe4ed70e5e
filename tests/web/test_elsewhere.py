"""A request for a call whose process does not answer, by the API and from the console."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from offhook.gateway.elsewhere import Elsewhere
from offhook.gateway.live import CallStage


class Dead:
    """A fleet whose other node has the call and does not answer; `moves` that bring the call here, if `can`."""

    def __init__(self, can: bool) -> None:
        self.nodes, self.peers, self.can = {"b": None}, self, can
        self.ended: list[tuple[str, str]] = []

    async def holder(self, call_id: str) -> Any:
        return SimpleNamespace(owner="b", stage=CallStage.LIVE)

    async def request(self, *arguments: Any, **more: Any) -> None:
        return None

    async def hang_up_of_dead(self, call_id: str, owner: str) -> bool:
        self.ended.append((call_id, owner))
        return self.can


@pytest.mark.parametrize("can", [True, False])
@pytest.mark.parametrize("action", ["hang_up", "hold"])
@pytest.mark.parametrize("named", ["id", "sid"])
async def test_call_of_a_dead_node_is_hung_up(named: str, action: str, can: bool) -> None:
    fleet: Any = Dead(can)
    others = Elsewhere(fleet, fleet, "a", "token", None)
    request = make_mocked_request("POST", f"/calls/C1/{action}", match_info={named: "C1"})
    passed = await (others.of_api(request, b"{}") if named == "id" else others.of_operator(request, {}))
    assert fleet.ended == ([("C1", "b")] if action == "hang_up" else [])
    assert passed is not None
    assert passed.status == (200 if action == "hang_up" and can else 409)
