// The page: what is seen, what is explained, and what the reader does with it.
//
// Each result is also told as an event "explained" of the document, with {result, heat, size} in its detail.

import { bytes, colours, draw, heatmap, sizeOfHeat } from "./heat.js";
import { Picker } from "./picker.js";
import { Camera, Pictures, Trouble, Video, fromFiles, whenCamerasChange } from "./sources.js";

const byId = (id) => document.getElementById(id);
const config = JSON.parse(byId("config").textContent);
const wishes = new URLSearchParams(location.hash.slice(1));
const tables = Object.fromEntries(Object.entries(config.tables).map(([name, text]) => [name, bytes(text)]));
const ENGINES = { socket: "./engine-socket.js", web: "./engine-web.js" };
const SMOOTH = 150; // ms; a slower engine's heat would lie on a picture that has moved on
const VEIL = "rgb(8 10 14 / 0.5)"; // over what the model did not see

const state = {
  engine: null,
  source: null,
  pinned: config.classIndex ?? null,
  paused: false,
  mirrored: false,
  opacity: 0.75,
  wantsCamera: false,
  shown: null, // {frame, view}: the picture that the heat belongs to
  times: [],
  lost: false, // the engine is away
};
const heatCanvas = document.createElement("canvas");
let looks = colours(tables.turbo, true);

// ---- the stage

const stage = byId("stage"), view = byId("view"), context = view.getContext("2d");

const sizeOf = (element) => [element.videoWidth ?? element.width, element.videoHeight ?? element.height];

/** As large as the stage takes it. */
function fit(element) {
  const [width, height] = sizeOf(element), room = stage.getBoundingClientRect();
  const scale = Math.min(room.width / width, room.height / height);
  const [across, high] = [Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale))];
  const dense = Math.min(devicePixelRatio || 1, 2);
  view.style.setProperty("width", `${across}px`);
  view.style.setProperty("height", `${high}px`);
  const size = [Math.round(across * dense), Math.round(high * dense)];
  if (view.width !== size[0] || view.height !== size[1]) [view.width, view.height] = size;
}

function paint(element) {
  if (!element) return;
  fit(element);
  const { width, height } = view;
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, width, height);
  context.drawImage(element, 0, 0, width, height);
  if (!state.shown || (state.lost && state.source?.live)) return; // old heat would lie on a new picture
  const { x, y, width: wide, height: high } = state.shown.view;
  const box = [x * width, y * height, wide * width, high * height];
  context.fillStyle = VEIL;
  const around = new Path2D();
  around.rect(0, 0, width, height);
  around.rect(...box);
  context.fill(around, "evenodd");
  context.globalAlpha = state.opacity;
  context.drawImage(heatCanvas, ...box);
  context.globalAlpha = 1;
}

/** The picture that the heat belongs to, once more. */
const repaint = () => paint(state.shown?.frame ?? (state.source?.live ? null : state.source?.element));

// ---- explaining

let busy = false, again = false;

