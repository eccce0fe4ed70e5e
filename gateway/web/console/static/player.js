// A call's recording, in step with what was said and with the picture of the line; what can be downloaded.

import { h } from "./dom.js";

const FOLLOWED = "now";

function downloads(record) {
  const sid = encodeURIComponent(record.call_sid);
  const parts = [
    ["record", `${record.call_sid}.json`, "Record (JSON)"],
    ["transcript.vtt", `${record.call_sid}.vtt`, "Transcript (WebVTT)"],
    ...(record.recording ? [["recording.wav", `${record.call_sid}.wav`, "Recording (WAV)"]] : []),
    ["scenario.yaml", `${record.call_sid}.call.yaml`, "Make a scenario of this call"],
  ];
  return h("ul", { class: "downloads" }, parts.map(([part, name, what]) => h("li", {}, h("a", { href: `/console/api/calls/${sid}/${part}`, download: name }, what))));
}

// `lines`: [time on the call's axis, element] of everything said; `move(ms)`: shows where the picture is now.
export function listening(record, lines, move) {
  if (!record.recording) return [downloads(record)];
  const audio = h("audio", { controls: true, preload: "metadata", src: `/console/api/calls/${encodeURIComponent(record.call_sid)}/recording.wav`, "aria-label": "The call's recording: left the caller, right the agent as heard" });
  const offset = record.recording.offset_ms;
  const missing = h("p", { class: "quiet", hidden: true }, "The recording is not on this machine, or was removed.");
  audio.addEventListener("error", () => {
    audio.hidden = true;
    missing.hidden = false;
  });
  audio.addEventListener("timeupdate", () => {
    const at = offset + audio.currentTime * 1000;
    const current = lines.findLast(([begins]) => begins <= at + 50);
    for (const [, element] of lines) element.classList.toggle(FOLLOWED, element === current?.[1]);
    move(at);
  });
  for (const [begins, element] of lines) {
    const time = element.querySelector("time");
    const seek = h("button", { type: "button", class: "seek", onclick: () => {
      audio.currentTime = Math.max(0, (begins - offset) / 1000);
      audio.play();
    } }, time.textContent);
    seek.setAttribute("aria-label", `Listen from ${time.textContent}`);
    time.replaceChildren(seek);
  }
  return [audio, missing, downloads(record)];
}
