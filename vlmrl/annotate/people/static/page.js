// The page's calls and views. All text from the ledger goes in by textContent alone.

import { Player } from "/clips.js";
import { Review } from "/review.js";

const $ = (id) => document.getElementById(id);
const VIEWS = ["signin", "compare", "done", "review", "progress"];
const local = document.querySelector("meta[name=vlmrl-token]").content;
const KEYS = { 1: "a", 2: "b", "=": "tie", "?": "unsure", "/": "unsure" };

let view = "", question = null, shown_at = 0, busy = false, again = null, review = null;
let current = Promise.resolve();

function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("vlmrl-token", given);
    history.replaceState(null, "", location.pathname);
  }
  return local || sessionStorage.getItem("vlmrl-token") || "";
}

class Refused extends Error {}

async function raw(path, body) {
  const options = { headers: { Authorization: `Bearer ${token()}` }, cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the page's server does not answer");
  }
  if (response.status === 401) throw new Refused("this token is not known here");
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.error || `the server says ${response.status}`);
  }
  return response;
}

const call = async (path, body) => (await raw(path, body)).json();

async function picture(key, side, number) {
  return createImageBitmap(await (await raw(`/api/picture/${key}/${side}/${number}`)).blob());
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key === "text") made.textContent = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Runs one thing at a time; what fails stays on the screen and can be tried again, so no answer is lost unseen.
// Keys pressed meanwhile are dropped, for they were meant for what is gone; a change of view waits its turn.
async function attempt(what, act, { patient = false } = {}) {
  while (busy && patient) await current;
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  let finished;
  current = new Promise((resolve) => { finished = resolve; });
  try {
    $("trouble").hidden = true;
    await act();
  } catch (error) {
    if (error instanceof Refused) signIn(error.message);
    else trouble(`${what}: ${error.message}`, () => attempt(what, act));
  } finally {
    busy = false;
    document.body.classList.remove("busy");
    finished();
  }
}

function trouble(text, retry) {
  $("trouble").querySelector("span").textContent = text;
  $("trouble").hidden = false;
  again = retry;
}
$("trouble").querySelector("button").addEventListener("click", () => again && again());

function show(name) {
  view = name;
  for (const one of VIEWS) $(one).hidden = one !== name;
  const chosen = name === "done" ? "compare" : name;
  for (const button of document.querySelectorAll("nav button")) {
    button.toggleAttribute("aria-current", button.dataset.view === chosen);
  }
  if (name !== "compare") player.pause();
  document.title = `${chosen === "signin" ? "Sign in" : chosen[0].toUpperCase() + chosen.slice(1)} · vlmrl`;
}

// ---- signing in

function signIn(why) {
  if (local) {
    // The server was started anew and has another token.
    if (sessionStorage.getItem("vlmrl-reloaded") !== local) {
      sessionStorage.setItem("vlmrl-reloaded", local);
      location.reload();
    } else trouble(why, () => location.reload());
    return;
  }
  const had = sessionStorage.getItem("vlmrl-token");
  sessionStorage.removeItem("vlmrl-token");
  show("signin");
  if (had) trouble(why, () => { $("trouble").hidden = true; });
  $("token").focus();
}

$("signin").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("vlmrl-token", $("token").value.trim());
  $("token").value = "";
  $("trouble").hidden = true;
  start();
});

// ---- comparing

const player = new Player($("stage"), $("compare").querySelector(".transport"), picture);

async function take(content) {
  question = content.question;
  const left = content.left === 1 ? "1 answer wanted" : `${content.left} answers wanted`;
  $("count").textContent = `${content.done} answered by you · ${left} in all`;
  $("donetext").textContent = `${content.done} answered by you, ${left} from everybody together. New pairs come with “vlmrl label route”.`;
  $("undo").disabled = $("undolast").disabled = content.done === 0;
  if (!question) { show("done"); return; }
  show("compare");
  $("sentence").textContent = question.sentence;
  $("stage").classList.add("loading");
  await player.load(question.key, question.sides);
  $("stage").classList.remove("loading");
  shown_at = performance.now();
}

const following = () => attempt("No pair could be fetched", async () => take(await call("/api/next", {})), { patient: true });

function answer(choice) {
  if (!question || busy || view !== "compare") return;
  const button = document.querySelector(`.answers [data-answer=${choice}]`);
  const seconds = Math.min(86400, Math.max(0, (performance.now() - shown_at) / 1000));
  const body = { key: question.key, answer: choice, seconds };
  button.classList.add("chosen");
  const side = { a: 0, b: 1 }[choice];
  if (side !== undefined) $("stage").querySelector(`[data-side="${side}"]`).classList.add("chosen");
  attempt("Not saved", async () => {
    const found = await call("/api/answer", body);
    clear();
    await take(found);
    if (!found.written) trouble("Somebody, or another tab, has answered that pair already; this is the next.", () => { $("trouble").hidden = true; });
  }).finally(clear);
}

