// The first page: calls now, percentiles, last turns, calls that ended.

import { body, cell, h, keyed, put, row, table } from "./dom.js";
import { NONE, clock, count, duration, inShort, ms, parts, phase, title, words } from "./format.js";
import { mayAct, placing } from "./steer.js";
import { sparkline } from "./charts.js";
import { axis, legend, said, span, track } from "./waterfall.js";

export const WINDOWS = [["1m", "1 minute"], ["5m", "5 minutes"], ["1h", "1 hour"]];

const MIN_P95 = 20;
const MIN_P99 = 300;

function verdict(segment) {  // [class, text]: never by colour alone
  if (!segment.count) return ["unsure", "no samples in this window"];
  if (segment.target_ms === undefined) return ["", ""];
  const target = ms(segment.target_ms);
  if (segment.p95_ms === undefined) return ["unsure", `target ${target}: too few samples`];
  const share = `${(100 * segment.within).toFixed(segment.within >= 0.995 && segment.within < 1 ? 1 : 0)} % within ${target}`;
  return segment.p95_ms <= segment.target_ms ? ["good", `✓ P95 in target, ${share}`] : ["bad", `▲ P95 over target, ${share}`];
}

function section(id, heading, ...children) {
  return h("section", { "aria-labelledby": id }, h("div", { class: "head" }, h("h2", { id }, heading), children.shift()), children);
}

function callLink(call) {
  return h("a", { href: `#/call/${encodeURIComponent(call.call_sid)}` }, call.caller || "unknown caller");
}

function card(segment) {
  const names = ["P50", "P95", "P99"];
  const figures = names.map((name) => h("div", {}, h("dt", {}, name), h("dd", { class: "figure" }, NONE)));
  const chart = h("div", { class: "chart" });
  const element = h("li", { class: "card" },
    h("div", { class: "top-line" }, h("h3", {}, title(segment.name)), h("span", { class: "samples" })),
    h("p", { class: "from", title: `${segment.start} → ${segment.end}` }, inShort(segment)),
    h("dl", { class: "figures" }, figures),
    chart,
    h("div", {}, h("p", {}, h("span", { class: "mark" })), h("p", { class: "parts", hidden: true })));
  element.chart = sparkline(chart, { height: 84, axes: true });
  return element;
}

function fillFigures(elements, segment) {
  const values = [segment.p50_ms, segment.p95_ms, segment.p99_ms].map(ms);  // absent where withheld
  elements.forEach((element, i) => put(element, values[i]));
}

function fillParts(element, segment, all) {  // medians: they need not add up
  const known = parts(segment.name).map(([name, word]) => [word, all.find((one) => one.name === name)?.p50_ms]).filter(([, value]) => value !== undefined);
  put(element, known.length ? `P50 of its parts: ${known.map(([word, value]) => `${word} ${ms(value)}`).join(", ")}` : "");
  element.hidden = !known.length;
}

function fillCard(element, segment, all) {
  fillFigures([...element.querySelectorAll("dd")], segment);
  const [kind, text] = verdict(segment);
  const mark = element.querySelector(".mark");
  mark.className = `mark ${kind}`;
  put(mark, text);
  put(element.querySelector(".samples"), count(segment.count, "sample", "samples"));
  fillParts(element.querySelector(".parts"), segment, all);
  element.classList.toggle("idle", !segment.count);
  if (segment.points) element.chart.show(segment.points, segment.target_ms);
  else element.chart.show([[null], [null]], null);
}

function segmentRow(segment) {
  const chart = h("div", { class: "spark" });
  const element = row({},
    h("th", { scope: "row", role: "rowheader" }, h("span", { class: "name" }, title(segment.name)),
      h("span", { class: "from" }, `${segment.start} → ${segment.end}`)),
    cell("Median and slowest", chart),
    cell("P50", h("span", { class: "figure" })),
    cell("P95", h("span", { class: "figure" })),
    cell("P99", h("span", { class: "figure" })),
    cell("Samples", h("span", { class: "samples" })),
    cell("Target", h("span", { class: "mark" })));
  element.chart = sparkline(chart, { height: 34 });
  return element;
}

function fillSegmentRow(element, segment) {
  fillFigures([...element.querySelectorAll(".figure")], segment);
  put(element.querySelector(".samples"), segment.count.toLocaleString());
  const [kind, text] = verdict(segment);
  const mark = element.querySelector(".mark");
  mark.className = `mark ${kind || "none"}`;
  put(mark, text || NONE);
  element.chart.show(segment.points, segment.target_ms);
}

