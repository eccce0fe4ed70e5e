"""Pipecat as a gateway for phone calls: the pipeline that its own generator makes for Gemini Live and Twilio.

Runs in an environment of its own, with `pipecat-ai[google,silero,websocket]` and nothing of this project. The model's
address is GOOGLE_GEMINI_BASE_URL. POST / answers the voice webhook, /ws is the media socket; tools are those of the
scenario `tool`.

    python pipecat_bot.py
"""

import os
import socket
import sys

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from google.genai.types import HttpOptions
from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.services.google.gemini_live.llm import GeminiLiveLLMService
from pipecat.services.llm_service import FunctionCallParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

app = FastAPI()


async def find_table(params: FunctionCallParams, day: str, people: int):
    """Find a free table.

    Args:
        day: The day of the week.
        people: How many people come.
    """
    await params.result_callback({"table": "by the window", "at": "19:30"})


@app.post("/")
async def voice(request: Request) -> Response:
    socket_url = f"ws://{request.headers['host']}/ws"
    twiml = f'<?xml version="1.0"?><Response><Connect><Stream url="{socket_url}"/></Connect></Response>'
    return Response(twiml, media_type="text/xml")


@app.websocket("/ws")
async def media(websocket: WebSocket) -> None:
    await websocket.accept()
    _, call = await parse_telephony_websocket(websocket)
    params = TwilioFrameSerializer.InputParams(auto_hang_up=False)  # there is no account
    serializer = TwilioFrameSerializer(stream_sid=call["stream_id"], call_sid=call["call_id"], params=params)
    transport = FastAPIWebsocketTransport(
        websocket=websocket,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True, audio_out_enabled=True, add_wav_header=False, serializer=serializer
        ),
    )
    llm = GeminiLiveLLMService(
        api_key="rehearsal",
        settings=GeminiLiveLLMService.Settings(voice="Puck", system_instruction="You take reservations."),
        http_options=HttpOptions(base_url=os.environ["GOOGLE_GEMINI_BASE_URL"]),
        tools=[find_table],
    )
    context = LLMContext([{"role": "user", "content": "Greet the caller."}])
    user, assistant = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), user, llm, transport.output(), assistant]),
        params=PipelineParams(
            audio_in_sample_rate=8000, audio_out_sample_rate=8000, enable_metrics=True, enable_usage_metrics=True
        ),
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)

    @transport.event_handler("on_client_connected")
    async def connected(transport: object, client: object) -> None:
        await worker.queue_frames([LLMRunFrame()])

    @transport.event_handler("on_client_disconnected")
    async def disconnected(transport: object, client: object) -> None:
        await worker.cancel()

    await runner.run()


async def main() -> None:
    logger.remove()
    logger.add(sys.stderr, level=os.environ.get("LOG_LEVEL", "WARNING"))
    listening = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "0"))), backlog=512)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", loop="uvloop"))
    print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    await server.serve(sockets=[listening])


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
