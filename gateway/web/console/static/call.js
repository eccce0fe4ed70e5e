// One call: its line as a picture, what was said, turns, tools, barge-ins, errors. Live while it goes on.

import { body, cell, h, row, svg, table } from "./dom.js";
import { NONE, at, clock, duration, ms, title, verdict, when, words } from "./format.js";
import { listening } from "./player.js";
import { listenIn } from "./listen.js";
import { mayAct, steering } from "./steer.js";
import { BARGE_IN_KINDS, axis, bargeInBars, legend, said, span, track } from "./waterfall.js";

const LIVE_TURNS = 40;  // as many as the gateway tells of a call that goes on
const SCALE = 24;  // pixels per second of the picture, at least
const LANES = { caller: 22, agent: 62, tool: 102 };

function picture(record, wide, cut) {
  const first = cut ? record.turns[0].caller_started_ms ?? record.turns[0].reply_started_ms : 0;
  const begin = Math.floor(first / 10000) * 10000;
  const total = Math.max(record.duration_ms - begin, 1000);
  const width = Math.max(wide, (total / 1000) * SCALE);
  const x = (value) => (((value - begin) / total) * (width - 2)).toFixed(1);
  const box = (from, to, y, kind) => svg("rect", { x: x(from), y, width: Math.max(1.5, x(to) - x(from)), height: 24, rx: 4, class: kind });
  const parts = [];
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600].find((s) => (s * 1000 * width) / total >= 56) || 1200;
  for (let second = 0; second * 1000 <= total; second += step) {
    const here = x(begin + second * 1000);
    parts.push(svg("line", { x1: here, x2: here, y1: 14, y2: 134, class: "grid" }));
    parts.push(svg("text", { x: Number(here) + 3, y: 146, class: "tick" }, duration(begin + second * 1000)));
  }
  for (const turn of record.turns) {
    if (turn.caller_started_ms !== null) parts.push(box(turn.caller_started_ms, turn.caller_ended_ms ?? turn.reply_started_ms ?? record.duration_ms, LANES.caller, "said caller"));
    if (turn.reply_started_ms !== null) {
      const over = turn.reply_ended_ms !== null;
      const heard = turn.reply_started_ms + (over ? turn.heard_ms : Math.max(0, Math.min(turn.sent_ms, record.duration_ms - turn.reply_started_ms)));
      const whole = turn.reply_started_ms + Math.max(turn.received_ms, turn.heard_ms);
      if (over && turn.interrupted && whole > heard) parts.push(box(heard, Math.min(whole, record.duration_ms), LANES.agent, "said unheard"));
      parts.push(box(turn.reply_started_ms, heard, LANES.agent, "said agent"));
    }
  }
  for (const tool of record.tool_calls.filter((one) => one.requested_ms >= begin)) parts.push(box(tool.requested_ms, tool.finished_ms ?? record.duration_ms, LANES.tool, `said tool ${tool.outcome}`));
  for (const one of record.barge_ins.filter((each) => each.decided_ms >= begin)) {
    if (one.segments.bargein_silence !== undefined) parts.push(box(one.stopped_ms - one.segments.bargein_silence, one.stopped_ms, LANES.agent, `over ${one.verdict}`));
    parts.push(svg("line", { x1: x(one.decided_ms), x2: x(one.decided_ms), y1: 14, y2: 94, class: `cut ${one.verdict}` }));
    parts.push(svg("path", { d: `M${x(one.decided_ms)} 14l-5 -8h10z`, class: `cut ${one.verdict}` }));
  }
  const head = svg("line", { x1: -9, x2: -9, y1: 8, y2: 134, class: "head-line" });
  parts.push(head);
  const names = Object.entries(LANES).map(([name, y]) => {
    const label = h("span", {}, words(name));
    label.style.top = `${y + 3}px`;
    return label;
  });
  const drawing = svg("svg", { width, height: 152, viewBox: `0 0 ${width} 152`, role: "img", "aria-label": "The call's line over time: caller, agent, tools. The lists below say the same." }, parts);
  const scroll = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The line over time, scrolls sideways" }, drawing);
  const move = (at_ms) => {  // where the recording is
    const here = Number(x(at_ms));
    head.setAttribute("x1", here);
    head.setAttribute("x2", here);
    if (here < scroll.scrollLeft || here > scroll.scrollLeft + scroll.clientWidth - 40) scroll.scrollLeft = here - 60;
  };
  return [h("div", { class: "line" }, h("div", { class: "lanes", "aria-hidden": "true" }, names), scroll), move];
}