function talkLink({ name, direct }) {
  const query = `agent=${encodeURIComponent(name)}`;
  return h("li", {}, h("a", { href: `/console/talk?${query}` }, `Talk to ${name}`),
    direct ? [" (", h("a", { href: `/console/direct?${query}` }, `${name} by both ways`), ")"] : null);
}

function activeRow(call) {
  return row({},
    h("th", { scope: "row", role: "rowheader" }, callLink(call)),
    ["Agent", "Phase", "For", "Turns", "Last turn gap"].map((name) => cell(name, h("span", {}))));
}

function fillActive(element, call) {
  const [agent, phased, elapsed, turns, gap] = element.querySelectorAll("td > span");
  put(agent, call.agent);
  phased.className = `phase ${call.phase}`;
  put(phased, call.tool ? `${phase(call.phase)}, ${call.tool}` : phase(call.phase));
  put(elapsed, duration(call.elapsed_ms));
  put(turns, String(call.turns));
  put(gap, ms(call.last_gap_ms));
}

function endedRow(call) {
  return row({},
    h("th", { scope: "row", role: "rowheader" }, callLink(call)),
    cell("Agent", call.agent),
    cell("Began", clock(call.started_at)),
    cell("Length", duration(call.duration_ms)),
    cell("Turns", String(call.turns)),
    cell("Slowest gap", ms(call.worst_gap_ms)),
    cell("Interrupted", String(call.barge_ins)),
    cell("Tools", String(call.tools)),
    cell("End", h("span", { class: call.fault ? "mark bad" : "" }, `${call.fault ? "▲ " : ""}${words(call.end_reason)}`),
      call.errors ? h("span", { class: "mark bad" }, ` ${count(call.errors, "error", "errors")}`) : null));
}

function turnItem(turn) {
  return h("li", {}, h("a", { href: `#/call/${encodeURIComponent(turn.call_sid)}` }), h("div", { class: "bars" }), h("b", { class: "figure" }), h("span", { class: "unseen" }));
}

function fillTurn(element, turn, longest) {
  const [link, bars, gap, text] = element.children;
  put(link, `${clock(turn.at)} turn ${turn.number}${turn.interrupted ? ", interrupted" : ""}, ${turn.agent}`);
  put(gap, ms(turn.gap_ms));
  put(text, `${turn.played ? "" : "until sent, "}${said(turn.bars)}`);
  const key = JSON.stringify([turn.bars, longest]);
  if (bars.dataset.drawn !== key) {
    bars.dataset.drawn = key;
    bars.replaceChildren(track(turn.bars, longest));
  }
}

function board(given) {
  return h("div", { class: "board" }, h("h3", {}, given.agent), h("p", { class: "mark bad", hidden: true }),
    h("p", { class: "empty", hidden: true }, "No lists yet."), h("ul", { class: "cards lists" }));
}

function listCard() {
  return h("li", { class: "card" }, h("div", { class: "top-line" }, h("h4", {}), h("span", { class: "samples" })),
    h("ul", { class: "items" }), h("p", { class: "quiet" }));
}

function listItem() {
  return h("li", {}, h("span", { class: "tick" }), h("span", { class: "text" }), h("span", { class: "person" }));
}

function fillItem(element, item) {
  const [tick, text, person] = element.children;
  put(tick, item.done ? "✓" : "");
  element.classList.toggle("done", item.done);
  put(text, item.done ? `${item.text} (done)` : item.text);
  put(person, item.person);
}

function fillList(element, list) {
  put(element.querySelector("h4"), list.name);
  const open = list.items.filter((item) => !item.done).length;
  put(element.querySelector(".samples"), [list.kind, `${open} open`].filter(Boolean).join(", "));
  keyed(element.querySelector(".items"), list.items.map((item, i) => ({ ...item, i })), (item) => item.i, listItem, fillItem);
  put(element.querySelector(".quiet"), list.more ? `and ${list.more} more` : "");
}

function fillBoard(element, given) {
  const [, error, empty, lists] = element.children;
  put(error, given.error);
  error.hidden = !given.error;
  empty.hidden = Boolean(given.lists.length || given.error);
  keyed(lists, given.lists.map((list, i) => ({ ...list, i })), (list) => `${list.i} ${list.name}`, listCard, fillList);
}

