// Looks at the node ten times a second, and says what the operator says. Text goes in by textContent alone.

const $ = (id) => document.getElementById(id);
const KEYS = { " ": "stop", Escape: "stop", h: "home", Enter: "start", r: "reset", s: "success", f: "failure", d: "discard" };
const WHEN = {
  home: ["idle", "armed"], start: ["armed"], pause: ["running"], resume: ["paused"], reset: ["stopped", "fault"],
  success: ["running", "paused"], failure: ["running", "paused"], discard: ["running", "paused"],
};
const SVG = "http://www.w3.org/2000/svg";
let state = "", cameras = [], drawn = "", first = null, last = 0;

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("vlmrl-robot", given);
  history.replaceState(null, "", location.pathname);
}

async function call(path, word) {
  const options = { headers: { Authorization: `Bearer ${sessionStorage.getItem("vlmrl-robot") || ""}` }, cache: "no-store" };
  if (word) Object.assign(options, { method: "POST", body: JSON.stringify({ word }) }), (options.headers["Content-Type"] = "application/json");
  const response = await fetch(path, options);
  if (response.status === 401) throw new Error("this token is not known here: open the address that the command printed");
  if (!response.ok) throw new Error(`the robot's computer answers ${response.status}`);
  return response;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

async function say(word) {
  try {
    await call("/api/say", word);
  } catch (error) {
    trouble(word === "stop" ? "STOP DID NOT GET THROUGH: use the emergency stop" : `${word}: ${error.message}`);
  }
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function row(joint) {
  const made = document.createElement("tr"), bar = shape("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" });
  bar.append(shape("rect", { class: "track", x: 0, y: 2.5, width: 100, height: 5 }),
    shape("rect", { class: "here", y: 1, width: 1.6, height: 8 }), shape("line", { class: "asked", y1: 0, y2: 10 }));
  const cells = ["th", "td", "td"].map((name) => document.createElement(name));
  cells[0].textContent = joint.name.replaceAll("_", " ");
  cells[1].append(bar);
  made.append(...cells);
  return made;
}

function joints(status) {
  const body = $("joints").tBodies[0], names = status.joints.map((j) => j.name).join();
  if (drawn !== names) {
    body.replaceChildren(...status.joints.map(row));
    drawn = names;
  }
  status.joints.forEach((joint, k) => {
    const made = body.rows[k], at = status.position[k], asked = status.asked[k] ?? at;
    if (at === undefined) return;
    const place = (q) => Math.min(100, Math.max(0, (100 * (q - joint.lower)) / (joint.upper - joint.lower)));
    made.querySelector(".here").setAttribute("x", place(at) - 0.8);
    for (const end of ["x1", "x2"]) made.querySelector(".asked").setAttribute(end, place(asked));
    const margin = Math.min(at - joint.lower, joint.upper - at);
    made.classList.toggle("near", margin < 0.05);
    made.cells[2].textContent = `${at.toFixed(2)}, ${margin.toFixed(2)} from its end`;
  });
}

// What critic and reward model think; their scale is their own, so the change since the episode's start is said too.
function values(status) {
  if (status.step < last || !status.reward) first = null;
  last = status.step;
  const told = [];
  if (status.value !== null) told.push(`critic's value ${status.value.toFixed(3)}`);
  if (status.reward) {
    const [mean, deviation] = status.reward;
    first ??= mean;
    const change = mean - first;
    told.push(`reward ${mean.toFixed(3)} ± ${deviation.toFixed(3)} (${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(3)} since the start)`);
  }
  $("values").textContent = told.join(" · ");
  $("values").hidden = !told.length;
}

function show(status) {
  state = status.state;
  cameras = status.cameras;
  document.body.dataset.state = state;
  $("state").textContent = status.person ? `${state}, by hand` : state;
  $("sentence").textContent = status.sentence;
  $("who").textContent = `${status.robot} · ${status.pilot} · late ticks: ${status.late}`;
  $("steps").max = status.horizon || 1;
  $("steps").value = state === "running" || state === "paused" ? status.step : 0;
  $("time").textContent = `${(status.step / status.hz).toFixed(1)} s · episode ${Math.min(status.episode + 1, status.episodes)} of ${status.episodes}`;
  const reasons = status.reasons.filter((text) => !text.startsWith("speed"));
  $("why").textContent = status.latched || reasons.join("; ") || (state === "armed" || state === "idle" ? status.told : "");
  for (const button of document.querySelectorAll("[data-word]")) {
    const when = WHEN[button.dataset.word];
    if (when) button.disabled = !when.includes(state);
  }
  $("outcomes").replaceChildren(...status.outcomes.map((won) => {
    const made = document.createElement("li");
    made.className = won === 1 ? "won" : won === 0 ? "lost" : "";
    made.textContent = won === 1 ? "✓" : won === 0 ? "✗" : "?";
    return made;
  }));
  const stopped = state === "stopped" || state === "fault";
  for (const word of ["pause", "resume"]) document.querySelector(`[data-word=${word}]`).hidden = stopped || (word === "resume") !== (state === "paused");
  document.querySelector("[data-word=reset]").hidden = !stopped;
  document.querySelector("[data-word=home]").hidden = document.querySelector("[data-word=start]").hidden = stopped;
  joints(status);
  values(status);
}

async function look() {
  try {
    const status = await (await call("/api/status")).json();
    if (status.state) show(status);
    trouble("");
  } catch (error) {
    document.body.dataset.state = "";
    $("state").textContent = "unknown";
    trouble(error instanceof TypeError ? "The robot's computer does not answer: if it still moves, use the emergency stop" : error.message);
  }
  setTimeout(look, 100);
}

async function picture() {
  if (cameras.length) {
    try {
      const blob = await (await call(`/api/picture/${encodeURIComponent(cameras[0])}`)).blob();
      const before = $("camera").src;
      $("camera").src = URL.createObjectURL(blob);
      $("camera").hidden = false;
      $("nopicture").hidden = true;
      if (before) URL.revokeObjectURL(before);
    } catch { /* the status says what is wrong */ }
  }
  setTimeout(picture, 150);
}

for (const button of document.querySelectorAll("[data-word]")) {
  // Pressing down is enough for a stop.
  const event = button.id === "stop" ? "pointerdown" : "click";
  button.addEventListener(event, () => say(button.dataset.word));
}
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const word = key === "p" ? (state === "paused" ? "resume" : "pause") : KEYS[key];
  if (!word || (event.repeat && word !== "stop")) return;
  // Space and Enter would press the button that has the focus as well.
  event.preventDefault();
  if (word === "stop" || !WHEN[word] || WHEN[word].includes(state)) say(word);
});
look();
picture();