function clear() {
  for (const one of document.querySelectorAll("#compare .chosen")) one.classList.remove("chosen");
}

function undo() {
  attempt("Not taken back", async () => take(await call("/api/undo", {})));
}

for (const button of document.querySelectorAll(".answers button")) {
  button.addEventListener("click", () => { answer(button.dataset.answer); button.blur(); });
}
$("undo").addEventListener("click", undo);
$("undolast").addEventListener("click", undo);
$("more").addEventListener("click", following);

document.addEventListener("keydown", (event) => {
  const field = event.target.closest("input:not([type=range]), select, textarea");
  if (event.metaKey || event.altKey || (event.ctrlKey && event.key !== "z") || field || view === "signin") return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const act = {
    compare: {
      u: undo, z: undo, Backspace: undo, " ": () => player.toggle(),
      ArrowLeft: () => player.step(-1), ArrowRight: () => player.step(1),
      Home: () => { player.pause(); player.seek(0); }, End: () => { player.pause(); player.seek(1); },
    },
    done: { u: undo, z: undo, Backspace: undo },
    review: review ? review.keys : {},
  }[view]?.[key];
  if (key === "z" && !event.ctrlKey) return;
  if (act) { event.preventDefault(); act(); }
  else if (KEYS[event.key] && view === "compare") { event.preventDefault(); if (!event.repeat) answer(KEYS[event.key]); }
  else if (KEYS[event.key] && view === "review") { event.preventDefault(); if (!event.repeat) review.correct(KEYS[event.key]); }
});

// ---- progress

function figure(value, low, high) {
  return value === null ? "–" : `${value.toFixed(2)}${low === null ? "" : ` [${low.toFixed(2)}, ${high.toFixed(2)}]`}`;
}

function table(head, rows) {
  const made = element("table", {}, element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { text, scope: "col" })))));
  made.append(element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((text) => element("td", { text }))))));
  return element("div", { class: "scroll" }, made);
}

async function progress() {
  const found = await call("/api/progress");
  show("progress");
  const people = found.people.map((p) => [
    p.name === found.you ? `${p.name} (you)` : p.name, String(p.answers), String(p.corrections),
    p.seconds === null ? "–" : `${p.seconds.toFixed(1)} s`, p.repeated ? `${p.same} of ${p.repeated}` : "–",
  ]);
  const machines = found.labelers.filter((l) => l.pairs).map((l) => [l.person, l.labeler, String(l.pairs), figure(l.value, l.low, l.high)]);
  $("progress").replaceChildren(
    element("h1", { text: "Progress and agreement" }),
    element("p", { text: found.left ? `${found.left} answers are still wanted.` : "Every pair on the queue is answered." }),
    people.length ? table(["person", "answers", "corrections", "median time", "same when asked again"], people) : element("p", { class: "faint", text: "Nobody has answered yet." }),
    element("h2", { text: "Between people" }),
    element("p", { text: found.alpha.pairs ? `Krippendorff's alpha ${figure(found.alpha.value, found.alpha.low, found.alpha.high)} over ${found.alpha.pairs} pairs that two or more judged blind.` : "No pair has been judged by two people yet." }),
    element("h2", { text: "Between people and labelers" }),
    machines.length ? table(["person", "labeler", "pairs", "Cohen's kappa"], machines) : element("p", { class: "faint", text: "No pair has been judged by a person and a labeler yet." }),
    element("p", { class: "faint", text: "Corrections, which see what others said, are left out of all agreement; so is “cannot tell”. Brackets: 95 % over episodes. Kappa is 1 for full agreement and 0 for that of chance." }),
  );
}

// ---- the start

for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => {
    button.blur();
    if (view === "signin" || !review) return;
    if (button.dataset.view === "compare") following();
    else if (button.dataset.view === "progress") attempt("No figures", progress, { patient: true });
    else attempt("No review", async () => { await review.open(); show("review"); }, { patient: true });
  });
}

function start() {
  if (!token()) { signIn(""); return; }
  attempt("The page cannot start", async () => {
    const me = await call("/api/me");
    $("who").textContent = me.name;
    const percent = (share) => `${Math.round(100 * share)} %`;
    $("shares").textContent =
      `About ${percent(me.shares.relabel)} of the pairs were labelled by a model and ${percent(me.shares.repeat)} you have seen before; which ones is not told.`;
    review = review || new Review({ call, picture, element, attempt });
    await take(await call("/api/next", {}));
    sessionStorage.removeItem("vlmrl-reloaded");
  });
}
start();