function silence({ bargein_silence: whole, bargein_detect: detect, bargein_stop: stop }) {
  if (whole !== undefined) return `, silent ${ms(whole)} after the caller's first sound (detection ${ms(detect)}, stop ${ms(stop)})`;
  return stop === undefined ? "" : `, silent ${ms(stop)} after the decision; no onset detected`;
}

function spoken(record) {  // everything that happened, in order, as a list
  const events = record.transcript.map((line) => {
    const cut = line.heard_text !== null && line.heard_text !== undefined && line.heard_text !== line.text && line.text.startsWith(line.heard_text);
    const texts = cut
      ? [line.heard_text, " ", h("s", {}, h("span", { class: "unseen" }, "not heard: "), line.text.slice(line.heard_text.length).trim())]
      : [line.text];
    return { at_ms: line.at_ms, element: h("li", { class: line.who }, h("b", {}, words(line.who)), h("p", {}, texts)) };
  });
  for (const one of record.barge_ins) {
    events.push({ at_ms: one.decided_ms, element: h("li", { class: "event cut" }, h("b", {}, "Barge-in"), h("p", {}, `${verdict(one.verdict)}${silence(one.segments)}`)) });
  }
  for (const one of record.actions) {
    events.push({ at_ms: one.at_ms, element: h("li", { class: "event" }, h("b", {}, "Operator"), h("p", {}, `${words(one.what)}${one.detail ? `: ${one.detail}` : ""}${one.done ? "" : " (could not be done)"}, by ${one.who}`)) });
  }
  for (const one of record.listened) {
    events.push({ at_ms: one.from_ms, element: h("li", { class: "event" }, h("b", {}, "Operator"), h("p", {}, `listens in, ${one.to_ms === null ? "now" : `until ${at(one.to_ms)}`}, ${one.who}`)) });
  }
  for (const tool of record.tool_calls) {
    const took = tool.finished_ms === null ? "running" : `${tool.outcome.replaceAll("_", " ")} after ${ms(tool.finished_ms - tool.requested_ms)}`;
    const bad = tool.outcome === "failed" || tool.outcome === "timed_out";
    events.push({ at_ms: tool.requested_ms, element: h("li", { class: `event ${bad ? "bad" : "tool"}` }, h("b", {}, "Tool"), h("p", {}, h("code", {}, tool.name), ` ${took}`)) });
  }
  events.sort((a, b) => a.at_ms - b.at_ms);
  for (const event of events) event.element.prepend(h("time", {}, at(event.at_ms)));
  return [h("ol", { class: "talk" }, events.map((event) => event.element)), events.map((event) => [event.at_ms, event.element])];
}

function turnTable(record, made, live) {  // made: each turn's bars
  const [longest, step] = span(made.map((list) => ({ bars: list })));
  const rows = body();
  record.turns.forEach((turn, i) => {
    const s = turn.segments;
    rows.append(row({},
      h("th", { scope: "row", role: "rowheader" }, turn.kind === "model" ? `Turn ${turn.number}` : `${turn.number}: ${turn.kind}`),
      cell("Turn gap", ms(s.turn_gap)),
      cell("What waited for what", made[i].length ? [track(made[i], longest), h("span", { class: "unseen" }, said(made[i]))] : h("span", { class: "quiet" }, turn.caller_ended_ms === null ? "the agent spoke first" : NONE)),
      cell("Heard", live && turn.reply_ended_ms === null ? `being heard, ${ms(turn.received_ms)} received` : `${ms(turn.heard_ms)} of ${ms(turn.received_ms)}${turn.interrupted ? ", interrupted" : ""}`)));
  });
  const scale = row({ "aria-hidden": "true", class: "scale" }, cell(""), cell(""), cell("", axis(longest, step)), cell(""));
  if (made.some((list) => list.length)) rows.append(scale);
  return table("Turns", [["Turn"], ["Turn gap", "number"], ["What waited for what"], ["Heard"]], rows);
}

function bargeInTable(record) {
  const made = record.barge_ins.map((one) => bargeInBars(one.segments));
  const [longest, step] = span(made.map((list) => ({ bars: list })));
  const rows = body();
  record.barge_ins.forEach((one, i) => {
    rows.append(row({},
      h("th", { scope: "row", role: "rowheader" }, at(one.decided_ms)),
      cell("Onset to silence", ms(one.segments.bargein_silence)),
      cell("What the caller waited for", made[i].length ? [track(made[i], longest), h("span", { class: "unseen" }, said(made[i]))] : h("span", { class: "quiet" }, "no onset detected")),
      cell("Verdict", verdict(one.verdict))));
  });
  if (made.some((list) => list.length)) rows.append(row({ "aria-hidden": "true", class: "scale" }, cell(""), cell(""), cell("", axis(longest, step)), cell("")));
  return table("Barge-ins", [["Decided at"], ["Onset to silence", "number"], ["What the caller waited for"], ["Verdict"]], rows);
}

