// What an operator may do: to a call that goes on, and to place one. Refusals are shown in the gateway's own words.

import { h, put } from "./dom.js";

export async function act(path, body) {  // the answer, or why there is none: `{error}`
  try {
    const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const text = await response.text();
    if (response.ok) return JSON.parse(text);
    return { error: text.startsWith("{") ? "That cannot be done now." : text.trim() };
  } catch {
    return { error: "The gateway does not answer." };
  }
}

async function steer(path, body) {
  return (await act(`/console/api/steer${path}`, body)).error || "Done.";
}

// Whether this sign-in may do more than look.
export const mayAct = fetch("/console/api/me").then((answer) => answer.json()).then(({ acts }) => acts).catch(() => false);

function line(id, label, name, buttons, more = {}) {
  const field = h("input", { id, type: "text", maxlength: 500, autocomplete: "off", ...more });
  const outcome = h("p", { class: "quiet", role: "status" });
  const made = buttons.map(([text, path]) => h("button", { type: "button", onclick: async () => {
    put(outcome, "");
    put(outcome, await steer(path, name ? { [name]: field.value } : {}));
  } }, text));
  return h("div", { class: "act" }, name ? [h("label", { for: id }, label), field] : null, made, outcome);
}

export function steering(callSid) {
  const to = (action) => `/${encodeURIComponent(callSid)}/${action}`;
  return h("section", { class: "steer", "aria-labelledby": "steer" },
    h("details", {}, h("summary", {}, h("h2", { id: "steer" }, "Steer this call")),
      line("steer-text", "Words", "text", [["Have the agent say it", to("say")], ["Note it to the model", to("note")]]),
      line("steer-to", "Number or SIP address", "to", [["Transfer", to("transfer")]]),
      line("", "", "", [["Hold", to("hold")], ["Resume", to("resume")], ["Hang up", to("hang_up")]])));
}

export function placing(agents) {
  const agent = h("select", { id: "place-agent" }, agents.map((name) => h("option", { value: name }, name)));
  const number = h("input", { id: "place-to", type: "text", autocomplete: "off" });
  const outcome = h("p", { class: "quiet", role: "status" });
  const button = h("button", { type: "button", onclick: async () => {
    const became = await steer("", { to: number.value, agent: agent.value });
    put(outcome, became === "Done." ? "The call is queued." : became);
  } }, "Place the call");
  return h("details", { class: "steer" }, h("summary", {}, "Place a call"),
    h("div", { class: "act" }, h("label", { for: "place-to" }, "Number or SIP address"), number,
      h("label", { for: "place-agent" }, "Agent"), agent, button, outcome));
}
