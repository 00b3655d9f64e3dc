
// The page: frames, pictures, and what the reader does with them.

const data = JSON.parse(byId("data").textContent);
const FRAMES = data.steps.length, PICTURES = data.pictures.length;
const PER_SECOND = 10, HOLD = 2000;
const LARGEST = 760; // of a tile, in pixels

function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let k = 0; k < raw.length; k++) found[k] = raw.charCodeAt(k);
  return found;
}

// ---- heat: bilinear with half-pixel centres, then scaled to 0..255 map by map, then looked up in the colour table

class Heat {
  constructor() {
    this.cells = bytes(data.heat);
    [this.high, this.wide] = data.grid;
    [this.height, this.width] = data.size;
    this.rows = Heat.samples(this.high, this.height);
    this.columns = Heat.samples(this.wide, this.width);
    this.line = new Float32Array(this.wide);
    this.values = new Float32Array(this.height * this.width);
    this.colours = new Uint32Array(256);
    if (this.values.length) {
      this.image = new ImageData(this.width, this.height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
  }

  /** Between which two cells each pixel lies, and how far towards the second. */
  static samples(old, length) {
    const first = new Uint16Array(length), second = new Uint16Array(length), part = new Float32Array(length);
    for (let k = 0; k < length; k++) {
      const centre = Math.max((k + 0.5) * old / length - 0.5, 0);
      first[k] = Math.min(Math.floor(centre), old - 1);
      second[k] = Math.min(first[k] + 1, old - 1);
      part[k] = centre - first[k];
    }
    return { first, second, part };
  }

  /** Colours are as opaque as they are hot where `fade` is set. */
  choose(table, fade) {
    const bytesOf = new Uint8Array(this.colours.buffer);
    for (let level = 0; level < 256; level++) {
      bytesOf.set([table[3 * level], table[3 * level + 1], table[3 * level + 2], fade ? level : 255], 4 * level);
    }
  }

  draw(context, frame, picture) {
    const [low, high] = this.resize((frame * PICTURES + picture) * this.high * this.wide);
    const scale = high > low ? 255 / (high - low) : 0;
    const { values, pixels, colours } = this;
    for (let k = 0; k < values.length; k++) pixels[k] = colours[(values[k] - low) * scale + 0.5 | 0];
    context.putImageData(this.image, 0, 0);
  }

  resize(start) {
    const { cells, rows, columns, line, values, wide, width, height } = this;
    let low = Infinity, high = -Infinity, k = 0;
    for (let y = 0; y < height; y++) {
      const above = start + rows.first[y] * wide, below = start + rows.second[y] * wide, part = rows.part[y];
      for (let x = 0; x < wide; x++) line[x] = cells[above + x] + part * (cells[below + x] - cells[above + x]);
      for (let x = 0; x < width; x++) {
        const from = line[columns.first[x]];
        const value = from + columns.part[x] * (line[columns.second[x]] - from);
        values[k++] = value;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    return [low, high];
  }
}

const heat = new Heat();
const tables = Object.fromEntries(Object.entries(data.tables).map(([name, text]) => [name, bytes(text)]));

// ---- a picture with its heat

const label = (number) => data.labels[number] ?? [`class ${number}`, `class ${number}`];

class Tile {
  constructor(number, { bare = false } = {}) {
    this.number = number;
    const { source, outline, name } = data.pictures[number];
    this.button = element("button", { type: "button", class: "shot" });
    this.button.append(element("img", { src: source, alt: "", draggable: "false" }));
    if (!bare) {
      this.canvas = element("canvas", { width: data.size[1], height: data.size[0], "aria-hidden": "true" });
      this.context = this.canvas.getContext("2d");
      this.button.append(this.canvas);
    }
    if (outline) this.button.append(element("img", { src: outline, alt: "", class: "outline", draggable: "false" }));
    this.figure = element("figure", { class: "tile", title: name }, this.button);
  }

  /** The line below the picture: its class, how probable that is, and what it is taken for when that is another. */
  caption() {
    const [short, whole] = label(data.pictures[this.number].class);
    this.bar = element("i", { class: "bar" });
    this.chance = element("b");
    this.taken = element("span", { class: "taken", dir: "auto" });
    this.figure.append(this.bar, element("figcaption", {},
      element("span", { class: "name", dir: "auto", title: whole }, short), this.chance, this.taken));
    return this;
  }

  show(frame) {
    if (this.context) heat.draw(this.context, frame, this.number);
    if (!this.chance) return;
    const { right, taken, chance } = verdict(frame, this.number);
    this.figure.classList.toggle("wrong", !right);
    this.chance.textContent = written(chance, true);
    this.bar.style.setProperty("--share", chance ?? 0);
    this.taken.textContent = right ? "" : `✗ ${taken[0]}`;
    this.taken.title = right ? "" : `taken for ${taken[1]}`;
    this.button.setAttribute("aria-label", `${data.pictures[this.number].name}: ${said(frame, this.number)}. Enlarge`);
  }
}

function verdict(frame, number) {
  const best = data.best[frame][number];
  const right = best === data.pictures[number].class;
  return { right, taken: label(best), chance: data.probabilities[frame][number] };
}

function said(frame, number) {
  const { right, taken, chance } = verdict(frame, number);
  const sure = chance === null ? "" : ` ${written(chance, true)}`;
  return `${label(data.pictures[number].class)[1]}${sure}, ${right ? "right" : `wrong: taken for ${taken[1]}`}`;
}

// ---- what is shown

const state = { frame: 0, playing: false, zoomed: -1, speed: 1 };
const tiles = data.pictures.map((_, number) => new Tile(number).caption());
const charts = data.charts.map((plan) => new Chart(byId(plan.extra ? "extras" : "charts"), plan, data.total, jump));
let pair = [], chances = null;

function show(frame) {
  state.frame = clamp(frame, 0, FRAMES - 1);
  const step = data.steps[state.frame], epoch = data.epochs?.[state.frame] ?? null;
  const told = `step ${step.toLocaleString("en")}`;
  byId("slider").value = state.frame;
  byId("slider").setAttribute("aria-valuetext", told + (epoch === null ? "" : `, epoch ${written(epoch)}`));
  byId("now").textContent = told;
  byId("step").textContent = step.toLocaleString("en");
  byId("epoch").textContent = epoch === null ? "–" : Number.isInteger(epoch) ? epoch : epoch.toFixed(1);
  const right = data.best[state.frame].filter((best, number) => best === data.pictures[number].class).length;
  byId("right").replaceChildren(String(right), element("small", {}, ` of ${PICTURES}`));
  if (state.zoomed < 0) for (const tile of tiles) tile.show(state.frame);
  else showZoom();
  for (const chart of charts) chart.show(step);
}

function showZoom() {
  pair[0].show(state.frame);
  chances.show(data.steps[state.frame]);
  const { right } = verdict(state.frame, state.zoomed);
  byId("zoom").classList.toggle("wrong", !right);
  byId("zoomed").replaceChildren(
    element("span", { class: "verdict" }, right ? "✓" : "✗"), ` ${said(state.frame, state.zoomed)}`);
}

function jump(step) {
  pause();
  show(nearest(step));
}

function nearest(step) {
  const after = countUpTo(data.steps, step);
  if (after === 0) return 0;
  if (after === FRAMES) return FRAMES - 1;
  return data.steps[after] - step < step - data.steps[after - 1] ? after : after - 1;
}

// ---- playing

let last = 0, waiting = 0;

function play() {
  if (FRAMES < 2) return;
  state.playing = true;
  if (state.frame === FRAMES - 1) show(0);
  last = performance.now();
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(tick);
  markPlay();
}

function pause() {
  state.playing = false;
  cancelAnimationFrame(waiting);
  markPlay();
}

function markPlay() {
  byId("play").classList.toggle("playing", state.playing);
  byId("play").setAttribute("aria-label", state.playing ? "Pause" : "Play");
}

function tick(now) {
  const ended = state.frame === FRAMES - 1;
  const wait = ended ? HOLD : 1000 / (PER_SECOND * state.speed);
  const passed = Math.floor((now - last) / wait);
  if (passed > 0) {
    last = passed > 3 ? now : last + passed * wait; // after a sleep no race to catch up
    show(ended ? 0 : Math.min(state.frame + Math.min(passed, 3), FRAMES - 1));
  }
  waiting = requestAnimationFrame(tick);
}

// ---- one picture, large

function zoom(number) {
  const from = state.zoomed;
  state.zoomed = (number + PICTURES) % PICTURES;
  pair = [new Tile(state.zoomed), new Tile(state.zoomed, { bare: true })];
  pair.forEach((tile, k) => {
    tile.figure.append(element("figcaption", {}, k ? "the picture" : "with its heat"));
    tile.button.setAttribute("aria-label", "Back to all pictures");
    tile.button.addEventListener("click", unzoom);
  });
  byId("pair").replaceChildren(...pair.map((tile) => tile.figure));
  byId("zoomed").title = data.pictures[state.zoomed].name;
  byId("chances").replaceChildren();
  chances = new Chart(byId("chances"), chancePlan(state.zoomed), data.total, jump);
  byId("montage").hidden = true;
  byId("zoom").hidden = false;
  show(state.frame);
  fit();
  if (from < 0) byId("zoomed").focus({ preventScroll: true });
  if (from < 0) byId("stage").scrollIntoView({ block: "nearest" });
}

function chancePlan(number) {
  const known = data.steps.map((_, frame) => frame).filter((frame) => data.probabilities[frame][number] !== null);
  const main = [known.map((frame) => data.steps[frame]), known.map((frame) => data.probabilities[frame][number])];
  const lines = known.length ? [{ name: label(data.pictures[number].class)[0], colour: 1, main, lost: null }] : [];
  const axis = { low: 0, high: 1, log: false, ticks: [[0, "0 %"], [0.5, "50 %"], [1, "100 %"]] };
  return { title: "Probability", lines, axis, steps: data.ticks, share: true, chance: null };
}

function unzoom() {
  if (state.zoomed < 0) return;
  const back = tiles[state.zoomed];
  state.zoomed = -1;
  byId("montage").hidden = false;
  byId("zoom").hidden = true;
  show(state.frame);
  fit();
  back.button.focus();
}

// ---- looks

function recolour() {
  heat.choose(tables[byId("colours").value], byId("fade").checked);
  show(state.frame);
}

function restyle() {
  const style = document.documentElement.style;
  style.setProperty("--opacity", byId("opacity").value / 100);
  document.body.classList.toggle("outlines", byId("outline").checked);
}

const dark = matchMedia("(prefers-color-scheme: dark)");

function theme(name) { document.documentElement.dataset.theme = name; }

/** Tiles as large as they can be with all of them in sight; on a narrow screen as the style sheet says. */
function fit() {
  const stage = byId("stage"), gap = 12;
  const one = state.zoomed >= 0;
  const count = one ? 2 : PICTURES, caption = one ? 34 : 50;
  const room = { width: stage.clientWidth - 4, height: stage.clientHeight - 4 - (one ? 240 : 0) };
  const aspect = data.size[1] / data.size[0] || 1;
  let best = { tile: 0, columns: 1 };
  for (let columns = 1; columns <= Math.max(1, count); columns++) {
    const rows = Math.ceil(count / columns);
    const wide = (room.width - gap * (columns - 1)) / columns;
    const high = ((room.height - gap * (rows - 1)) / rows - caption) * aspect;
    const tile = Math.floor(Math.min(wide, high));
    if (tile > best.tile) best = { tile, columns };
  }
  if (best.tile < 84) best = { tile: 84, columns: Math.max(1, Math.floor((room.width + gap) / (84 + gap))) };
  stage.style.setProperty("--tile", `${Math.min(best.tile, LARGEST)}px`);
  stage.style.setProperty("--columns", best.columns);
}

// ---- what the reader does

function listen() {
  byId("slider").addEventListener("input", () => { pause(); show(Number(byId("slider").value)); });
  byId("play").addEventListener("click", () => (state.playing ? pause() : play()));
  byId("speed").addEventListener("change", () => { state.speed = Number(byId("speed").value); });
  byId("opacity").addEventListener("input", restyle);
  byId("outline").addEventListener("change", restyle);
  byId("fade").addEventListener("change", recolour);
  byId("colours").addEventListener("change", recolour);
  byId("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
  byId("close").addEventListener("click", unzoom);
  byId("before").addEventListener("click", () => zoom(state.zoomed - 1));
  byId("after").addEventListener("click", () => zoom(state.zoomed + 1));
  tiles.forEach(listenTile);
  document.addEventListener("keydown", press);
  window.addEventListener("hashchange", follow);
  new ResizeObserver(fit).observe(byId("stage"));
}

/** A mouse shows the picture while it is over it, and enlarges it; a finger needs two places to tap. */
function listenTile(tile) {
  let finger = false;
  tile.button.addEventListener("pointerdown", (event) => { finger = event.pointerType === "touch"; });
  tile.button.addEventListener("keydown", () => { finger = false; });
  tile.button.addEventListener("click", () => {
    if (finger) tile.figure.classList.toggle("bare"); else zoom(tile.number);
  });
  const larger = element("button", { type: "button", class: "larger", "aria-label": "Enlarge", tabindex: "-1" }, "⤢");
  larger.addEventListener("click", () => zoom(tile.number));
  tile.figure.append(larger);
}

const KEYS = {
  ArrowLeft: () => state.frame - 1,
  ArrowRight: () => state.frame + 1,
  PageUp: () => state.frame - Math.ceil(FRAMES / 10),
  PageDown: () => state.frame + Math.ceil(FRAMES / 10),
  Home: () => 0,
  End: () => FRAMES - 1,
};

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const on = event.target.closest("select, input, button, summary");
  if (event.key === "Escape") unzoom();
  else if (event.key === " " && (!on || on.type === "range")) state.playing ? pause() : play();
  else if (Object.hasOwn(KEYS, event.key) && (!on || on.id === "slider" || on.localName === "button")) { pause(); show(KEYS[event.key]()); }
  else return;
  event.preventDefault();
}

/** The address may say what to show: #step=300&picture=2&theme=dark&colours=gray&play */
function follow() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (wanted.get(name)?.match(/^\d{1,15}$/) ? Number(wanted.get(name)) : null);
  if (["dark", "light"].includes(wanted.get("theme"))) theme(wanted.get("theme"));
  if (Object.hasOwn(tables, wanted.get("colours"))) { byId("colours").value = wanted.get("colours"); recolour(); }
  if (number("step") !== null) jump(number("step"));
  if (number("picture") !== null && number("picture") <= PICTURES && number("picture") > 0) zoom(number("picture") - 1);
  if (wanted.has("play")) play();
  return wanted;
}

function start() {
  theme(dark.matches ? "dark" : "light");
  const story = FRAMES === 1 ? "1 frame" : `${FRAMES} frames of ${data.total.toLocaleString("en")} ${data.total === 1 ? "step" : "steps"}`;
  byId("about").textContent = `${data.method}${data.layer && ` at ${data.layer}`} · ${story}`;
  byId("colours").append(...Object.keys(tables).map((name) => element("option", { value: name }, name)));
  byId("colours").value = data.cmap;
  byId("fade").checked = data.alpha === "heat";
  byId("opacity").value = 100 * (data.alpha === "heat" ? 1 : data.alpha);
  byId("slider").max = FRAMES - 1;
  byId("slider").disabled = byId("play").disabled = FRAMES < 2;
  byId("epochbox").hidden = data.epochs === null;
  byId("rightbox").hidden = byId("stage").hidden = PICTURES === 0;
  byId("outlined").hidden = !data.pictures.some((picture) => picture.outline);
  byId("more").hidden = !data.charts.some((plan) => plan.extra);
  byId("montage").append(...tiles.map((tile) => tile.figure));
  listen();
  fit();
  restyle();
  recolour();
  const wanted = follow();
  if (!wanted.has("step") && !matchMedia("(prefers-reduced-motion: reduce)").matches) play();
}

start();
