// Two ways to one agent: through the gateway, as a call, and straight to the model. Both are measured here, at this
// page's microphone and loudspeaker, at the model's own rates.

import { callPage } from "/console/static/call.js";
import { body, cell, h, put, row, table } from "/console/static/dom.js";
import { openSound, unfit } from "/console/talk/static/sound.js";
import { openLive } from "./live.js";
import { Measure, median } from "./measure.js";

const SHOW_MS = 700;
const GOODBYE_MS = 6_000;  // of the agent's last words, after a tool has ended the session
const LOST = [
  "Barge-in is the model's alone: nothing is held and resumed after an “uh-huh”, and the model is not told what you did not hear.",
  "No recording, no transcript and no turns in the record; it has the tool calls alone.",
  "No latency or call metrics, no cost in the record: an agent with a cost limit cannot be reached this way.",
  "No resumption: the session ends with its connection, after ten minutes or so. No fallback and no reconnection.",
  "No greeting from a file, fillers, keypad, idle prompts, time limit or transfer.",
];

const WAYS = [["gateway", "Through the gateway"], ["direct", "Straight to the model"], ["difference", "What the gateway adds"]];

const COLUMNS = ["Turn gap, median", "Barge-in, median"];
const agent = new URLSearchParams(location.search).get("agent") || "";
const main = document.getElementById("main");
const state = document.getElementById("state");
const measures = { gateway: new Measure(), direct: new Measure() };

let sound = null;
let ending = null;  // what hangs up
const sentence = h("p", { class: "sentence", role: "alert", hidden: true });
const soundButton = h("button", { type: "button", onclick: () => sound.resume(), hidden: true }, "Start the sound");
const gatewayButton = h("button", { class: "call", type: "button", onclick: () => begin("gateway", throughGateway) }, "Call through the gateway");
const directButton = h("button", { class: "call", type: "button", onclick: () => begin("direct", straight) }, "Talk straight to the model");
const endButton = h("button", { class: "end", type: "button", onclick: () => ending?.(), disabled: true }, "Hang up");
const figures = Object.fromEntries(WAYS.map(([way]) => [way, [h("span", {}, "–"), h("span", {}, "–")]]));
const rows = body();
rows.append(...WAYS.map(([way, name]) => row({}, h("th", { scope: "row", role: "rowheader" }, name),
  COLUMNS.map((column, i) => cell(column, figures[way][i])))));
const beside = h("div", { class: "beside" }, h("p", { class: "empty" }, "Talk to the agent by one way, then by the other: say a sentence, and interrupt an answer."));

function say(text, kind) {
  put(state, text);
  state.className = `state ${kind}`;
}

function tell(text, plain = false) {
  put(sentence, text);
  sentence.className = plain ? "sentence plain" : "sentence";
  sentence.hidden = !text;
}

async function ask(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), keepalive: path.endsWith("/end") });
  const type = response.headers.get("Content-Type") || "";
  const answer = type.startsWith("application/json") ? await response.json() : { error: (await response.text()).trim() };
  return { status: response.status, ...answer };
}

async function asked(path, body, status) {
  const answer = await ask(path, body);
  if (answer.status !== status) throw new Error(answer.says || answer.error || `The gateway refused it (${answer.status}).`);
  return answer;
}

function show() {
  const columns = ["gaps", "stops"];
  for (const way of ["gateway", "direct"]) {
    columns.forEach((name, i) => {
      const values = measures[way][name];
      put(figures[way][i], values.length ? `${Math.round(median(values))} ms (${values.length})` : "–");
    });
  }
  columns.forEach((name, i) => {
    const [through, without] = [measures.gateway[name], measures.direct[name]];
    const both = through.length && without.length;
    const difference = both ? Math.round(median(through) - median(without)) : 0;
    put(figures.difference[i], both ? `${difference > 0 ? "+" : ""}${difference} ms` : "–");
  });
}

async function begin(way, talk) {
  tell("");
  const measure = measures[way];
  measure.begin();
  gatewayButton.disabled = directButton.disabled = true;
  endButton.disabled = false;
  say("Waiting for the microphone", "");
  try {
    sound = await openSound(true, {
      level: () => {},
      blocked: (is) => { soundButton.hidden = !is; },
      gone: () => tell("The microphone is gone: connect it again and begin anew."),
      frame: (peak) => measure.frame(peak, performance.now()),
      playing: (is) => { measure.playing(is, performance.now()); show(); },
      silenced: () => { measure.silenced(performance.now()); show(); },
    });
    await talk();
  } catch (error) {
    tell(error instanceof TypeError ? "The gateway does not answer. Is it running?" : error.message);
  }
  const had = sound;
  sound = ending = null;
  soundButton.hidden = true;
  if (had) await had.close();
  gatewayButton.disabled = directButton.disabled = false;
  endButton.disabled = true;
  say("Not on the line", "");
}