/** Explain what the source shows now; while that goes on, at most one more is kept in mind. */
async function explain() {
  const { engine, source } = state;
  if (!engine?.info || !source?.element || source.element.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return;
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  again = false;
  try {
    const asked = performance.now();
    const options = { classIndex: state.pinned, top: 3, ...(source.id ? { picture: source.id } : {}) };
    const [result, frame] = await Promise.all([engine.explain(source.element, options), createImageBitmap(source.element)]);
    if (source === state.source) show(result, frame, asked);
    else frame.close();
  } catch (error) {
    const missed = error.name === "AbortError" || (source.live && error.name === "InvalidStateError"); // a film that seeks
    if (!missed && source === state.source) trouble(new Trouble("engine", "This cannot be explained.", error.message));
  }
  busy = false;
  if (again) explain();
}

function show(result, frame, asked) {
  const size = sizeOfHeat(state.engine.info.size ?? [224, 224]);
  const heat = heatmap(result.map, result.shape, size, result.rectifies);
  draw(heatCanvas, heat, size, looks);
  state.shown?.frame.close();
  state.shown = { frame, view: result.view, heat, size };
  quiet();
  showTop(result);
  showTimes(result.milliseconds, asked);
  if (!smooth()) paint(frame);
  document.dispatchEvent(new CustomEvent("explained", { detail: { result, heat, size } }));
}

/** Whether heat comes so soon that it may lie on the frames that follow; else the frame waits for its heat. */
const smooth = () => state.source.live && !state.paused && state.wait < SMOOTH;

/** At each frame of a film: draw it, and explain it where the engine is free. */
function follow(source) {
  const { element } = source;
  const step = () => {
    if (source !== state.source) return;
    if (!state.paused && !document.hidden) {
      if (!state.shown || state.lost || smooth()) paint(element);
      if (!busy) explain();
    }
    next();
  };
  const next = () => (element.requestVideoFrameCallback ? element.requestVideoFrameCallback(step) : requestAnimationFrame(step));
  step();
}

// ---- numbers and names

const label = (index) => state.engine?.info?.labels?.[index] ?? `class ${index}`;
const short = (name) => name.split(",")[0].trim() || name;

const percent = (share) => (share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(share >= 0.9995 ? 0 : 1)} %`);

function showTop({ top, classIndex, probabilities }) {
  const list = byId("top");
  while (list.children.length < top.length) list.append(row());
  while (list.children.length > top.length) list.lastChild.remove();
  top.forEach(({ index, name, probability }, n) => {
    const button = list.children[n].firstChild, [title, share] = button.children;
    title.textContent = short(name);
    share.textContent = percent(probability);
    button.title = name;
    button.dataset.class = index;
    button.style.setProperty("--share", probability);
    button.classList.toggle("heated", index === classIndex);
    button.setAttribute("aria-pressed", index === state.pinned);
  });
  const share = probabilities?.[classIndex] ?? top.find(({ index }) => index === classIndex)?.probability;
  byId("shown").textContent = short(label(classIndex));
  byId("chance").textContent = share === undefined ? "" : percent(share);
  view.setAttribute("aria-label", `${state.source.name}, with the heat for ${short(label(classIndex))}`);
  say(`${short(top[0].name)}, ${Math.round(100 * top[0].probability)} percent`);
}

function row() {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.append(...["name", "share"].map((kind) => Object.assign(document.createElement("span"), { className: kind })));
  button.firstChild.dir = "auto";
  button.addEventListener("click", () => pin(state.pinned === Number(button.dataset.class) ? null : Number(button.dataset.class)));
  item.append(button);
  return item;
}

let said = 0;

/** For those who listen: not each frame. */
function say(text) {
  const now = performance.now();
  if (byId("said").textContent === text || (state.source.live && now - said < 4000)) return;
  said = now;
  byId("said").textContent = text;
}

function showTimes(milliseconds, asked) {
  const now = performance.now(), { times, source } = state;
  state.wait = 0.8 * (state.wait ?? now - asked) + 0.2 * (now - asked);
  times.push(now);
  while (times.length > 2 && now - times[0] > 2000) times.shift();
  byId("timebox").hidden = false;
  byId("time").textContent = milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds);
  const live = source.live && !state.paused && times.length > 2;
  byId("ratebox").hidden = !live;
  if (live) {
    const rate = 1000 * (times.length - 1) / (now - times[0]);
    byId("rate").textContent = rate < 9.5 ? rate.toFixed(1) : Math.round(rate);
  }
}

function pin(index) {
  state.pinned = index;
  picker.mark(index);
  byId("unpin").hidden = index === null;
  if (index !== null) byId("shown").textContent = short(label(index));
  for (const { firstChild: button } of byId("top").children) button.setAttribute("aria-pressed", Number(button.dataset.class) === index);
  explain();
}

const picker = new Picker(byId("search"), byId("classes"), byId("more"), (index) => pin(index === state.pinned ? null : index));

// ---- messages

/** A picture or film is shown. */
function quiet() {
  byId("message").hidden = true;
  view.hidden = false;
}

function message(title, advice = "", { choices = true, share } = {}) {
  byId("message").hidden = false;
  view.hidden = true;
  byId("headline").textContent = title;
  byId("advice").textContent = advice;
  byId("choices").hidden = !choices;
  byId("progress").hidden = share === undefined;
  if (share !== undefined) byId("progress").value = share;
  byId("promise").hidden = !choices;
}

function trouble(error) {
  stop();
  const told = error instanceof Trouble ? error : new Trouble("failed", "This does not work.", error.message);
  byId("cameraword").textContent = ["refused", "absent", "busy", "failed"].includes(told.kind) ? "Try the camera again" : "Use the camera";
  message(told.title, told.advice);
}

function banner(text) {
  byId("banner").textContent = text;
  byId("banner").hidden = !text;
}

const welcome = () => message("Drop a picture here", "See where the network looks, and click on a class to see the heat for it.");

// ---- sources

function stop() {
  state.source?.stop();
  state.source = null;
  state.shown?.frame.close();
  state.shown = null;
  state.times = [];
  state.wait = undefined;
  byId("top").replaceChildren();
  for (const id of ["ratebox", "timebox"]) byId(id).hidden = true;
  marks();
}

function take(source) {
  stop();
  state.source = source;
  state.paused = false;
  state.mirrored = source.mirrored;
  quiet();
  marks();
  if (source.live) follow(source);
  else turned();
}

/** Another picture of the list is there. */
function turned() {
  marks();
  state.shown?.frame.close();
  state.shown = null;
  paint(state.source.element);
  explain();
}

async function turn(by) {
  const { source } = state;
  if (!(source instanceof Pictures) || source.count < 2) return;
  try {
    await source.show(source.at + by);
    if (source === state.source) turned();
  } catch (error) {
    banner(error.message);
    source.at = (source.at + by + source.count) % source.count;
    marks();
  }
}

let opening = 0;

/** Open a source; the one that was asked for last wins. */
async function use(open, text) {
  const number = ++opening;
  banner("");
  if (!state.source) message(text, "", { choices: false });
  try {
    const source = await open();
    if (number !== opening) source?.stop();
    else if (source) take(source);
    else if (!state.source) trouble(new Trouble("picture", "These are no pictures.", "Take PNG, JPEG or WebP files, or a video."));
  } catch (error) {
    if (number === opening) trouble(error);
  }
}

function useCamera(before = null) {
  state.wantsCamera = true;
  before?.stop();
  return use(async () => {
    const camera = await Camera.open(before);
    camera.onlost = () => {
      if (state.source === camera) trouble(new Trouble("absent", "The camera is gone.", "Plug it in again: this page goes on by itself."));
    };
    return camera;
  }, "Waiting for the camera");
}

function useFiles(files) {
  if (!files.length) return;
  state.wantsCamera = false;
  use(() => fromFiles(files), "Opening");
}

const STARTS = {
  camera: () => useCamera(),
  video: ({ url, name }) => use(() => Video.open(url, name ?? "video"), "Opening the video"),
  folder: ({ list }) => use(async () => {
    const items = Array.isArray(list) ? list : await (await fetch(list, { cache: "no-store" })).json();
    return items.length ? new Pictures(items).show(0) : null;
  }, "Opening the pictures"),
  drop: () => welcome(),
};

// ---- controls

function marks() {
  const { source, paused, mirrored } = state, live = source?.live ?? false;
  byId("pause").classList.toggle("paused", paused || !live);
  byId("pause").setAttribute("aria-label", paused ? "Go on" : "Pause");
  const camera = source instanceof Camera, several = source instanceof Pictures && source.count > 1;
  byId("camera2").hidden = camera || !source;
  byId("choose2").hidden = !source;
  byId("mirror").hidden = !camera;
  byId("mirror").setAttribute("aria-pressed", mirrored);
  view.classList.toggle("mirrored", mirrored);
  byId("steps").hidden = !several;
  byId("pause").hidden = !live;
  if (several) byId("place").textContent = `${source.at + 1} of ${source.count.toLocaleString("en")}`;
  byId("switch").hidden = true;
  if (camera) Camera.count().then((count) => (byId("switch").hidden = count < 2 || state.source !== source));
}

async function pause() {
  const { source } = state;
  if (!source?.live) return;
  state.paused = !state.paused;
  state.times = [];
  marks();
  if (!state.paused) return source.element.play();
  source.element.pause();
  await explain(); // the frame at which it stands
}

function restyle() {
  looks = colours(tables[byId("colours").value], true);
  const { shown } = state;
  if (shown) draw(heatCanvas, shown.heat, shown.size, looks);
  draw(byId("legend"), Float32Array.from({ length: 256 }, (_, k) => k / 255), [1, 256], colours(tables[byId("colours").value], false));
  repaint();
}

function theme(name) {
  document.documentElement.dataset.theme = name;
}

function remembered(key, value) { // storage may be refused
  try {
    if (value === undefined) return localStorage.getItem(`camcore.${key}`);
    localStorage.setItem(`camcore.${key}`, value);
  } catch {}
  return null;
}

function listen() {
  const click = (id, act) => byId(id).addEventListener("click", act);
  for (const id of ["camera", "camera2"]) click(id, () => useCamera());
  for (const id of ["choose", "choose2"]) click(id, () => byId("files").click());
  click("switch", () => useCamera(state.source));
  click("mirror", () => { state.mirrored = !state.mirrored; marks(); });
  click("pause", pause);
  click("before", () => turn(-1));
  click("after", () => turn(1));
  click("unpin", () => pin(null));
  click("theme", () => {
    const dark = document.documentElement.dataset.theme === "dark";
    theme(dark ? "light" : "dark");
    remembered("theme", dark ? "light" : "dark");
  });
  byId("files").addEventListener("change", ({ target }) => { useFiles([...target.files]); target.value = ""; });
  byId("opacity").addEventListener("input", ({ target }) => { state.opacity = target.value / 100; repaint(); });
  byId("colours").addEventListener("change", () => { remembered("colours", byId("colours").value); restyle(); });
  document.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("over"); });
  document.addEventListener("dragleave", (event) => event.relatedTarget || stage.classList.remove("over"));
  document.addEventListener("drop", (event) => { event.preventDefault(); stage.classList.remove("over"); useFiles([...event.dataTransfer.files]); });
  document.addEventListener("paste", ({ clipboardData }) => useFiles([...(clipboardData?.files ?? [])]));
  document.addEventListener("keydown", keys);
  new ResizeObserver(repaint).observe(stage);
  whenCamerasChange(() => (state.source ? marks() : state.wantsCamera && useCamera()));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && state.pinned !== null) pin(null);
  if (event.target.closest(event.key === " " ? "button, input, select" : "input, select")) return;
  const act = { " ": pause, ArrowLeft: () => turn(-1), ArrowRight: () => turn(1), "/": () => byId("search").focus() }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

// ---- begin

function prepare() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const wanted = wishes.get("theme") ?? remembered("theme");
  theme(["dark", "light"].includes(wanted) ? wanted : dark ? "dark" : "light");
  const names = Object.keys(tables);
  byId("colours").append(...names.map((name) => Object.assign(document.createElement("option"), { value: name, textContent: name })));
  const colour = wishes.get("colours") ?? remembered("colours");
  byId("colours").value = names.includes(colour) ? colour : "turbo";
  byId("promise").textContent = config.promise ?? (config.engine === "web" ? "Pictures stay on this device: nothing is sent anywhere." : "");
  restyle();
}

function met() {
  const { info } = state.engine;
  const size = info.size ? `${info.size[1]} × ${info.size[0]}` : "any size";
  const device = info.note ? `${info.device} (${info.note})` : info.device;
  byId("about").textContent = byId("about").title = [info.method, size, device].filter(Boolean).join(" · ");
  const wish = wishes.get("class");
  if (/^\d+$/.test(wish ?? "") && Number(wish) < info.classes) state.pinned = Number(wish);
  picker.fill(info.labels, info.classes);
  pin(state.pinned);
}

async function begin() {
  prepare();
  listen();
  const engine = ENGINES[config.engine];
  if (!engine) throw new Error(`The page knows no engine ${config.engine}.`);
  message("Loading", "", { choices: false, share: 0 });
  const report = (text, share) => {
    if (!state.source) message(text, "", { choices: false, share });
  };
  state.engine = await (await import(engine)).open(config, report);
  state.engine.onstate = (name, text) => {
    state.lost = name === "lost";
    document.body.classList.toggle("lost", state.lost);
    banner(state.lost ? text : "");
    if (name === "back") explain();
  };
  met();
  const kind = wishes.has("camera") ? "camera" : config.source?.kind ?? "drop";
  await (STARTS[kind] ?? STARTS.drop)(config.source ?? {});
}

begin().catch((error) => message("This page cannot start.", error.message, { choices: false }));
