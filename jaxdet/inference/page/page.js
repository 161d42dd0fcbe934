"use strict";

const $ = (id) => document.getElementById(id);
const state = { facts: null, image: null, grid: [0, 0], token: null };

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

/* A question about the image; its answer, or an error in the server's words. */
async function ask(path, numbers = {}) {
  const response = await fetch(`${path}?${new URLSearchParams(numbers)}`,
    { method: "POST", body: state.image });
  if (!response.ok) throw new Error(await response.text());
  return response;
}

/* Shows the answer as a picture, unless a later question about it, or a later image, came first. */
const latest = {};
async function show(id, path, numbers) {
  const turn = latest[id] = {};
  $(id).classList.add("waiting");
  try {
    const answer = await ask(path, numbers);
    const picture = await answer.blob();
    if (latest[id] !== turn) return;
    URL.revokeObjectURL($(id).src);
    $(id).src = URL.createObjectURL(picture);
  } finally {
    if (latest[id] === turn) $(id).classList.remove("waiting");
  }
}

const draw = () => show("drawing", "drawing", { score: $("score").value });
const attend = () => show("attention", "attention", {
  block: $("block").value, head: $("head").value, row: state.token[0], column: state.token[1] });

async function guarded(work) {
  try { await work(); } catch (error) { say(error.message, true); }
}

async function take(file) {
  if (!file) return;
  if (file.size > state.facts.largest) {
    say(`The file must have at most ${state.facts.largest / 2 ** 20} MiB.`, true);
    return;
  }
  state.image = file;
  const started = performance.now();
  const isCurrent = () => state.image === file;
  say(`Detecting on ${file.name} ...`);
  await guarded(async () => {
    const found = await (await ask("detections")).json();
    if (!isCurrent()) return;
    list(found);
    place(found.grid);
    await draw();
    $("views").hidden = false;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    const result = `${file.name}, ${found.width} x ${found.height} pixels: ${found.found} detections ` +
      `of any score in ${seconds} s.`;
    say(`${result} Looking inside; the first time, this is compiled ...`);
    await attend();
    if (isCurrent()) await show("pyramid", "pyramid");
    if (isCurrent()) say(result);
  });
}

/* The token stays where it is on maps of the same size, else it goes to the middle. */
function place(grid) {
  if (String(grid) !== String(state.grid)) state.token = grid.map((count) => Math.floor(count / 2));
  state.grid = grid;
}

function list(found) {
  $("found").textContent = `The best ${found.detections.length} of ${found.found}`;
  $("list").replaceChildren(...found.detections.map((each) => {
    const row = document.createElement("tr");
    const box = each.box.map((edge) => edge.toFixed(1)).join(", ");
    for (const text of [each.name, each.score.toFixed(3), box]) {
      row.insertCell().textContent = text;
    }
    return row;
  }));
}

function sayControls() {
  const window = state.facts.windows[$("block").value];
  $("score-said").textContent = Number($("score").value).toFixed(2);
  $("block-said").textContent = `${$("block").value}, ` +
    (window === null ? "global" : `windows of ${window}`);
}

function prepare(facts) {
  state.facts = facts;
  $("detector").textContent = `${facts.name}: ${facts.classes.length} classes, images of ` +
    `${facts.image_size} pixels`;
  $("score").value = facts.score;
  $("block").max = facts.windows.length - 1;
  $("block").value = facts.windows.length - 1;
  $("head").replaceChildren(new Option("mean of all", "mean"),
    ...Array.from({ length: facts.heads }, (_, i) => new Option(i, i)));
  sayControls();
}

function listen() {
  $("file").addEventListener("change", () => take($("file").files[0]));
  $("score").addEventListener("input", sayControls);
  $("block").addEventListener("input", sayControls);
  $("score").addEventListener("change", () => guarded(draw));
  $("block").addEventListener("change", () => guarded(attend));
  $("head").addEventListener("change", () => guarded(attend));
  $("attention").addEventListener("click", (event) => {
    const frame = $("attention").getBoundingClientRect();
    const [rows, columns] = state.grid;
    const position = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
    state.token = [position((event.clientY - frame.top) / frame.height, rows),
      position((event.clientX - frame.left) / frame.width, columns)];
    guarded(attend);
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  }
}

guarded(async () => {
  prepare(await (await fetch("facts")).json());
  listen();
});