export function overview({ choose, window }) {
  const calls = body();
  const noCalls = h("p", { class: "empty" }, "Nobody is on the line.");
  const talk = h("ul", { class: "talk-to", "aria-label": "Call an agent from this page" });
  const place = h("div", {});
  const callTable = table("Calls now", [["Caller"], ["Agent"], ["Phase"], ["For", "number"], ["Turns", "number"], ["Last turn gap", "number"]], calls);
  const boards = h("div", {});
  const boardSection = section("boards", "Boards", null, boards);
  const cards = h("ul", { class: "cards" });
  const segments = body();
  const segmentTable = table("Percentiles of the other segments",
    [["Segment"], ["Median and slowest"], ["P50", "number"], ["P95", "number"], ["P99", "number"], ["Samples", "number"], ["Target"]], segments);
  const silent = h("p", { class: "quiet" });
  const outside = h("p", { class: "quiet" });
  const turns = h("ol", { class: "turns" });
  const scale = h("div", { class: "scale" });
  const noTurns = h("p", { class: "empty" }, "No turn has been answered yet.");
  const ended = body();
  const noEnded = h("p", { class: "empty" }, "No call has ended yet.");
  const endedTable = table("Calls that ended",
    [["Caller"], ["Agent"], ["Began"], ["Length", "number"], ["Turns", "number"], ["Slowest gap", "number"], ["Interrupted", "number"], ["Tools", "number"], ["End"]], ended);
  const summary = h("p", { class: "summary" });
  const endedSummary = h("p", { class: "summary" });
  const picker = h("fieldset", { class: "windows" }, h("legend", { class: "unseen" }, "Percentiles of the last"),
    WINDOWS.map(([value, name]) => h("label", {},
      h("input", { type: "radio", name: "window", value, checked: value === window, onchange: () => choose(value) }),
      h("span", {}, name))));
  const element = h("div", {},
    h("h1", { class: "unseen", tabindex: "-1" }, "Calls and latency"),
    section("now", "Calls now", summary, talk, place, callTable, noCalls),
    boardSection,
    section("latency", "Where the milliseconds go", picker, outside, cards),
    section("turns", "Last turns: what waited for what", null, legend(), noTurns, turns, scale),
    section("ended", "Calls that ended", endedSummary, endedTable, noEnded),
    section("others", "All other segments", null,
      h("details", { class: "more", open: matchMedia("(min-width: 761px)").matches }, h("summary", {}, "Percentiles and definitions"), segmentTable, silent)));

  return {
    element,
    async update(news) {
      const acts = await mayAct;
      put(summary, `${count(news.calls.length, "call", "calls")} of ${news.capacity.toLocaleString()}`);
      keyed(calls, news.calls, (call) => call.call_sid, activeRow, fillActive);
      callTable.hidden = !news.calls.length;
      noCalls.hidden = Boolean(news.calls.length);
      const talks = news.talk && acts ? news.agents.map((name) => ({ name, direct: news.direct.includes(name) })) : [];
      keyed(talk, talks, (one) => one.name, talkLink, () => {});
      if (!place.firstChild && news.places && acts) place.append(placing(news.agents));

      keyed(boards, news.boards, (given) => given.agent, board, fillBoard);
      boardSection.hidden = !news.boards.length;

      put(outside, `${news.outside} A P95 is shown from ${MIN_P95} samples on, a P99 from ${MIN_P99}.`);
      const headline = news.segments.filter((segment) => segment.headline);
      const others = news.segments.filter((segment) => !segment.headline);
      keyed(cards, headline, (segment) => segment.name, card, (element, segment) => fillCard(element, segment, news.segments));
      keyed(segments, others.filter((segment) => segment.count), (segment) => segment.name, segmentRow, fillSegmentRow);
      const without = others.filter((segment) => !segment.count).map((segment) => title(segment.name));
      put(silent, without.length ? `No samples in this window: ${without.join(", ")}.` : "");

      const [longest, step] = span(news.turns);
      keyed(turns, news.turns, (turn) => `${turn.call_sid} ${turn.number}`, turnItem, (item, turn) => fillTurn(item, turn, longest));
      if (scale.dataset.longest !== String(longest)) {
        scale.dataset.longest = longest;
        scale.replaceChildren(axis(longest, step));
      }
      scale.hidden = !news.turns.length;
      noTurns.hidden = Boolean(news.turns.length);

      const faults = news.ended.filter((call) => call.fault).length;
      put(endedSummary, `${count(news.ended_count, "call", "calls")} kept${faults ? `, ${count(faults, "fault", "faults")} among those shown` : ""}`);
      keyed(ended, news.ended, (call) => call.call_sid, endedRow, () => {});
      endedTable.hidden = !news.ended.length;
      noEnded.hidden = Boolean(news.ended.length);
    },
  };
}
