// Past calls: what is looked for, the calls that fit, and the latency of the span beside another.

import { body, cell, h, row, table } from "./dom.js";
import { count, duration, ms, NONE, title, when, words } from "./format.js";

const DAY = 86400000;
const SPANS = [["1", "last day"], ["7", "last 7 days"], ["30", "last 30 days"], ["365", "last year"]];
const SLOW = [["turn_gap_over_ms:1500", "turn gap over 1.5 s"], ["turn_gap_over_ms:2000", "turn gap over 2 s"], ["turn_gap_over_ms:3000", "turn gap over 3 s"], ["barge_in_over_ms:500", "barge-in stopped after 500 ms"], ["barge_in_over_ms:1000", "barge-in stopped after 1 s"]];
const PAGE = 50;
const FIELDS = ["since", "until", "number", "agent", "end_reason", "tool", "words"];

function localTime(date) {  // as an input of the type datetime-local has it
  return new Date(date.getTime() - date.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

function field(name, label, input) {
  input.name = name;
  return h("label", { class: "field" }, h("span", {}, label), input);
}

function choice(options, every) {
  return h("select", {}, h("option", { value: "" }, every), options.map(([value, name]) => h("option", { value }, name)));
}

async function fetched(path, given) {
  const query = new URLSearchParams(Object.entries(given).filter(([, value]) => value));
  const response = await fetch(`/console/api/${path}?${query}`);
  if (response.ok) return response.json();
  throw new Error((await response.text()).trim() || `the gateway answered ${response.status}`);
}

function callRow(call) {
  const fault = call.end_side === "gateway" || call.end_side === "model";
  return row({},
    h("th", { scope: "row", role: "rowheader" }, h("a", { href: `#/call/${encodeURIComponent(call.call_sid)}` }, call.number || "unknown number"), call.direction === "outbound" ? h("span", { class: "quiet" }, " called") : null),
    cell("Agent", call.agent, call.simulated ? h("span", { class: "quiet" }, " (rehearsal)") : null),
    cell("Began", when(call.started_at)),
    cell("Length", duration(call.duration_ms)),
    cell("Turns", String(call.turns)),
    cell("Slowest gap", ms(call.turn_gap_ms)),
    cell("Tools", String(call.tools)),
    cell("Cost", call.cost_usd === null ? NONE : `$${call.cost_usd.toFixed(3)}`),
    cell("End", h("span", { class: fault ? "mark bad" : "" }, `${fault ? "▲ " : ""}${words(call.end_reason)}`),
      call.errors ? h("span", { class: "mark bad" }, ` ${count(call.errors, "error", "errors")}`) : null,
      call.has_recording ? [" ", h("span", { class: "chip" }, "recorded")] : null));
}

function change(now, before) {  // [class, text]: never by colour alone
  if (now === null || before === null || now === undefined || before === undefined) return ["none", NONE];
  const by = now - before;
  if (Math.abs(by) < Math.max(1, before * 0.02)) return ["", "as before"];
  return by > 0 ? ["bad", `▲ ${ms(by)} slower`] : ["good", `▼ ${ms(-by)} faster`];
}

function figures(segments, earlier) {
  const before = new Map((earlier || []).map((one) => [one.segment, one]));
  const rows = body();
  for (const one of segments) {
    const other = before.get(one.segment);
    const cells = ["p50_ms", "p95_ms", "p99_ms"].map((name) => cell(name.slice(0, 3).toUpperCase(), h("span", { class: "figure" }, ms(one[name])),
      earlier ? h("span", { class: "was" }, other ? ` was ${ms(other[name])}` : "") : null));
    const [kind, text] = change(one.p95_ms, other?.p95_ms);
    rows.append(row({}, h("th", { scope: "row", role: "rowheader" }, title(one.segment)), ...cells,
      cell("Samples", one.count.toLocaleString()),
      earlier ? cell("P95", h("span", { class: `mark ${kind}` }, text)) : null));
  }
  const columns = [["Segment"], ["P50", "number"], ["P95", "number"], ["P99", "number"], ["Samples", "number"], ...(earlier ? [["P95 against the span before"]] : [])];
  return table("Latency of the span", columns, rows);
}

export function historyPage(query) {
  const given = Object.fromEntries(new URLSearchParams(query));
  const inputs = {
    since: h("input", { type: "datetime-local" }),
    until: h("input", { type: "datetime-local" }),
    number: h("input", { type: "tel", placeholder: "+15551234567", autocomplete: "off" }),
    agent: choice([], "every agent"),
    end_reason: choice([], "every end"),
    tool: choice([], "any tool or none"),
    words: h("input", { type: "search", placeholder: 'pizza "for two"', autocomplete: "off" }),
    slow: choice(SLOW, "any speed"),
  };
  const span = choice(SPANS, "own times");
  const before = h("input", { type: "checkbox", checked: given.before === "1" });
  const trouble = h("p", { class: "errors", role: "alert", hidden: true });
  const summary = h("p", { class: "summary", role: "status" });
  const rows = body();
  const list = table("Past calls", [["Number"], ["Agent"], ["Began"], ["Length", "number"], ["Turns", "number"], ["Slowest gap", "number"], ["Tools", "number"], ["Cost", "number"], ["End"]], rows);
  const none = h("p", { class: "empty", hidden: true }, "No call fits.");
  const more = h("button", { type: "button", hidden: true, onclick: () => page().catch(show) }, "Show more");
  const latency = h("div", {});
  let next = null;

  function asked() {
    const found = Object.fromEntries(FIELDS.map((name) => [name, inputs[name].value.trim()]));
    for (const name of ["since", "until"]) if (found[name]) found[name] = new Date(found[name]).toISOString();
    const [slow, over] = inputs.slow.value.split(":");
    if (over) found[slow] = over;
    return found;
  }

  function show(error) {
    trouble.textContent = error.message;
    trouble.hidden = false;
    list.hidden = more.hidden = true;
    summary.textContent = "";
  }

  async function page() {
    const found = await fetched("history", { ...asked(), limit: PAGE, cursor: next });
    rows.append(...found.calls.map(callRow));
    next = found.next;
    more.hidden = next === null;
    list.hidden = !rows.childElementCount;
    none.hidden = Boolean(rows.childElementCount);
    summary.textContent = `${count(rows.childElementCount, "call", "calls")} shown, newest first${next === null ? "" : ", there are more"}`;
  }

  async function compare() {
    const { since, until, agent } = asked();
    const end = until ? new Date(until) : new Date();
    const begin = since ? new Date(since) : new Date(end - 7 * DAY);
    const spans = [[begin, end], ...(before.checked ? [[new Date(begin - (end - begin)), begin]] : [])];
    const both = await Promise.all(spans.map(([from, to]) => fetched("history/percentiles", { since: from.toISOString(), until: to.toISOString(), agent })));
    const [now, earlier] = both;
    latency.replaceChildren(
      h("p", { class: "quiet" }, `${when(now.since)} to ${when(now.until)}${agent ? `, ${agent}` : ", all agents"}${earlier ? `; before: from ${when(earlier.since)}` : ""}. By the hour, beyond 35 days by the day; the other filters do not apply.`),
      now.segments.length ? figures(now.segments, earlier?.segments) : h("p", { class: "empty" }, "No samples in this span."));
  }

  async function search() {
    trouble.hidden = true;
    rows.replaceChildren();
    next = null;
    await Promise.all([page(), compare()]);
  }

  function submit(event) {
    event.preventDefault();
    const kept = new URLSearchParams(Object.entries({ ...Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value.trim()])), before: before.checked ? "1" : "" }).filter(([, value]) => value));
    history.replaceState(null, "", `#/history?${kept}`);
    search().catch(show);
  }

  span.addEventListener("change", () => {
    if (!span.value) return;
    inputs.since.value = localTime(new Date(Date.now() - Number(span.value) * DAY));
    inputs.until.value = "";
    form.requestSubmit();
  });
  const form = h("form", { class: "search", onsubmit: submit, "aria-label": "What is looked for" },
    field("span", "Span", span), field("since", "From", inputs.since), field("until", "Until", inputs.until),
    field("words", "Words said", inputs.words), field("number", "Number", inputs.number),
    field("agent", "Agent", inputs.agent), field("end_reason", "End", inputs.end_reason), field("tool", "Tool", inputs.tool), field("slow", "Slow", inputs.slow),
    h("label", { class: "tick" }, before, " compare with the span before"),
    h("button", { type: "submit" }, "Search"));
  const element = h("div", {},
    h("h1", { tabindex: "-1" }, "Past calls"), form, trouble,
    h("section", { "aria-labelledby": "found" }, h("div", { class: "head" }, h("h2", { id: "found" }, "Calls"), summary), list, none, more),
    h("section", { "aria-labelledby": "figures" }, h("div", { class: "head" }, h("h2", { id: "figures" }, "Latency of the span")), latency));
  list.hidden = true;

  async function begin() {
    const names = await fetched("history/names", {});
    for (const [name, values] of [["agent", names.agents], ["end_reason", names.end_reasons], ["tool", names.tools]]) {
      inputs[name].append(...values.map((value) => h("option", { value }, name === "end_reason" ? words(value) : value)));
    }
    for (const [name, input] of Object.entries(inputs)) if (given[name]) input.value = given[name];
    await search();
  }
  begin().catch(show);
  return { element, update() {} };
}
