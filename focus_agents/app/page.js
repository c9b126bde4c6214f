// The page: what is dropped, drawn, asked and saved. The server holds the pictures; this holds the boxes.

import { Stage, drawPicture } from "./stage.js";

const ALIVE_SECONDS = 60;
const NUM_COLOURS = 5;
const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";

let limits = null;        // what the server has said of this session
let session = "";
let objects = [];         // {id, label}
let active = 0;           // the object that is drawn
let lastObject = 0;
const pictures = new Map(); // by number: {id, name, width, height, clip, url, drawn: [{object, box}], answers: [...] | null}
let current = null;
let hasAttention = false;
let leastScore = 0;
let search = null;        // {isStopped} while one runs
const stage = new Stage($("stage"), take);

// --- the server ---

async function ask(path, body, { headers = {}, keepalive = false } = {}) {
  const isFile = body instanceof Blob;
  const kind = isFile ? "application/octet-stream" : "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": kind, "X-Focus-Token": token, "X-Focus-Session": session, ...headers },
      body: isFile ? body : JSON.stringify(body ?? {}),
      keepalive,
    });
  } catch {
    throw new Error("the server does not answer; is focus app still running?");
  }
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `status ${answer.status}`);
  return answer.headers.get("Content-Type").startsWith("application/json") ? answer.json() : answer;
}

function say(message) {
  if ([...$("messages").children].some((one) => one.firstChild.textContent === message)) return;
  const item = document.createElement("li");
  const close = button("×", () => item.remove());
  close.setAttribute("aria-label", "dismiss");
  item.append(element("span", "", message), close);
  $("messages").append(item);
  item.scrollIntoView({ block: "nearest" });
}

async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    say(error.message);
    return null;
  }
}

// --- small parts ---

