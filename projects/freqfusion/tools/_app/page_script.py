"""Script of the viewer's page."""

SCRIPT = """
"use strict";
const byId = (id) => document.getElementById(id);
const meta = (name) => document.querySelector(`meta[name=${name}]`).content;
const panels = new Map([...document.querySelectorAll(".panel")]
  .map((panel) => [panel.dataset.kind, panel]));
const part = (kind, name) => panels.get(kind).querySelector(name);
const OF_TASK = ["prediction", "confidence"], OF_LAYER = ["similarity", "spectrum"];
const state = { look: null, kinds: [], point: [0.5, 0.5], example: 0 };
const wanted = new Map();  // the newest request of each kind of picture
let working = false, loads = 0;

async function call(path, body) {
  let answer;
  try {
    answer = await fetch(path, { method: "POST", body, headers: { "X-Token": meta("token") } });
  } catch {
    throw new Error("The server does not answer; has it ended?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error || `The server says ${answer.status}.`);
  return content;
}
function say(text) { byId("status").value = text; }
function complain(text) {
  byId("message").textContent = text;
  byId("message").hidden = !text;
}

async function look(path, body, what) {
  const mine = ++loads;
  say(`looking at ${what}…`);
  complain("");
  document.body.setAttribute("aria-busy", "true");
  try {
    const seen = await call(path, body);
    if (mine !== loads) return;
    Object.assign(state, { look: seen.look, kinds: seen.kinds, point: [0.5, 0.5] });
    byId("empty").hidden = true;
    byId("panels").hidden = byId("layer-label").hidden = false;
    for (const [kind, panel] of panels) {
      panel.hidden = kind !== "image" && !seen.kinds.includes(kind);
      part(kind, "img").removeAttribute("src");
      part(kind, ".stage").style.aspectRatio =
        "placed" in part(kind, ".stage").dataset ? `${seen.width} / ${seen.height}` : "";
    }
    part("image", "img").src = seen.image;
    offer(seen.tasks);
    place();
    const [width, height] = seen.before, smaller = width > seen.width;
    say(`${what}, ${width} × ${height}` +
      (smaller ? `, looked at in ${seen.width} × ${seen.height}` : ""));
    ask(seen.kinds);
  } catch (error) {
    if (mine !== loads) return;
    say("");
    complain(error.message);
  } finally {
    if (mine === loads) document.body.removeAttribute("aria-busy");
  }
}
function open(file) {
  const most = Number(meta("max-bytes"));
  if (file.size > most) {
    complain(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; an image may have ` +
      `${most / 1e6} MB.`);
  } else look("/api/look", file, file.name || "the pasted image");
}
function offer(tasks) {
  const box = byId("tasks"), before = task();
  box.querySelectorAll("label").forEach((one) => one.remove());
  box.hidden = !tasks.length;
  tasks.forEach((name, at) => {
    const label = document.createElement("label"), radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "task", value: name });
    radio.checked = tasks.includes(before) ? name === before : at === tasks.length - 1;
    const text = document.createElement("span");
    text.textContent = name;
    label.append(radio, text);
    box.append(label);
  });
}
function task() { return document.querySelector("#tasks :checked")?.value; }
function layer() {
  const chosen = byId("layer").value;
  return chosen === "*" ? byId("module").value.trim() : chosen;
}

// One picture is asked for at a time; of several wishes for the same one the last is kept.
function ask(kinds) {
  for (const kind of kinds) {
    if (!state.kinds.includes(kind)) continue;
    panels.get(kind).setAttribute("aria-busy", "true");
    wanted.delete(kind);
    wanted.set(kind, { look: state.look, kind, task: task(), layer: layer(),
      x: state.point[0], y: state.point[1] });
  }
  if (!working) work();
}
async function work() {
  working = true;
  while (wanted.size) {
    const [kind, wish] = wanted.entries().next().value;
    wanted.delete(kind);
    let seen = {}, problem = "";
    try {
      seen = await call("/api/picture", JSON.stringify(wish));
    } catch (error) { problem = error.message; }
    if (wish.look === state.look && !wanted.has(kind)) show(kind, seen, problem);
  }
  working = false;
}
function show(kind, seen, problem) {
  panels.get(kind).removeAttribute("aria-busy");
  const said = part(kind, ".problem");
  said.textContent = problem;
  said.hidden = !problem;
  panels.get(kind).classList.toggle("stale", !!problem);
  if (problem) return;
  part(kind, "img").src = seen.picture;
  part(kind, "figcaption").textContent = seen.note;
  const scale = part(kind, ".scale");
  scale.hidden = !seen.scale;
  if (seen.scale) [...scale.querySelectorAll("b")].forEach((end, at) => {
    end.textContent = seen.scale[at].toFixed(2).replace("-", "−");
  });
  part(kind, ".legend").replaceChildren(...seen.legend.map(({ name, color }) => {
    const item = document.createElement("li"), swatch = document.createElement("i");
    swatch.style.background = `rgb(${color.join()})`;
    item.append(swatch, name);
    return item;
  }));
}

function place() {
  for (const at of document.querySelectorAll(".stage[data-placed] .at")) {
    at.style.left = `${100 * state.point[0]}%`;
    at.style.top = `${100 * state.point[1]}%`;
    at.hidden = false;
  }
}
let later;
function move(x, y, wait) {
  state.point = [x, y].map((one) => Math.min(1, Math.max(0, one)));
  place();
  clearTimeout(later);
  later = setTimeout(() => ask(["similarity", "before"]), wait);
}
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
for (const stage of document.querySelectorAll(".stage[data-placed]")) {
  stage.addEventListener("click", (event) => {
    const box = stage.getBoundingClientRect();
    move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, 0);
  });
  stage.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const size = event.shiftKey ? 0.1 : 0.02;
    move(state.point[0] + size * step[0], state.point[1] + size * step[1], 150);
  });
}

byId("file").addEventListener("change", (event) => {
  if (event.target.files[0]) open(event.target.files[0]);
  event.target.value = "";  // the same file may be chosen again
});
byId("example").addEventListener("click", () =>
  look("/api/example", JSON.stringify({ number: state.example++ }), "a painted scene"));
byId("tasks").addEventListener("change", () => ask(OF_TASK));
byId("layer").addEventListener("change", () => {
  const free = byId("layer").value === "*";
  byId("module-label").hidden = !free;
  if (free) byId("module").focus();
  if (layer()) ask(OF_LAYER);
});
byId("module").addEventListener("change", () => { if (layer()) ask(OF_LAYER); });

let depth = 0;
const holdsFile = (event) => [...event.dataTransfer?.types ?? []].includes("Files");
addEventListener("dragenter", (event) => {
  if (holdsFile(event)) document.body.classList.toggle("dropping", ++depth > 0);
});
addEventListener("dragleave", (event) => {
  if (holdsFile(event)) document.body.classList.toggle("dropping", --depth > 0);
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (file) open(file);
  else complain("That was no file; drop an image from a folder.");
});
addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) open(file);
});

for (const [kind, panel] of panels) {
  panel.querySelector(".enlarge").addEventListener("click", () => {
    const picture = part(kind, "img");
    if (!picture.src) return;
    byId("big").src = picture.src;
    byId("big").alt = byId("caption").textContent = picture.alt;
    byId("large").showModal();
  });
}
byId("close").addEventListener("click", () => byId("large").close());
byId("big").addEventListener("click", () => byId("large").close());
"""
