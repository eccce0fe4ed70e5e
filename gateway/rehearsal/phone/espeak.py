"""espeak-ng from the package `espeakng-loader`, as a program with the options of `espeak-ng`.

    python espeak.py LIBRARY DATA -v VOICE -s WORDS_PER_MINUTE -p PITCH -w FILE --stdin

It is run as a file in a process of its own and imports nothing of Offhook: the library is GPL-3, Offhook is not.
Constants and signatures: espeak-ng's speak_lib.h.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import wave

__all__ = ["main", "speak"]

_RETRIEVAL = 1  # AUDIO_OUTPUT_RETRIEVAL: samples to the callback, no sound card
_DONT_EXIT = 0x8000
_RATE, _PITCH = 1, 3
_BY_CHARACTER, _UTF8 = 1, 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def speak(library: str, data: str, voice: str, words_per_minute: int, pitch: int, text: str) -> tuple[bytes, int]:
    """The text as 16-bit mono samples, and their rate in hertz. Raises `OSError`."""
    lib = ctypes.CDLL(library)
    rate_hz = lib.espeak_Initialize(_RETRIEVAL, 0, data.encode(), _DONT_EXIT)
    if rate_hz <= 0:
        raise OSError(f"no data of espeak-ng at {data}")
    if lib.espeak_SetVoiceByName(voice.encode()):
        raise OSError(f"espeak-ng has no voice {voice!r}")
    lib.espeak_SetParameter(_RATE, words_per_minute, 0)
    lib.espeak_SetParameter(_PITCH, pitch, 0)
    pcm = bytearray()

    def take(samples: int | None, count: int, events: int | None) -> int:
        if samples and count:
            pcm.extend(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _CALLBACK(take)  # kept while the library may call it
    lib.espeak_SetSynthCallback(callback)
    written = text.encode() + b"\0"
    if lib.espeak_Synth(written, ctypes.c_size_t(len(written)), 0, _BY_CHARACTER, 0, _UTF8, None, None):
        raise OSError("espeak-ng could not speak")
    lib.espeak_Synchronize()
    return bytes(pcm), rate_hz


def main() -> None:
    parser = argparse.ArgumentParser(description="espeak-ng from the package espeakng-loader")
    parser.add_argument("library")
    parser.add_argument("data")
    parser.add_argument("-v", dest="voice", required=True)
    parser.add_argument("-s", dest="words_per_minute", type=int, required=True)
    parser.add_argument("-p", dest="pitch", type=int, required=True)
    parser.add_argument("-w", dest="file", required=True)
    parser.add_argument("--stdin", action="store_true", required=True)
    given = parser.parse_args()
    text = sys.stdin.buffer.read().decode()
    pcm, rate_hz = speak(given.library, given.data, given.voice, given.words_per_minute, given.pitch, text)
    with wave.open(given.file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(pcm)


if __name__ == "__main__":
    main()
