"""The items of one Realtime session: what the model would remember, and what it costs to remember it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from offhook.gateway.rehearsal.model.realtime import wire
from offhook.gateway.rehearsal.model.realtime.wire import EventRefused

__all__ = ["Item", "Items"]

CALLER_TOKENS_PER_MS = 1 / 100
AGENT_TOKENS_PER_MS = 1 / 50
IMAGE_TOKENS = 765  # of 768 x 768 pixels in high detail, by the tiles of GPT-4o: Realtime's own figure is not published


@dataclass(slots=True)
class Item:
    """`length_ms` and `begins_ms`: of its audio, and of the audio of its response before it."""

    id: str
    kind: str
    role: str = ""
    status: str = "completed"
    text: str = ""
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str = ""
    response_id: str = ""
    length_ms: float = 0.0
    begins_ms: float = 0.0
    pictures: int = 0

    def shown(self, status: str = "") -> dict[str, Any]:
        """As it stands in an event; without audio, as the service shows it."""
        shown: dict[str, Any] = {"id": self.id, "object": "realtime.item", "type": self.kind}
        if self.kind == "function_call_output":
            return shown | {"call_id": self.call_id, "output": self.output}
        shown["status"] = status or self.status
        if self.kind == "function_call":
            return shown | {"call_id": self.call_id, "name": self.name, "arguments": self.arguments}
        content: list[dict[str, Any]] = []
        if self.role == "assistant" and self.response_id:
            content = [{"type": "output_audio", "transcript": self.text}] if self.text or self.length_ms else []
        elif self.pictures:
            content = [{"type": "input_image"}] * self.pictures
        elif self.length_ms:
            content = [{"type": "input_audio", "transcript": None}]
        else:
            content = [{"type": "output_text" if self.role == "assistant" else "input_text", "text": self.text}]
        return shown | {"role": self.role, "content": content}

    @property
    def tokens(self) -> tuple[float, float]:
        """(text, audio)"""
        rate = AGENT_TOKENS_PER_MS if self.role == "assistant" else CALLER_TOKENS_PER_MS
        return len(self.text + self.arguments + self.output) / 4, self.length_ms * rate


class Items:
    """Items in their order. `instructions_tokens` are billed with every response."""

    def __init__(self) -> None:
        self.id = f"conv_{secrets.token_hex(10)}"
        self._items: dict[str, Item] = {}
        self.instructions_tokens = 0.0
        self._seen = (0, 0)  # text and audio at the last response: what is cached now

    def new(self, kind: str, *, role: str = "", item_id: str = "") -> Item:
        """Raises `EventRefused` for an id that is taken."""
        if item_id in self._items:
            raise EventRefused("item_already_exists", f"Item with id '{item_id[:40]}' already exists.", "item.id")
        item = Item(item_id or f"item_{secrets.token_hex(10)}", kind, role)
        self._items[item.id] = item
        return item

    def find(self, item_id: Any) -> Item:
        """Raises `EventRefused`."""
        item = self._items.get(str(item_id))
        if item is None:
            raise EventRefused("item_not_found", f"Item with id '{str(item_id)[:40]}' does not exist.", "item_id")
        return item

    def delete(self, item: Item) -> None:
        del self._items[item.id]

    def call(self, call_id: Any) -> Item | None:
        """The function call with this id."""
        return next((i for i in self._items.values() if i.kind == "function_call" and i.call_id == call_id), None)

    def answered(self, call_id: Any) -> bool:
        return any(i.kind == "function_call_output" and i.call_id == call_id for i in self._items.values())

    def before(self, item: Item) -> str | None:
        """The id of the item before this one."""
        ids = list(self._items)
        at = ids.index(item.id)
        return ids[at - 1] if at else None

    def announce(self, item: Item, kind: str, send: Callable[[dict[str, Any]], None], status: str = "") -> None:
        send({"type": kind, "previous_item_id": self.before(item), "item": item.shown(status)})

    def truncate(self, event: Mapping[str, Any]) -> Item:
        """Cut an item's audio and drop its transcript. Raises `EventRefused` as the service does."""
        item = self.find(event.get("item_id"))
        end_ms = event.get("audio_end_ms")
        if item.role != "assistant" or not item.length_ms:
            raise EventRefused("unsupported_content_type", "Only model output audio messages can be truncated")
        if event.get("content_index") != 0 or not isinstance(end_ms, int) or end_ms < 0:
            raise EventRefused("invalid_value", "Invalid value for content_index or audio_end_ms.", "audio_end_ms")
        if end_ms > item.length_ms:
            text = f"Audio content of {item.length_ms:.0f}ms is already shorter than {end_ms}ms"
            raise EventRefused("invalid_value", text, "audio_end_ms")
        item.length_ms, item.text = float(end_ms), ""
        return item

    def usage(self, text_out: int, audio_out: int) -> dict[str, Any]:
        """What a response costs: the whole conversation again, most of it from the cache."""
        tokens = [item.tokens for item in self._items.values()]
        text = round(self.instructions_tokens + sum(t for t, _ in tokens))
        audio = round(sum(a for _, a in tokens))
        text_in, audio_in = max(0, text - text_out), max(0, audio - audio_out)
        cached = min(self._seen[0], text_in), min(self._seen[1], audio_in)
        self._seen = text_in, audio_in
        image_in = IMAGE_TOKENS * sum(item.pictures for item in self._items.values())
        return wire.usage(text_in, audio_in, image_in, cached, text_out, audio_out)
