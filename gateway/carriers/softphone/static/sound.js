// The page's microphone and loudspeaker, and the socket between them and the gateway.

const RATES = { telephone: { up: 8000, down: 8000, mulaw: true }, wide: { up: 16000, down: 24000, mulaw: false } };
const WORKLET = "/console/static/worklet.js";
const BEHIND_S = 0.4;  // of unsent audio: older frames are dropped, a caller is not heard seconds later
const RUNNING_MS = 1500;

const REFUSALS = {
  NotAllowedError: "The microphone was refused. Allow it for this page in the browser's site settings, then call again.",
  NotFoundError: "No microphone was found. Connect one, then call again.",
  NotReadableError: "The microphone is in use by another program, or the system withholds it. Close the other program, then call again.",
};

export function unfit() {  // why this page cannot be a phone; "" when it can
  if (!window.isSecureContext) return "A browser gives its microphone to a secure page only: open the console over https, or as http://localhost on the gateway's own machine.";
  if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) return "This browser has no microphone access or no audio worklets: use a current Chromium, Firefox or Safari.";
  return "";
}

async function microphone() {
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
  } catch (error) {
    throw new Error(REFUSALS[error.name] || `The microphone cannot be used (${error.name}).`);
  }
}

// `on`: level(0 to 1), blocked(whether the browser holds the sound back), gone() (the microphone was unplugged); and for
// those who measure frame(peak) of each 20 ms from the microphone, playing(is) and silenced() of the loudspeaker.
export async function openSound(wide, on) {
  const rate = wide ? RATES.wide : RATES.telephone;
  const stream = await microphone();
  const up = new AudioContext({ sampleRate: rate.up, latencyHint: "interactive" });
  const down = new AudioContext({ sampleRate: rate.down, latencyHint: "interactive" });
  const contexts = [up, down];
  let socket = null;
  let other = null;  // a far end that is not the gateway: frame(codes)
  let mouth = null;
  let ear = null;

  async function close() {
    stream.getTracks().forEach((track) => track.stop());
    await Promise.all(contexts.filter((one) => one.state !== "closed").map((one) => one.close()));
  }

  async function resume() {
    const waiting = new Promise((resolve) => setTimeout(resolve, RUNNING_MS));
    await Promise.race([Promise.all(contexts.map((one) => one.resume())), waiting]);
    on.blocked(contexts.some((one) => one.state !== "running"));
  }

  function tellLatency() {
    ear.port.postMessage({ latency: Math.round((down.outputLatency || 0) * down.sampleRate) });
  }

  try {
    await Promise.all(contexts.map((one) => one.audioWorklet.addModule(WORKLET)));
    const processorOptions = { mulaw: rate.mulaw };
    mouth = new AudioWorkletNode(up, "microphone", { numberOfOutputs: 0, processorOptions });
    ear = new AudioWorkletNode(down, "loudspeaker", { numberOfInputs: 0, outputChannelCount: [1], processorOptions });
    up.createMediaStreamSource(stream).connect(mouth);
    ear.connect(down.destination);
  } catch (error) {
    await close();
    throw new Error(`The browser's audio cannot be started (${error.name}). Close other tabs that use sound, then call again.`);
  }
  stream.getAudioTracks()[0].addEventListener("ended", on.gone);
  for (const one of contexts) one.addEventListener("statechange", () => on.blocked(one.state !== "running" && one.state !== "closed"));
  const bytesPerS = rate.up * (rate.mulaw ? 1 : 2);
  mouth.port.onmessage = ({ data: { codes, peak, level } }) => {
    if (level !== undefined) {
      on.level(level);
      return;
    }
    if (on.frame) on.frame(peak);
    if (other) other.frame(codes);
    else if (socket?.readyState === WebSocket.OPEN && socket.bufferedAmount <= BEHIND_S * bytesPerS) socket.send(codes);
  };
  ear.port.onmessage = ({ data }) => {
    if (data.playing !== undefined) {
      if (on.playing) on.playing(data.playing);
      return;
    }
    if (on.silenced && data.type === "cleared") on.silenced();
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(data));
  };
  await resume();

  return {
    close,
    resume,
    use(farEnd) {
      other = farEnd;
      tellLatency();
    },
    play: (bytes) => ear.port.postMessage({ codes: bytes }, [bytes]),
    clear: () => ear.port.postMessage({ clear: true }),
    mute: (muted) => mouth.port.postMessage({ muted }),
    send: (message) => socket?.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message)),

    // One stream of the call; resolves when its socket has closed.
    carry: (callId, token, opened) => new Promise((resolve) => {
      const scheme = location.protocol === "https:" ? "wss" : "ws";
      const mine = new WebSocket(`${scheme}://${location.host}/console/talk/socket`);
      mine.addEventListener("open", () => {
        mine.send(JSON.stringify({ type: "start", call_id: callId, token }));
        tellLatency();
        socket = mine;
        opened(mine);
      });
      mine.addEventListener("message", ({ data }) => {
        if (mine !== socket) return;
        const { type, codes, name } = JSON.parse(data);
        if (type === "audio") {
          const bytes = Uint8Array.from(atob(codes), (one) => one.charCodeAt(0)).buffer;
          ear.port.postMessage({ codes: bytes }, [bytes]);
        } else if (type === "mark") ear.port.postMessage({ mark: name });
        else if (type === "clear") ear.port.postMessage({ clear: true });
      });
      mine.addEventListener("close", () => {
        if (mine === socket) socket = null;
        ear.port.postMessage({ clear: true });  // the gateway sends what was not heard again
        resolve();
      });
    }),
    hangUp() {
      if (socket?.readyState !== WebSocket.OPEN) return;
      socket.send(JSON.stringify({ type: "hang_up" }));
      socket.close(1000);
    },
  };
}
