// Listening in: both sides of a live call, half a second late, each with its level.

import { h, put } from "./dom.js";
import { act } from "./steer.js";

const RATE_HZ = 8000;
const FRAME = 160;  // codes: the caller's, then the agent's, in pairs
const START_S = 0.3;  // of the half second; what the network delays by less is not heard
const MOST_S = 1;  // queued: beyond it the oldest is skipped
const SIDES = ["caller", "agent"];
const ENDED = { 1000: "The call is over, or goes on in another process: then listen in again.", 1008: "The gateway refused: the call may be over. Try again." };

async function open(levels) {  // two loudspeakers, one for each side, with their meters
  const context = new AudioContext({ sampleRate: RATE_HZ });
  try {
    await context.audioWorklet.addModule("/console/static/worklet.js");
  } catch (error) {
    await context.close();
    throw new Error(`The browser's audio cannot be started (${error.name}).`);
  }
  const pans = [];
  const sides = SIDES.map((name, i) => {
    const options = { mulaw: true, startS: START_S, mostS: MOST_S };
    const speaker = new AudioWorkletNode(context, "loudspeaker", { numberOfInputs: 0, outputChannelCount: [1], processorOptions: options });
    const meter = new AnalyserNode(context, { fftSize: 1024 });
    const pan = new StereoPannerNode(context, { pan: i ? 1 : -1 });
    speaker.connect(meter).connect(pan).connect(context.destination);
    pans.push(pan);
    return { speaker, meter, samples: new Float32Array(meter.fftSize) };
  });
  const shown = setInterval(() => sides.forEach(({ meter, samples }, i) => {
    meter.getFloatTimeDomainData(samples);
    levels[i](samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0));
  }), 100);
  await context.resume();
  return {
    play(pairs) {
      const codes = new Uint8Array(pairs);
      const count = codes.length / (2 * FRAME);
      sides.forEach(({ speaker }, i) => {
        const mine = new Uint8Array(count * FRAME);
        for (let n = 0; n < count; n += 1) mine.set(codes.subarray((2 * n + i) * FRAME, (2 * n + i + 1) * FRAME), n * FRAME);
        speaker.port.postMessage({ codes: mine.buffer }, [mine.buffer]);
      });
    },
    apart: (is) => pans.forEach((pan, i) => { pan.pan.value = is ? (i ? 1 : -1) : 0; }),
    async close() {
      clearInterval(shown);
      levels.forEach((level) => level(0));
      if (context.state !== "closed") await context.close();
    },
  };
}

export function listenIn(callSid) {
  let sound = null;
  let socket = null;
  let stopped = false;  // by this page
  const outcome = h("p", { class: "quiet", role: "status" });
  const bars = SIDES.map(() => h("span", {}));
  const levels = bars.map((bar) => (level) => { bar.style.width = `${Math.min(100, Math.round(140 * Math.sqrt(level)))}%`; });
  const apart = h("input", { type: "checkbox", id: "listen-apart", checked: true, onchange: () => sound?.apart(apart.checked) });
  const button = h("button", { type: "button", "aria-pressed": "false", onclick: () => (socket || sound ? stop() : begin()) }, "Listen in");

  function show(on, text) {
    button.setAttribute("aria-pressed", String(on));
    put(button, on ? "Stop listening" : "Listen in");
    put(outcome, text);
  }

  async function close(text) {
    const [had, mine] = [sound, socket];
    sound = socket = null;
    show(false, text);
    if (mine) mine.close(1000);
    if (had) await had.close();
  }

  function stop() {
    stopped = true;
    close("");
  }

  async function begin() {
    stopped = false;
    show(true, "Connecting");
    try {
      sound = await open(levels);  // in the click: a browser starts no sound otherwise
      sound.apart(apart.checked);
      const { error, token } = await act(`/console/api/listen/${encodeURIComponent(callSid)}`, {});
      if (error) throw new Error(error);
      if (!stopped) connect(token);
    } catch (error) {
      await close(error.message);
    }
  }

  function connect(token) {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const mine = socket = new WebSocket(`${scheme}://${location.host}/console/listen/socket`);
    mine.binaryType = "arraybuffer";
    mine.addEventListener("open", () => {
      mine.send(JSON.stringify({ type: "start", token }));
      put(outcome, "You hear the call half a second late. Its record notes who listened, and when.");
    });
    mine.addEventListener("message", ({ data }) => {
      if (mine !== socket) return;
      if (typeof data !== "string") sound.play(data);
      else if (JSON.parse(data).type === "muted") put(outcome, JSON.parse(data).muted ? "Muted: the caller enters something secret." : "You hear the call again.");
    });
    mine.addEventListener("close", ({ code }) => {
      if (mine === socket) close(ENDED[code] || "The connection is lost. Listen in again.");
    });
  }

  const meters = SIDES.map((name, i) => h("div", { class: `level ${name}` }, h("span", {}, i ? "Agent" : "Caller"), h("div", { class: "meter", "aria-hidden": "true" }, bars[i])));
  return {
    element: h("section", { class: "listen act", "aria-label": "Listen in" }, button, meters,
      h("label", { for: "listen-apart" }, apart, "Caller left, agent right"), outcome),
    close: stop,
  };
}
