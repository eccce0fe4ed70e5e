"""The agent's audio: from the model's link through the playout to the line, and back what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from offhook.gateway.call.line import Line, ReplyMark, Span
from offhook.gateway.call.playout import Playout, fade_in
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.models import Speaker

__all__ = ["Speaking"]

FRAME_S = 0.02


class Speaking:
    """One call's voice. `line` is None while there is no stream; the machine sends nothing then."""

    def __init__(self, wiring: Wiring, sounds: Mapping[str, bytes], is_dead: Callable[[int], bool]) -> None:
        self._format, self._sounds, self._is_dead = wiring.facts.formats.takes, sounds, is_dead
        self._timeline, self._metrics = wiring.timeline, wiring.metrics
        self._clock, self._feed = wiring.clock, wiring.feed
        self.playout = Playout(self._format)
        self.line: Line | None = None
        self._dropped_to = 0  # replies up to this one must not be sent any more
        self.turns = 0  # the newest number given out

    # --- from the model (ModelSink)

    def next_turn(self) -> int:
        """The number of a new reply: unique in the call, growing."""
        self.turns += 1
        return self.turns

    def reply_audio(self, turn: int, codes: bytes) -> None:
        """Audio of a reply in the line's format, any length."""
        if self._is_dead(turn):
            self._metrics.frames_dropped_total.inc("stale_generation", by=len(codes) / self._format.frame_bytes)
            return
        samples, audible = self.playout.push(turn, codes)
        if samples:
            self._feed(e.ReplyAudio(self._clock(), turn, samples, audible))

    def finish(self, turn: int) -> None:
        """The reply is complete: what the last frame lacks is silence."""
        samples, audible = self.playout.finish(turn)
        if samples:
            self._feed(e.ReplyAudio(self._clock(), turn, samples, audible))

    def words(self, who: Speaker, turn: int | None, text: str, final: bool) -> None:
        """A piece of a transcript."""
        if who is Speaker.AGENT and turn is not None:
            self._timeline.reply_text(turn, text)
            return
        now_s = self._clock()
        self._timeline.caller_text(text, final, now_s)
        self._feed(e.CallerTranscribed(now_s))

    # --- the machine's commands

    def play(self, command: c.Play) -> None:
        """Send audio that is at hand."""
        codes = self.playout.span(command.generation, command.from_sample, command.to_sample)
        if isinstance(command, c.Replay):
            codes = fade_in(codes, self._format)
        if self.line is not None and codes:
            self.line.play(Span(command.generation, command.from_sample, command.to_sample), codes)

    def mark(self, command: c.SendMark) -> None:
        """Send a mark."""
        if self.line is not None:
            self.line.mark(ReplyMark(command.generation, command.sample, command.epoch))

    def clear(self, command: c.Clear) -> None:
        """Empty the line's queue."""
        if self.line is not None:
            self.line.clear(command.epoch)

    def drop(self, command: c.Drop) -> None:
        """The reply is dead, and so is whatever of it still arrives."""
        self.playout.drop(command.generation)
        self._dropped_to = max(self._dropped_to, command.generation)

    def play_sound(self, name: str, kind: str) -> None:
        """A sound file as a reply of its own; `kind`: "sound" or "filler"."""
        turn, now_s = self.next_turn(), self._clock()
        self._timeline.sound_reply(turn, kind)
        samples, audible = self.playout.push_sound(turn, self._sounds.get(name, b""))
        if samples:
            self._feed(e.ReplyAudio(now_s, turn, samples, audible, filler=kind == "filler"))
        self._feed(e.ReplyComplete(now_s, turn))

    def sound_again(self, turn: int, name: str) -> int:
        """The sound of a reply that was cut when the call moved, at hand again: its samples."""
        self._timeline.sound_reply(turn, "sound")
        samples, _ = self.playout.push_sound(turn, self._sounds.get(name, b""))
        return samples

    async def close(self) -> None:
        """Close the line, where there is one; one that fails to close is aborted."""
        if (line := self.line) is not None:
            try:
                await line.close()
            except BaseException:
                line.abort()
                raise

    # --- from the line (LineSink)

    def sent(self, span: Span) -> None:
        """This audio was handed to the socket."""
        samples = span.to_sample - span.from_sample
        seconds = samples / self._format.rate_hz
        record = self._timeline.record
        record.audio_out_ms += seconds * 1000
        self._metrics.frames_out.inc(seconds / FRAME_S)
        self._timeline.sent(span, self._clock())
        if span.generation <= self._dropped_to:
            record.samples_after_clear += samples
            self._metrics.samples_after_clear_total.inc(samples)

    def clear_sent(self, epoch: int) -> None:
        """This clear was handed to the socket."""
        self._timeline.clear_sent(self._clock())