function element(name, classes, text) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, act, classes = "") {
  const made = element("button", classes, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;
const colourOf = (id) => Math.max(0, objects.findIndex((one) => one.id === id)) % NUM_COLOURS;
const labelOf = (id) => objects.find((one) => one.id === id)?.label ?? "";
const isBelow = (answer) => answer.score !== null && answer.kind === "found" && answer.score < leastScore;
const drawnOf = (picture, id) => picture.drawn.some((one) => one.object === id);
// What stands in a picture in place of a drawn box.
const answersOf = (picture) =>
  (picture.answers ?? []).filter((one) => one.kind !== "given" && labelOf(one.object) && !drawnOf(picture, one.object));

function boxesOf(picture) {
  const found = answersOf(picture).filter((one) => one.box).map((one) => ({
    box: one.box, colour: colourOf(one.object), kind: "found", isWeak: isBelow(one),
    label: labelOf(one.object) + (one.score === null ? "" : ` ${one.score.toFixed(2)}`),
  }));
  const given = picture.drawn.map((one) => ({
    box: one.box, colour: colourOf(one.object), kind: "given", label: labelOf(one.object),
  }));
  return { found, given };
}

// --- pictures ---

async function add(files) {
  for (const [place, file] of [...files].entries()) {
    if (file.size > limits.most_upload) {
      say(`${file.name}: expected a file of at most ${megabytes(limits.most_upload)}, got ${megabytes(file.size)}; scale the picture or cut the video`);
      continue;
    }
    $("done").textContent = $("limits").textContent = `reading ${place + 1} of ${files.length}: ${file.name}`;
    const headers = { "X-Focus-Name": encodeURIComponent(file.name) };
    const found = await attempt(() => ask("pictures", file, { headers }));
    if (found) await takeIn(found);
  }
  $("done").textContent = "";
  sayLimits();
}

async function takeIn({ pictures: added, note }) {
  if (note) say(note);
  for (const one of added) {
    const preview = await attempt(() => ask("preview", { picture: one.id }));
    if (!preview) continue;
    pictures.set(one.id, { ...one, url: URL.createObjectURL(await preview.blob()), drawn: [], answers: null });
    current ??= one.id;
  }
  paint();
}

async function remove(id) {
  const order = [...pictures.keys()], place = order.indexOf(id);
  URL.revokeObjectURL(pictures.get(id).url);
  pictures.delete(id);
  current = order[place + 1] ?? order[place - 1] ?? null;
  paint();
  await attempt(() => ask("remove", { pictures: [id] }));
}

function go(step) {
  const order = [...pictures.keys()], place = order.indexOf(current) + step;
  if (order[place] !== undefined) choose(order[place]);
}

function choose(id) {
  current = id;
  paint();
}

// --- boxes and objects ---

function take(box, index) {
  const picture = pictures.get(current);
  if (index >= 0) picture.drawn[index] = { ...picture.drawn[index], box };
  else picture.drawn.push({ object: active, box });
  paint();
}

function addObject() {
  lastObject += 1;
  active = lastObject;
  objects.push({ id: active, label: objects.length ? `object ${lastObject}` : "object" });
}

function removeObject(id) {
  objects = objects.filter((one) => one.id !== id);
  for (const picture of pictures.values()) picture.drawn = picture.drawn.filter((one) => one.object !== id);
  if (active === id) active = objects[0].id;
  paint();
}

function asked() {
  return objects.map(({ id, label }) => ({
    id, label,
    boxes: [...pictures.values()].flatMap((picture) =>
      picture.drawn.filter((one) => one.object === id).map((one) => ({ picture: picture.id, box: one.box }))),
  }));
}

// --- search ---

async function find() {
  const told = await attempt(() => {
    $("done").textContent = "getting ready";
    return ask("show", { objects: asked().filter((one) => one.boxes.length) });
  });
  $("done").textContent = "";
  if (!told) return;
  hasAttention = told.has_attention;
  $("policy").textContent = `Answered by ${told.policy}${told.reason ? `: ${told.reason}` : ""}.${told.licence ? ` ${told.licence}.` : ""}`;
  for (const picture of pictures.values()) picture.answers = null;
  const own = search = { isStopped: false };
  const started = performance.now();
  let count = 0, isEnded = false;
  paint();
  for (const id of [...pictures.keys()]) {
    if (own.isStopped) break;
    const picture = pictures.get(id);
    if (!picture) continue;
    const found = await attempt(() => ask("find", { picture: id }));
    if (!found) { isEnded = true; break; }
    picture.answers = found.answers;
    count += 1;
    $("progress").value = count / pictures.size;
    $("done").textContent = `${count} of ${pictures.size}`;
    paint(id);
  }
  search = null;
  const seconds = (performance.now() - started) / 1000;
  $("done").textContent = isEnded || own.isStopped ? `stopped after ${count}` : `${count} pictures in ${seconds.toFixed(1)} s`;
  paint();
}

async function showAttention(answer) {
  const picture = await attempt(() => ask("attention", { picture: current, object: answer.object }));
  if (!picture) return;
  $("attention").src = URL.createObjectURL(await picture.blob());
  $("looked").showModal();
}

async function save() {
  const minScore = leastScore > 0 ? leastScore : null;
  const answer = await attempt(() => ask("export", { format: $("format").value, min_score: minScore, objects: asked() }));
  if (!answer) return;
  const link = element("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = answer.headers.get("X-Focus-Name");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// --- what is seen ---

// All of it, or after an answer what shows that picture.
function paint(changed = null) {
  const isEmpty = pictures.size === 0;
  $("empty").hidden = !isEmpty;
  $("work").hidden = isEmpty;
  if (isEmpty) { sayLimits(); return; }
  if (changed === null || changed === current) paintStage();
  if (changed === null) { paintObjects(); paintGrid(); }
  else document.querySelector(`[data-picture="${changed}"]`)?.replaceWith(thumb(pictures.get(changed)));
  paintResults();
}

function paintStage() {
  const picture = pictures.get(current), { found, given } = boxesOf(picture), order = [...pictures.keys()];
  stage.show(picture, [...found, ...given], given);
  $("name").textContent = picture.name;
  $("before").disabled = current === order[0];
  $("after").disabled = current === order.at(-1);
  const anyDrawn = [...pictures.values()].some((one) => one.drawn.length);
  $("hint").textContent = anyDrawn ? "" : `Draw a box around ${labelOf(active)} here, with mouse or finger.`;
  const rows = picture.drawn.map((one, place) => row(one, "drawn by you", [
    ["Delete box", () => { picture.drawn.splice(place, 1); paint(); }],
  ]));
  for (const answer of answersOf(picture)) {
    const score = answer.score === null ? "" : `, score ${answer.score.toFixed(2)}`;
    const words = isBelow(answer) ? "below the least score" : answer.words;
    const acts = [];
    if (answer.box) acts.push(["Right: use as an example", () => { picture.drawn.push({ object: answer.object, box: answer.box }); paint(); }]);
    if (hasAttention) acts.push(["Where it looked", () => showAttention(answer)]);
    rows.push(row(answer, `${words}${score}${answer.text ? `: ${answer.text}` : ""}`, acts));
  }
  const drop = element("li");
  drop.append(button("Remove this picture", () => remove(picture.id), "slight"));
  $("boxes").replaceChildren(...rows, drop);
}

function row(one, words, acts) {
  const item = element("li", `object${colourOf(one.object)}`), what = element("span", "what");
  what.append(element("i", "swatch"), element("b", "", labelOf(one.object)), ` ${words}`);
  item.append(what, ...acts.map(([text, act]) => button(text, act, "slight")));
  return item;
}

function paintObjects() {
  if ($("objects").contains(document.activeElement) && document.activeElement.type === "text") return;
  $("objects").replaceChildren(...objects.map((one) => {
    const item = element("li", `object${colourOf(one.id)}${one.id === active ? " active" : ""}`);
    const pick = element("input"), name = element("input");
    Object.assign(pick, { type: "radio", name: "active", checked: one.id === active, ariaLabel: `draw ${one.label}` });
    pick.addEventListener("change", () => { active = one.id; paint(); });
    Object.assign(name, { type: "text", value: one.label, maxLength: 100, ariaLabel: "name of the object" });
    name.addEventListener("input", () => { one.label = name.value.trim() || "object"; paintStage(); });
    name.addEventListener("focus", () => {
      active = one.id;
      for (const other of $("objects").children) other.classList.toggle("active", other === item);
      pick.checked = true;
    });
    name.addEventListener("change", () => { name.blur(); paint(); });
    const count = [...pictures.values()].reduce((sum, picture) => sum + picture.drawn.filter((box) => box.object === one.id).length, 0);
    item.append(pick, name, element("small", "", count === 1 ? "1 box" : `${count} boxes`));
    if (objects.length > 1) {
      const drop = button("×", () => removeObject(one.id), "slight");
      drop.setAttribute("aria-label", `forget ${one.label}`);
      item.append(drop);
    }
    return item;
  }));
}

function paintGrid() {
  $("number").textContent = pictures.size === 1 ? "1 picture" : `${pictures.size} pictures`;
  $("grid").replaceChildren(...[...pictures.values()].map(thumb));
}

function thumb(picture) {
  const made = button("", () => { choose(picture.id); $("left").scrollIntoView({ block: "nearest" }); }, "thumb");
  made.dataset.picture = picture.id;
  made.classList.toggle("current", picture.id === current);
  const { found, given } = boxesOf(picture);
  const room = innerWidth <= 700 ? [100, 96] : [140, 120];
  const scale = Math.min(room[0] / picture.width, room[1] / picture.height);
  const frame = element("span", "frame"), state = element("span", "state");
  frame.append(drawPicture(picture, [...found, ...given], picture.width * scale, picture.height * scale));
  if (picture.drawn.length) state.append(element("span", "chip good", "yours"));
  for (const answer of answersOf(picture)) {
    const isBox = answer.box && !isBelow(answer);
    const words = isBox ? (answer.score === null ? "found" : answer.score.toFixed(2)) : isBelow(answer) ? "too unsure" : answer.words;
    const who = objects.length > 1 ? `${labelOf(answer.object)} ` : "";
    state.append(element("span", `chip${isBox ? "" : " bad"}`, who + words));
  }
  made.append(frame, element("span", "name", picture.name), state);
  return made;
}

function paintResults() {
  const all = [...pictures.values()], answers = all.flatMap(answersOf), boxes = answers.filter((one) => one.box);
  const hasDrawn = all.some((one) => one.drawn.length);
  $("find").disabled = search !== null || !hasDrawn || pictures.size < 2;
  $("find").textContent = all.some((one) => one.answers) && !search ? "Find again" : objects.length > 1 ? "Find them" : "Find it";
  $("stop").hidden = $("progress").hidden = search === null;
  $("results").hidden = !hasDrawn && answers.length === 0;
  $("least").hidden = !boxes.some((one) => one.score !== null);
  const kept = boxes.filter((one) => !isBelow(one)).length;
  $("count").textContent = answers.length ? `${kept} of ${answers.length} answers have a box${leastScore > 0 ? ` with a score of at least ${leastScore.toFixed(2)}` : ""}.` : "";
  if (!hasDrawn) $("done").textContent = "draw a box first";
  else if (pictures.size < 2) $("done").textContent = "add pictures to look in";
  else if (/^(draw|add) /.test($("done").textContent)) $("done").textContent = "";
}

function sayLimits() {
  if (limits) $("limits").textContent = `Up to ${megabytes(limits.most_upload)} a file, ${limits.most_pictures} pictures and ${megabytes(limits.most_bytes)} in all; of a video, frames spread evenly.`;
}

// --- start and end ---

async function start() {
  if (!token) throw new Error("open the whole address that focus app has printed: its end, #token=…, is missing");
  limits = await ask("session");
  session = limits.session;
  $("kept").textContent = limits.kept
    ? `Pictures and answers are kept in ${limits.kept}.`
    : "Pictures stay in the memory of the program that serves this page, and are gone when you close it.";
  $("format").replaceChildren(...limits.formats.map((name) => element("option", "", name)));
  addObject();
  paint();
  setInterval(() => ask("alive").catch(() => {}), 1000 * ALIVE_SECONDS);
}

for (const one of document.querySelectorAll(".add")) one.addEventListener("click", () => $("files").click());
$("files").addEventListener("change", async () => { const files = [...$("files").files]; $("files").value = ""; await add(files); });
$("scenes").addEventListener("click", async () => { const found = await attempt(() => ask("scenes")); if (found) await takeIn(found); });
$("before").addEventListener("click", () => go(-1));
$("after").addEventListener("click", () => go(1));
$("another").addEventListener("click", () => { addObject(); paint(); });
$("find").addEventListener("click", find);
$("stop").addEventListener("click", () => { if (search) search.isStopped = true; });
$("save").addEventListener("click", save);
$("score").addEventListener("input", () => { leastScore = Number($("score").value); $("value").textContent = leastScore.toFixed(2); paint(); });
addEventListener("keydown", (event) => {
  if (["INPUT", "SELECT"].includes(event.target.tagName) || pictures.size === 0) return;
  if (event.key === "ArrowLeft") go(-1);
  if (event.key === "ArrowRight") go(1);
});
addEventListener("resize", () => { if (pictures.size && !stage.drag) paint(); });
for (const [name, isOver] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  addEventListener(name, (event) => { event.preventDefault(); document.body.classList.toggle("over", isOver); });
}
addEventListener("drop", (event) => { if (limits && event.dataTransfer.files.length) add(event.dataTransfer.files); });
addEventListener("pagehide", () => { if (session) ask("end", {}, { keepalive: true }).catch(() => {}); });
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
attempt(start);
