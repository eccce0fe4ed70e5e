// What an operator may do: to a call that goes on, and to place one. Refusals are shown in the gateway's own words.

import { h, put } from "./dom.js";

async function act(path, body) {  // what became of it, as a sentence
  try {
    const response = await fetch(`/console/api/steer${path}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (response.ok) return "Done.";
    if (response.status === 409) return "That cannot be done now.";
    return (await response.text()).trim();
  } catch {
    return "The gateway does not answer.";
  }
}

function line(id, label, name, buttons, more = {}) {
  const field = h("input", { id, type: "text", maxlength: 500, autocomplete: "off", ...more });
  const outcome = h("p", { class: "quiet", role: "status" });
  const made = buttons.map(([text, path]) => h("button", { type: "button", onclick: async () => {
    put(outcome, "");
    put(outcome, await act(path, name ? { [name]: field.value } : {}));
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
    const became = await act("", { to: number.value, agent: agent.value });
    put(outcome, became === "Done." ? "The call is queued." : became);
  } }, "Place the call");
  return h("details", { class: "steer" }, h("summary", {}, "Place a call"),
    h("div", { class: "act" }, h("label", { for: "place-to" }, "Number or SIP address"), number,
      h("label", { for: "place-agent" }, "Agent"), agent, button, outcome));
}
