"""What Twilio's messages cost: reading a frame, building one, beside the standard library doing the same.

    python -m tests.bench.bench_twilio_messages

All figures are of this machine and this run; the ratios are what may be compared.
"""

import base64
import json
import os
import timeit
from collections.abc import Callable

from offhook.gateway.carriers.stream_line import parse_mark
from offhook.gateway.carriers.twilio.messages import TwilioEncoder, parse

N = 100_000
MZ = "MZ" + "18" * 16


def each_us(work: Callable[[], object]) -> float:
    """Best of five, microseconds each."""
    return min(timeit.repeat(work, number=N, repeat=5)) / N * 1e6


def main() -> None:
    frame = os.urandom(160)
    payload = base64.b64encode(frame).decode()
    media = {"track": "inbound", "chunk": "925", "timestamp": "18553", "payload": payload}
    text = json.dumps({"event": "media", "sequenceNumber": "926", "media": media, "streamSid": MZ})
    reply = os.urandom(1_600)  # 200 ms of model audio: one message
    out = TwilioEncoder(MZ)

    def json_parse() -> tuple[bytes, int]:
        message = json.loads(text)
        return base64.b64decode(message["media"]["payload"]), int(message["media"]["timestamp"])

    def json_media() -> str:
        body = {"payload": base64.b64encode(reply).decode()}
        return json.dumps({"event": "media", "streamSid": MZ, "media": body})

    parsed, by_json = each_us(lambda: parse(text)), each_us(json_parse)
    print(f"parse media        {parsed:6.2f} us   json + base64 {by_json:6.2f} us   ratio {by_json / parsed:4.1f}")
    built, by_json = each_us(lambda: out.media(reply)), each_us(json_media)
    print(f"build media 200 ms {built:6.2f} us   json + base64 {by_json:6.2f} us   ratio {by_json / built:4.1f}")
    print(f"build mark         {each_us(lambda: out.mark('r12.48000.3')):6.2f} us")
    print(f"parse_mark         {each_us(lambda: parse_mark('r12.48000.3')):6.2f} us")


if __name__ == "__main__":
    main()
