// What a person at this page waits for, measured at its microphone and its loudspeaker: the same for both ways.

const LOUD = 0.02;  // of full scale: a peak of 20 ms below it is no speech
const ABOVE_NOISE = 4;
const ONSET_FRAMES = 3;  // of 20 ms: shorter sounds are clicks
const OFFSET_FRAMES = 20;
const FRAME_MS = 20;
const LONGEST_MS = 15_000;

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// `gaps`: from the last loud frame of the caller's turn to the first sound of the answer at the loudspeaker.
// `stops`: from the first loud frame of an interruption to a loudspeaker that was cut and is silent. Milliseconds.
export class Measure {
  constructor() {
    this.gaps = [];
    this.stops = [];
    this.begin();
  }

  begin() {  // a conversation: nothing of the last one is waited for
    this.noise = 1;
    this.loud = this.quiet = 0;
    this.speaking = this.asked = this.sounding = false;
    this.onsetMs = this.lastLoudMs = 0;
    this.over = null;  // the onset of an interruption
  }

  frame(peak, atMs) {
    this.noise = Math.min(peak, this.noise) * 1.01 + 1e-6;  // falls at once, rises by half in a second
    if (peak >= Math.max(LOUD, ABOVE_NOISE * Math.min(this.noise, 0.05))) {
      if (!this.loud) this.onsetMs = atMs - FRAME_MS;
      this.loud += 1;
      this.quiet = 0;
      this.lastLoudMs = atMs;
      if (this.loud >= ONSET_FRAMES && !this.speaking) this.began();
    } else {
      this.quiet += 1;
      if (!this.speaking) this.loud = 0;
      else if (this.quiet >= OFFSET_FRAMES) this.speaking = Boolean(this.loud = 0);
    }
  }

  began() {
    this.speaking = this.asked = true;
    if (this.sounding) this.over = this.onsetMs;
  }

  playing(is, atMs) {
    this.sounding = is;
    if (is) this.answered(atMs);
    else this.over = null;  // it ended by itself, or has not gone on yet
  }

  answered(atMs) {
    if (this.asked && atMs > this.lastLoudMs && atMs - this.lastLoudMs < LONGEST_MS) this.gaps.push(atMs - this.lastLoudMs);
    this.asked = false;
  }

  silenced(atMs) {  // it was cut
    if (this.over !== null) this.stops.push(atMs - this.over);
    this.over = null;
    this.sounding = false;
  }
}
