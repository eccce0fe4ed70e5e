// Pictures for the model: the camera or a shared screen frame by frame, or a still, as JPEG of the size that it takes.

import { h, put } from "/console/static/dom.js";

const QUALITIES = [0.8, 0.6, 0.4];  // the next one where a picture has too many bytes
const REFUSALS = {
  NotAllowedError: "The camera or the screen was refused. Allow it for this page in the browser's site settings.",
  NotFoundError: "No camera was found. Connect one first.",
  NotReadableError: "The camera is in use by another program, or the system withholds it.",
};

async function jpegOf(source, width, height, { side, bytes }) {
  const scale = Math.min(1, side / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const paper = canvas.getContext("2d");
  paper.fillStyle = "#fff";  // beneath a picture with transparency
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.drawImage(source, 0, 0, canvas.width, canvas.height);
  for (const quality of QUALITIES) {
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality));
    if (blob && blob.size <= bytes) return blob;
  }
  throw new Error("This picture is too large for the model, even at a low quality.");
}

// The controls. `send(blob)` resolves to the gateway's refusal, "" for none.
export function pictures(send) {
  let bounds = null;  // {every_ms, side, bytes} of the call
  let stream = null;
  let timer = 0;
  let sent = 0;
  const said = h("p", { class: "quiet", role: "status" });
  const preview = h("video", { autoplay: true, playsinline: true, hidden: true, "aria-label": "What the model is shown" });
  preview.muted = true;
  const camera = h("button", { type: "button", onclick: () => begin(() => navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } }), camera) }, "Show the camera");
  const screen = h("button", { type: "button", onclick: () => begin(() => navigator.mediaDevices.getDisplayMedia({ video: true }), screen) }, "Share a screen");
  const still = h("button", { type: "button", hidden: true, onclick: () => frame(true) }, "Send this moment");
  const stop = h("button", { type: "button", hidden: true, onclick: end }, "Stop showing");
  const file = h("input", { type: "file", accept: "image/*", id: "picture", onchange: upload });
  const element = h("fieldset", { class: "pictures", hidden: true }, h("legend", {}, "Pictures for the model"),
    preview, camera, screen, still, stop, h("label", { for: "picture" }, "A picture of yours"), file, said);

  function show(live) {
    preview.hidden = still.hidden = stop.hidden = !live;
    camera.hidden = screen.hidden = live;
  }

  async function begin(open, button) {
    const mine = bounds;
    button.disabled = true;
    put(said, "");
    try {
      const opened = await open();
      if (mine !== bounds) {  // the call ended while the browser asked
        opened.getTracks().forEach((track) => track.stop());
        return;
      }
      stream = opened;
      stream.getVideoTracks()[0].addEventListener("ended", end);  // "Stop sharing" of the browser itself
      preview.srcObject = stream;
      show(true);
      await preview.play();
      tick(stream);
    } catch (error) {
      put(said, REFUSALS[error.name] || `It cannot be shown (${error.name}).`);
    } finally {
      button.disabled = false;
    }
  }

  async function tick(mine) {  // one at a time: a slow network makes fewer of them
    const began = performance.now();
    await frame(false);
    if (mine === stream) timer = setTimeout(() => tick(mine), Math.max(0, bounds.every_ms - (performance.now() - began)));
  }

  async function frame(chosen) {
    if (preview.videoWidth) await give(preview, preview.videoWidth, preview.videoHeight, chosen);
  }

  async function upload() {
    const [chosen] = file.files;
    if (!chosen) return;
    try {
      const bitmap = await createImageBitmap(chosen);
      await give(bitmap, bitmap.width, bitmap.height, true);
      bitmap.close();
    } catch {
      put(said, "This file is no picture that the browser can read.");
    }
    file.value = "";
  }

  async function give(source, width, height, chosen) {
    try {
      const refusal = await send(await jpegOf(source, width, height, bounds));
      if (!refusal) sent += 1;
      put(said, refusal || `${sent} shown${chosen ? ", the last one chosen by you" : ""}.`);
    } catch (error) {
      put(said, error instanceof TypeError ? "The gateway does not answer." : error.message);
    }
  }

  function end() {
    clearTimeout(timer);
    if (stream) stream.getTracks().forEach((track) => track.stop());
    stream = preview.srcObject = null;
    show(false);
  }

  return {
    element,
    allow(given) {  // the call's bounds, or undefined: it takes none
      end();
      bounds = given;
      sent = 0;
      put(said, given ? `At most one each ${given.every_ms / 1000 === 1 ? "second" : `${given.every_ms / 1000} seconds`}, as JPEG of ${given.side} pixels a side.` : "");
      element.hidden = !given;
    },
  };
}
