// Figures and words as people read them.

export const NONE = "—";

export function ms(value) {
  if (value === undefined || value === null) return NONE;
  if (value >= 60000) return duration(value);
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  if (value >= 10) return `${value.toFixed(0)} ms`;
  return `${value.toFixed(1)} ms`;
}

export function duration(value) {
  if (value === undefined || value === null) return NONE;
  const seconds = Math.round(value / 1000);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const shown = parts[0] ? parts : parts.slice(1);
  return shown.map((part, i) => (i ? String(part).padStart(2, "0") : part)).join(":");
}

export function at(value) {  // on a call's own axis
  const seconds = value / 1000;
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

export function clock(iso) {
  return iso ? new Date(iso).toLocaleTimeString([], { hour12: false }) : NONE;
}

export function when(iso) {
  return iso ? new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short", hour12: false }) : NONE;
}

export function count(value, one, many) {
  return `${value.toLocaleString()} ${value === 1 ? one : many}`;
}

export function words(name) {  // an identifier as words
  const text = name.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const TITLES = {
  turn_gap: "Turn gap",
  uplink_relative_delay: "Microphone to gateway",
  uplink_forward: "Gateway to model, a frame",
  link_rtt: "Round trip of the links",
  model_first_audio: "Model's first audio",
  model_first_event: "Model's first sign",
  output_onset_sent: "First voice sent",
  output_onset_played: "First voice played",
  bargein_silence: "Barge-in to silence",
  bargein_detect: "Barge-in: onset to decision",
  bargein_stop: "Barge-in: decision to silence",
  bargein_clear_sent: "Barge-in: decision to clear sent",
  answer_to_greeting: "Ring to greeting",
};

// In short what a headline segment is; the whole definition stands in its tooltip and in the help of /metrics.
const IN_SHORT = {
  turn_gap: "caller's last speech frame → reply's first voice played",
  uplink_relative_delay: "carrier's timestamp → frame received, less the call's best",
  model_first_audio: "caller's last speech frame → model's first audio received",
  output_onset_sent: "model's first audio received → first voice sent",
  output_onset_played: "caller's last speech frame → mark after the first voice returned",
  bargein_silence: "caller's first speech over the agent → playback stopped at the carrier",
};

export function inShort(segment) {
  return IN_SHORT[segment.name] || `${segment.start} → ${segment.end}`;
}

export function title(segment) {
  return TITLES[segment] || words(segment);
}

// Segments that follow one another within a headline segment.
const PARTS = {
  bargein_silence: [["bargein_detect", "detection"], ["bargein_stop", "stop"]],
};

export function parts(name) {  // [[segment, short name], ...]; none for a segment without parts
  return PARTS[name] || [];
}

const PHASES = {
  connecting: "Connecting",
  listening: "Listening",
  thinking: "Thinking",
  speaking: "Speaking",
  held: "Held: interrupted?",
  stopping: "Interrupted",
  closing: "Goodbye",
  ended: "Ending",
};

export function phase(name) {
  return PHASES[name] || words(name);
}

const VERDICTS = {
  suspected: "undecided",
  confirmed_by_model: "confirmed by the model",
  confirmed_locally: "confirmed by the gateway",
  dismissed: "dismissed, the agent went on",
};

export function verdict(name) {
  return VERDICTS[name] || words(name);
}
