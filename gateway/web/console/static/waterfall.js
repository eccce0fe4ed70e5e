// What waited for what: bars on one time axis, which begins where the caller fell silent.

import { h } from "./dom.js";
import { ms } from "./format.js";

export const KINDS = [
  ["model", "Model: turn end, thinking"],
  ["voice", "Model: first audio"],
  ["tool", "Tool"],
  ["gateway", "Gateway: to first voice"],
  ["carrier", "Carrier: until played"],
];

export const BARGE_IN_KINDS = [
  ["gateway", "Gateway: speech detected"],
  ["carrier", "Carrier: playback stopped"],
];

export function bargeInBars(segments) {  // from the caller's onset; none without a detected one
  const { bargein_detect: detect, bargein_silence: silence } = segments;
  if (detect === undefined) return [];
  const bars = [{ kind: "gateway", what: "onset to decision", from_ms: 0, to_ms: detect }];
  if (silence !== undefined) bars.push({ kind: "carrier", what: "decision to silence at the carrier", from_ms: detect, to_ms: silence });
  return bars;
}

export function legend(kinds = KINDS) {
  return h("ul", { class: "legend", "aria-label": "Colours of the stretches" },
    kinds.map(([kind, name]) => h("li", {}, h("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), name)));
}

export function span(turns) {  // [end of an axis that holds every turn, its step], both round
  const longest = Math.max(100, ...turns.flatMap((turn) => turn.bars.map((bar) => bar.to_ms)));
  const ten = 10 ** Math.floor(Math.log10(longest / 4));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * ten).find((part) => longest / part <= 5);
  return [Math.ceil(longest / step) * step, step];
}

export function track(bars, longest) {
  const main = bars.filter((bar) => bar.kind !== "tool");
  const tools = bars.filter((bar) => bar.kind === "tool");
  const make = (bar) => {
    const element = h("span", { class: `bar ${bar.kind}`, title: `${bar.what}: ${ms(bar.to_ms - bar.from_ms)}` });
    element.style.left = `${(100 * bar.from_ms) / longest}%`;
    element.style.width = `${(100 * Math.max(0, Math.min(bar.to_ms, longest) - bar.from_ms)) / longest}%`;
    return element;
  };
  return h("div", { class: "track", "aria-hidden": "true" },
    h("div", { class: "lane" }, main.map(make)),
    tools.length ? h("div", { class: "lane thin" }, tools.map(make)) : null);
}

export function said(bars) {  // the same for those who do not see the bars
  return bars.map((bar) => `${bar.what} ${ms(bar.to_ms - bar.from_ms)}`).join(", ");
}

export function axis(longest, step) {
  const ticks = [...Array(Math.round(longest / step) + 1).keys()].map((i) => i * step);
  return h("div", { class: "axis", "aria-hidden": "true" },
    ticks.map((at) => {
      const tick = h("span", {}, at ? ms(at) : "0");
      tick.style.left = `${(100 * at) / longest}%`;
      return tick;
    }));
}
