// A page's audio, at the line's own rates: the phone's both ends, and what a listener hears. Codes are G.711 mu-law or PCM16, little-endian.

const BIAS = 132;  // ITU-T G.711: of the 16 bit scale
const CLIP = 32635;
const FADE = 32;  // samples of what a clear cuts off: no click
const START_S = 0.04;  // of audio before playback begins, or a mark behind less of it
const WAIT_S = 0.06;  // after which less is played all the same
const LEVEL_EVERY = 5;  // frames

function encoded(sample) {
  const sign = sample < 0 ? 0x80 : 0;
  const size = Math.min(Math.abs(sample), CLIP) + BIAS;
  const exponent = 24 - Math.clz32(size);
  return ~(sign | (exponent << 4) | ((size >> (exponent + 3)) & 0x0f)) & 0xff;
}

const DECODED = Float32Array.from({ length: 256 }, (_, code) => {
  const bits = ~code & 0xff;
  const size = (((bits & 0x0f) << 3) + BIAS << (bits >> 4 & 7)) - BIAS;
  return (bits & 0x80 ? -size : size) / 32768;
});

function decoded(codes, mulaw) {
  if (mulaw) return Float32Array.from(new Uint8Array(codes), (code) => DECODED[code]);
  return Float32Array.from(new Int16Array(codes), (sample) => sample / 32768);
}

// The microphone: a frame of 20 ms whenever one is full, silence while muted or without a source.
class Microphone extends AudioWorkletProcessor {
  constructor({ processorOptions: { mulaw } }) {
    super();
    this.mulaw = mulaw;
    this.frame = new Int16Array(sampleRate / 50);
    this.filled = this.frames = this.peak = this.framePeak = 0;
    this.muted = false;
    this.port.onmessage = ({ data }) => { this.muted = data.muted; };
  }

  process(inputs) {
    const samples = inputs[0][0];
    for (let i = 0; i < 128; i += 1) {
      const sample = samples && !this.muted ? Math.max(-1, Math.min(1, samples[i])) : 0;
      this.framePeak = Math.max(this.framePeak, Math.abs(sample));
      this.frame[this.filled] = Math.round(sample * 32767);
      this.filled += 1;
      if (this.filled === this.frame.length) this.send();
    }
    return true;
  }

  send() {
    this.filled = 0;
    const codes = this.mulaw ? Uint8Array.from(this.frame, encoded).buffer : this.frame.slice().buffer;
    this.port.postMessage({ codes, peak: this.framePeak }, [codes]);
    this.peak = Math.max(this.peak, this.framePeak);
    this.framePeak = 0;
    this.frames += 1;
    if (this.frames % LEVEL_EVERY === 0) {
      this.port.postMessage({ level: this.peak });
      this.peak = 0;
    }
  }
}

// The loudspeaker: the far end's queue of audio and marks. What was rendered is reported once it has left the device,
// `latency` samples later; the positions are those of the rendering thread, not of a clock beside it.
class Loudspeaker extends AudioWorkletProcessor {
  constructor({ processorOptions: { mulaw, startS = START_S, mostS = Infinity } }) {
    super();
    this.mulaw = mulaw;
    this.start = startS * sampleRate;
    this.most = mostS * sampleRate;
    this.queue = [];  // Float32Array, or the name of a mark
    this.at = 0;  // within the first array
    this.queued = 0;  // samples
    this.playing = false;
    this.sinceFrame = 0;  // when the queue began to fill
    this.fading = [];
    this.due = [];  // reports, by the frame in which they are due
    this.latency = 0;
    this.port.onmessage = ({ data }) => this.take(data);
  }

  take({ codes, mark, clear, latency }) {
    if (latency !== undefined) this.latency = latency;
    else if (clear) this.clear();
    else if (mark !== undefined) this.queue.push(mark);
    else {
      if (!this.queued) this.sinceFrame = currentFrame;
      const samples = decoded(codes, this.mulaw);
      this.queue.push(samples);
      this.queued += samples.length;
      if (this.queued > this.most) this.skip();
    }
  }

  skip() {  // a listener that fell behind: what is oldest is not heard
    while (this.queued > this.start && this.queue.length > 1) {
      this.queued -= this.queue.shift().length - this.at;
      this.at = 0;
    }
  }

  clear() {
    const [first] = this.queue;
    this.fading = this.playing && first instanceof Float32Array ? [...first.subarray(this.at, this.at + FADE)] : [];
    this.fading = this.fading.map((sample, i, all) => sample * (1 - (i + 1) / all.length));
    const dropped = this.queue.filter((item) => !(item instanceof Float32Array));
    this.queue = [];
    this.at = this.queued = 0;
    this.playing = false;
    for (const mark of dropped) this.port.postMessage({ type: "mark", name: mark });
    this.due.push({ frame: currentFrame + this.fading.length + this.latency, report: { type: "cleared" } });
  }

  starts() {
    if (this.playing) return true;
    const last = this.queue[this.queue.length - 1];
    const waited = currentFrame - this.sinceFrame >= this.start + (WAIT_S - START_S) * sampleRate;
    this.playing = last !== undefined && (this.queued >= this.start || waited || !(last instanceof Float32Array));
    return this.playing;
  }

  process(_, [[output]]) {
    let i = 0;
    while (this.fading.length && i < output.length) output[i++] = this.fading.shift();
    const played = this.playing;
    if (this.starts()) {
      if (!played && this.queued) this.due.push({ frame: currentFrame + i + this.latency, report: { playing: true } });
      this.play(output, i);
    }
    while (this.due.length && this.due[0].frame <= currentFrame + output.length) this.port.postMessage(this.due.shift().report);
    return true;
  }

  play(output, from) {
    let i = from;
    while (this.queue.length) {
      const first = this.queue[0];
      if (!(first instanceof Float32Array)) {
        this.due.push({ frame: currentFrame + i + this.latency, report: { type: "mark", name: this.queue.shift() } });
        continue;
      }
      if (i === output.length) return;
      const part = first.subarray(this.at, this.at + output.length - i);
      output.set(part, i);
      i += part.length;
      this.at += part.length;
      this.queued -= part.length;
      if (this.at === first.length) {
        this.queue.shift();
        this.at = 0;
      }
    }
    this.playing = false;
    this.due.push({ frame: currentFrame + i + this.latency, report: { playing: false } });
  }
}

registerProcessor("microphone", Microphone);
registerProcessor("loudspeaker", Loudspeaker);
