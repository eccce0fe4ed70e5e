// The page: which view stands in it, and the stream of snapshots that feeds it.

import { h, put } from "./dom.js";
import { callPage } from "./call.js";
import { historyPage } from "./history.js";
import { WINDOWS, overview } from "./overview.js";

const main = document.getElementById("main");
const state = document.getElementById("state");
const chips = document.getElementById("chips");
const outside = document.getElementById("outside");
const version = document.getElementById("version");

let window_ = WINDOWS.some(([value]) => value === localStorage.getItem("window")) ? localStorage.getItem("window") : "5m";
let stream = null;
let view = null;
let news = null;
let heard = Date.now();

const SILENT_MS = 8000;  // a snapshot comes each second; a connection that is dead says nothing, not even that

function say(text, kind) {  // only when it changes: it is read aloud
  put(state, text);
  state.className = `state ${kind}`;
}

function listen() {
  if (stream) stream.close();
  stream = new EventSource(`/console/events?window=${window_}`);
  stream.addEventListener("snapshot", (event) => {
    news = JSON.parse(event.data);
    heard = Date.now();
    say("Live", "on");
    refresh();
  });
  stream.addEventListener("error", () => {
    say("Not connected: trying again", "off");
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  });
}

function refresh() {
  if (!news || !view) return;
  const marks = [news.simulated && "rehearsal", news.draining && "draining"].filter(Boolean);
  if (chips.textContent !== marks.join("")) chips.replaceChildren(...marks.map((mark) => h("span", { class: "chip" }, mark)));
  put(outside, news.outside);
  put(version, `Offhook ${news.version}`);
  Promise.resolve(view.update(news)).catch((error) => say(`Cannot show this call: ${error.message}`, "off"));
}

function route(moved) {
  const [path, query] = location.hash.split("?");
  const [, where, id] = path.split("/");
  view?.close?.();
  if (where === "call" && id) view = callPage(decodeURIComponent(id));
  else if (where === "history") view = historyPage(query);
  else view = overview({ choose, window: window_ });
  main.replaceChildren(view.element);
  document.title = { call: "A call - Offhook console", history: "Past calls - Offhook console" }[where] || "Offhook console";
  for (const link of document.querySelectorAll(".pages a")) {
    if ((link.hash === "#/history") === (where === "history") && where !== "call") link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (moved) {
    scrollTo(0, 0);
    main.querySelector("h1").focus({ preventScroll: true });
  }
  refresh();
}

function choose(value) {
  window_ = value;
  localStorage.setItem("window", value);
  listen();
}

document.querySelector(".skip").addEventListener("click", (event) => {  // the hash is the route's
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => route(true));
setInterval(() => {
  if (Date.now() - heard < SILENT_MS) return;
  heard = Date.now();
  say("Not connected: trying again", "off");
  listen();
}, 2000);
route(false);
listen();