// --- through the gateway: a call from the browser

async function throughGateway() {
  let over = false;
  ending = () => {
    over = true;
    sound.hangUp();
  };
  const call = await asked("/console/talk", { agent, wide: true }, 201);
  const page = callPage(call.call_id);
  beside.replaceChildren(page.element);
  const showing = setInterval(() => page.update().catch(() => {}), SHOW_MS);
  await sound.carry(call.call_id, call.token, () => {
    say("On the line, through the gateway", "on");
    if (over) sound.hangUp();
  });
  clearInterval(showing);
  if (!over) tell("The call is over.", true);
  setTimeout(() => page.update().catch(() => {}), 300);
}

// --- straight to the model

async function straight() {
  const session = await asked("/console/direct", { agent }, 201);
  const path = `/console/direct/${session.session_id}`;
  try {
    const given = await asked("/console/token", { agent }, 200);
    await converse(session, path, given);
  } finally {
    await ask(`${path}/end`, { key: session.key });
  }
  beside.append(h("p", {}, h("a", { href: `/console#/call/${session.session_id}` }, "What the gateway's record has of it")));
}

async function converse(session, path, given) {
  const list = h("ol", { class: "exchange", "aria-label": "What was said and done" });
  beside.replaceChildren(h("h2", {}, "Straight to the model"), list);
  const live = openLive({ ...given, url: session.url }, sound, {
    ready() {
      say("In conversation, straight to the model", "on");
      tell(session.simulated ? "A rehearsal: the model answers from its script, whatever you say." : "", true);
      if (session.greeting) live.prompt(session.greeting);
    },
    words: (who, text) => line(list, who, text),
    called: (call) => run(live, path, session.key, list, call),
    withdrawn: (ids) => ids.forEach((id) => ask(`${path}/cancel`, { key: session.key, id }).catch(() => {})),
    leaving: () => tell("The model's connection ends within a minute, and with it this session: begin anew.", true),
  });
  ending = live.close;
  const { ready, code, reason } = await live.over;
  if (code !== 1000) tell(ready ? `The model ended the session (${code}${reason ? `, ${reason}` : ""}).` : `No session with the model (${code}${reason ? `, ${reason}` : ""}): is its host reached from this browser?`);
}

async function run(live, path, key, list, { id, name, args }) {
  const item = h("li", {}, h("b", {}, `Tool ${name} `), h("span", {}, "runs"));
  list.append(item);
  const status = item.lastChild;
  let answer;
  try {
    answer = await ask(`${path}/tool`, { key, id, name, arguments: args || {} });
  } catch {
    put(status, "was not run: the gateway does not answer");
    return;
  }
  put(status, answer.cancelled ? "was cancelled" : answer.outcome || answer.error || `refused (${answer.status})`);
  if (answer.message) live.send(answer.message);
  for (const prompt of answer.prompts || []) live.prompt(prompt);
  if (answer.target) tell(`A telephone caller would now be connected to ${answer.target}.`, true);
  if (answer.ending) setTimeout(live.close, GOODBYE_MS);
}

function line(list, who, text) {
  const last = list.lastElementChild;
  if (last?.dataset.who === who) last.lastChild.append(text);
  else list.append(h("li", { "data-who": who }, h("b", {}, who === "caller" ? "You " : `${agent} `), h("span", {}, text)));
}

addEventListener("pagehide", () => ending?.());
document.title = `Straight to ${agent} - Offhook console`;
main.replaceChildren(
  h("h1", { tabindex: "-1" }, `${agent}: through the gateway, or straight to the model`),
  h("div", { class: "phone" },
    h("section", { class: "handset", "aria-label": "Phone" }, gatewayButton, directButton, endButton, soundButton),
    h("div", {}, sentence,
      h("section", { "aria-labelledby": "measured" },
        h("h2", { id: "measured" }, "Measured on this page"),
        table("Measured on this page", [["Way"], ...COLUMNS.map((column) => [column, "number"])], rows),
        h("p", { class: "quiet" }, "In brackets how many. Turn gap: from your last loud 20 ms to the answer at the loudspeaker. Barge-in: from your first loud 20 ms over the agent to a silent loudspeaker.")),
      h("section", { "aria-labelledby": "lost" },
        h("h2", { id: "lost" }, "What the straight way loses"),
        h("ul", { class: "lost" }, LOST.map((text) => h("li", {}, text)))),
      beside)));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
const why = unfit();
if (why) {
  tell(why);
  gatewayButton.disabled = directButton.disabled = true;
}
show();
