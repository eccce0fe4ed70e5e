// The phone: one call at a time to the agent that the address names, and beside it what the console shows of the call.

import { callPage } from "/console/static/call.js";
import { h, put } from "/console/static/dom.js";
import { pictures } from "./pictures.js";
import { openSound, unfit } from "./sound.js";

const AGAIN_MS = [0, 300, 700, 1500, 2500];  // after a lost socket; the gateway waits five seconds
const SHOW_MS = 700;
const QUIET_S = 4;
const KEYS = "123456789*0#";
const agent = new URLSearchParams(location.search).get("agent") || "";
const main = document.getElementById("main");
const state = document.getElementById("state");

let sound = null;
let call = null;  // {call_id, key}
let ended = false;  // by this page
let silentSince = 0;

const sentence = h("p", { class: "sentence", role: "alert", hidden: true });
const held = h("p", { class: "sentence", role: "alert", hidden: true });
const callButton = h("button", { class: "call", type: "button", onclick: begin }, "Call");
const endButton = h("button", { class: "end", type: "button", onclick: hangUp, disabled: true }, "Hang up");
const muteButton = h("button", { type: "button", onclick: mute, disabled: true, "aria-pressed": "false" }, "Mute");
const soundButton = h("button", { type: "button", onclick: () => sound.resume(), hidden: true }, "Start the sound");
const wide = h("input", { type: "checkbox", id: "wide" });
const bar = h("span", {});
const keys = [...KEYS].map((key) => h("button", { type: "button", disabled: true, onclick: () => press(key), "aria-label": { "*": "Star", "#": "Hash" }[key] || key }, key));
const shown = pictures(sendPicture);
const beside = h("div", { class: "beside" }, h("p", { class: "empty" }, "The transcript, the turns and their timings appear here while you talk."));

function say(text, kind) {
  put(state, text);
  state.className = `state ${kind}`;
}

function tell(text, plain = false) {
  put(sentence, text);
  sentence.className = plain ? "sentence plain" : "sentence";
  sentence.hidden = !text;
}

function onTheLine(is) {
  callButton.disabled = is;
  wide.disabled = is;
  for (const button of [endButton, muteButton, ...keys]) button.disabled = !is;
}

async function ask(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const type = response.headers.get("Content-Type") || "";
  const answer = type.startsWith("application/json") ? await response.json() : { error: (await response.text()).trim() };
  return { status: response.status, ...answer };
}

async function begin() {
  tell("");
  ended = false;
  onTheLine(true);
  say("Waiting for the microphone", "");
  try {
    sound = await openSound(wide.checked, { level: showLevel, blocked: showBlocked, gone: () => tell("The microphone is gone: connect it again and call anew. The agent still talks.") });
    say("Calling", "");
    const answer = await ask("/console/talk", { agent, wide: wide.checked });
    if (answer.status !== 201) throw new Error(answer.says || answer.error || `The gateway refused the call (${answer.status}).`);
    call = answer;
    shown.allow(answer.pictures);
    await talk(answer.token);
  } catch (error) {
    tell(error instanceof TypeError ? "The gateway does not answer. Is it running?" : error.message);
  }
  await over();
}

async function talk(token) {
  const simulated = call.simulated && "A rehearsal: the model answers from its script, whatever you say.";
  const page = callPage(call.call_id);
  beside.replaceChildren(page.element);
  const showing = setInterval(() => page.update().catch(() => {}), SHOW_MS);
  try {
    for (let next = token; next; next = await again()) {
      await sound.carry(call.call_id, next, () => {
        say("On the line", "on");
        tell(simulated || "", true);
      });
      if (ended) return;
    }
  } finally {
    clearInterval(showing);
    setTimeout(() => page.update().catch(() => {}), 300);  // the record is complete a moment later
  }
}

async function again() {  // a token for another socket, or what became of the call in a sentence
  say("The connection is lost: trying again", "off");
  for (const wait of AGAIN_MS) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    if (ended) return "";
    try {
      const answer = await ask(`/console/talk/${call.call_id}`, { key: call.key });
      if (answer.token) return answer.token;
      tell(...follows(answer));
      return "";
    } catch {
      // the gateway does not answer yet
    }
  }
  tell("The connection to the gateway is lost, and with it the call. Check the network, then call again.");
  return "";
}

function follows({ status, over: step, target, says }) {
  if (status === 404) return ["The gateway does not have this call any more."];
  if (step === "dial" || step === "join") return [`A telephone caller would now be connected to ${target}.`, true];
  if (step === "fallback") return [says ? `A telephone caller would now hear: ${says}` : "The call failed: see its errors beside."];
  return ["The agent hung up.", true];
}

async function over() {
  const had = sound;
  sound = null;
  call = null;
  shown.allow(undefined);
  onTheLine(false);
  bar.style.width = "0";
  showBlocked(false);
  muteButton.setAttribute("aria-pressed", "false");
  say("Not on the line", "");
  if (had) await had.close();
}

async function sendPicture(jpeg) {
  if (!call) return "The call is over.";
  const headers = { "Content-Type": "image/jpeg", "X-Call-Key": call.key };
  const answer = await fetch(`/console/talk/${call.call_id}/picture`, { method: "POST", headers, body: jpeg });
  return answer.status === 202 ? "" : `Not shown: ${(await answer.text()).trim()}.`;
}

function hangUp() {
  ended = true;
  if (sound) sound.hangUp();
}

function mute() {
  const muted = muteButton.getAttribute("aria-pressed") !== "true";
  muteButton.setAttribute("aria-pressed", String(muted));
  sound.mute(muted);
}

function press(key) {
  if (sound) sound.send({ type: "key", key });
}

function showLevel(level) {
  bar.style.width = `${Math.min(100, Math.round(140 * Math.sqrt(level)))}%`;
  const muted = muteButton.getAttribute("aria-pressed") === "true";
  if (level > 0 || muted) silentSince = performance.now();
  else if (performance.now() - silentSince > QUIET_S * 1000 && sentence.hidden) tell("Your microphone gives no sound at all: is it switched off, or another one chosen in the browser?", true);
}

function showBlocked(is) {
  soundButton.hidden = held.hidden = !is;
  put(held, is ? "The browser holds the sound back until you press “Start the sound”." : "");
}

addEventListener("keydown", (event) => {
  if (call && KEYS.includes(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey) press(event.key);
});
addEventListener("pagehide", hangUp);

document.title = `Talk to ${agent} - Offhook console`;
main.replaceChildren(
  h("h1", { tabindex: "-1" }, `Talk to ${agent}`),
  h("div", { class: "phone" },
    h("section", { class: "handset", "aria-label": "Phone" },
      callButton, endButton, muteButton, soundButton,
      h("div", { class: "meter", "aria-hidden": "true" }, bar),
      h("label", { for: "wide" }, wide, "Wide sound (not as callers hear it)"),
      h("fieldset", { class: "keypad" }, h("legend", {}, "Keypad"), keys),
      shown.element),
    h("div", {}, held, sentence, beside)));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
const why = unfit();
if (why) {
  tell(why);
  callButton.disabled = true;
}