function facts(record, live) {
  const list = [
    ["Agent", record.agent],
    ...(record.model ? [["Model", record.model]] : []),
    ["Began", live ? clock(record.started_at) : when(record.started_at)],
    ["Length", duration(record.duration_ms)],
    ["End", live ? "on the line" : `${words(record.end_reason)}${record.end_reason.startsWith(record.end_side) ? "" : ` (${record.end_side}'s side)`}`],
    ["Audio in, out", `${ms(record.audio_in_ms)}, ${ms(record.audio_out_ms)}`],
    ...Object.entries(record.segments).map(([name, value]) => [title(name), ms(value)]),
    ...(record.pictures || record.pictures_refused ? [["Pictures shown, refused", `${record.pictures}, ${record.pictures_refused}`]] : []),
    ...(record.usage.cost_usd === undefined ? [] : [["Cost, about", `$${record.usage.cost_usd.toFixed(4)}`]]),
    ["Call", h("code", {}, record.call_sid)],
  ];
  return h("dl", { class: "facts" }, list.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function part(id, heading, ...children) {
  return h("section", { "aria-labelledby": id }, h("div", { class: "head" }, h("h2", { id }, heading)), children);
}

export function callPage(callSid) {
  const heading = h("h1", { tabindex: "-1" }, "Call");
  const content = h("div", {}, h("p", { class: "empty" }, "Loading…"));
  const steer = steering(callSid);
  const listen = listenIn(callSid);
  steer.hidden = listen.element.hidden = true;
  const element = h("div", { class: "call" }, h("p", { class: "back" }, h("a", { href: "#/" }, "← All calls")), heading, listen.element, steer, content);
  let shown = "";
  let over = false;

  return {
    element,
    close: listen.close,
    async update() {
      if (over) return;
      const response = await fetch(`/console/api/view/${encodeURIComponent(callSid)}`);
      if (!response.ok && response.status !== 404) throw new Error(`the gateway answered ${response.status}`);
      const text = await response.text();
      if (!response.ok) {
        over = true;
        content.replaceChildren(h("p", { class: "empty" }, "No such call: it may have been long ago, or in another process."));
        return;
      }
      if (text === shown) return;
      shown = text;
      const { record, live, listen: heard, bars } = JSON.parse(text);
      const acts = live && await mayAct;
      over = !live;
      steer.hidden = !acts;
      listen.element.hidden = !(acts && heard);
      const other = record.direction === "outbound" ? record.dialled : record.caller;
      heading.replaceChildren(`${record.direction === "outbound" ? "Call to" : "Call from"} ${other || "an unknown number"} `,
        h("span", { class: live ? "chip on" : "chip" }, live ? "on the line" : "over"));
      const scroll = content.querySelector(".scroll");
      const [left, focused] = [scroll?.scrollLeft ?? 0, scroll !== null && scroll === document.activeElement];
      const cut = live && record.turns.length >= LIVE_TURNS;
      const [drawing, move] = picture(record, content.clientWidth - 92, cut);
      const [talk, lines] = spoken(record);
      content.replaceChildren(
        facts(record, live),
        record.errors.length ? part("errors", "Errors", h("ul", { class: "errors" }, record.errors.map((error) => h("li", {}, error)))) : "",
        cut ? h("p", { class: "quiet" }, `The last ${LIVE_TURNS} turns; all of them once the call is over.`) : "",
        part("line", "The line", drawing),
        live ? "" : part("recording", record.recording ? "Recording and downloads" : "Downloads", ...listening(record, lines, move)),
        part("said", "What was said, heard and done", record.transcript.length || record.barge_ins.length || record.tool_calls.length || record.actions.length || record.listened.length ? talk : h("p", { class: "empty" }, "Nothing yet.")),
        part("turns", "Turns", legend(), turnTable(record, bars, live)),
        record.barge_ins.length ? part("barge-ins", "Barge-ins", legend(BARGE_IN_KINDS), bargeInTable(record)) : "");
      const again = content.querySelector(".scroll");
      again.scrollLeft = left;
      if (focused) again.focus();
    },
  };
}
