"use strict";

// A chart: lines over the steps of the training, as SVG, drawn anew when its box changes its size.

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** How many of the rising numbers are at most `limit`. */
function countUpTo(numbers, limit) {
  let low = 0, high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= limit) low = middle + 1; else high = middle;
  }
  return low;
}

function written(value, share) {
  if (value === null) return "–";
  if (share) return `${(100 * value).toFixed(value > 0 && value < 0.0095 ? 1 : 0)} %`;
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(1);
  return String(Number(size < 0.1 ? value.toPrecision(2) : value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0)));
}

class Chart {
  /**
   * @param box where it goes
   * @param plan title, lines, axis, steps, share, chance: see curves.py
   * @param total the last step of the training
   * @param jump called with the step that the reader points at
   */
  constructor(box, plan, total, jump) {
    Object.assign(this, { plan, jump, total: Math.max(1, total), step: 0 });
    this.values = plan.lines.map(() => element("b"));
    this.legend = element("ul", {}, ...plan.lines.map((line, k) => this.entry(line, k)));
    this.plot = element("div", { class: "plot" });
    this.tip = element("div", { class: "tip", hidden: "" });
    this.box = element("section", { class: "chart" });
    this.box.append(element("header", {}, element("h2", { dir: "auto" }, plan.title), this.legend), this.plot);
    box.append(this.box);
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.listen();
  }

  entry(line, k) {
    const name = element("span", { dir: "auto" }, line.name);
    return element("li", { class: `c${line.colour % 7}` }, element("i"), name, " ", this.values[k]);
  }

  x(step) { return this.left + (this.right - this.left) * clamp(step / this.total, 0, 1); }

  y(value) {
    const { low, high, log } = this.plan.axis;
    const share = log ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : (value - low) / (high - low);
    return this.low - (this.low - this.high) * clamp(share, -0.01, 1.01);
  }

  /** The last value of a line up to a step; null before the first, and after the last that is a number. */
  value(line, step) {
    const seen = countUpTo(line.main[0], step);
    return seen === 0 || (line.lost !== null && step >= line.lost) ? null : line.main[1][seen - 1];
  }

  /** Where the line itself is at a step, between its points. */
  level([steps, values], step) {
    if (steps.length === 1) return this.y(values[0]);
    const after = clamp(countUpTo(steps, step), 1, steps.length - 1), before = after - 1;
    const part = clamp((step - steps[before]) / (steps[after] - steps[before]), 0, 1);
    return (1 - part) * this.y(values[before]) + part * this.y(values[after]);
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (width < 60 || height < 30) return;
    const unit = this.unit = parseFloat(getComputedStyle(this.plot).fontSize) / 15;
    Object.assign(this, { width, left: 44 * unit, right: width - 10, high: 8, low: height - 20 * unit });
    this.svg = shape("svg", { width, height, role: "img", "aria-label": this.spoken() });
    this.axes();
    for (const line of this.plan.lines) {
      if (line.raw) this.svg.append(shape("path", { class: `raw c${line.colour % 7}`, d: this.path(line.raw) }));
    }
    for (const line of this.plan.lines) {
      this.svg.append(shape("path", { class: `main c${line.colour % 7}`, d: this.path(line.main) }));
    }
    // What is still to come lies under a veil.
    this.veil = shape("rect", { class: "veil", y: 0, height: this.low - 0.5 });
    this.cursor = shape("line", { class: "cursor", y1: this.high, y2: this.low });
    this.pointer = shape("line", { class: "pointer", y1: this.high, y2: this.low, visibility: "hidden" });
    this.dots = this.plan.lines.map((line) => shape("circle", { class: `c${line.colour % 7}`, r: 4 }));
    this.svg.append(this.veil);
    this.chance();
    this.beyond();
    this.svg.append(this.pointer, this.cursor, ...this.dots);
    this.plot.replaceChildren(this.svg, this.tip);
    this.show(this.step);
  }

  spoken() {
    const told = this.plan.lines.map((line) => {
      const [first, last] = [line.main[1][0], line.main[1].at(-1)].map((v) => written(v, this.plan.share));
      return `${line.name} from ${first} to ${last}`;
    });
    return `${this.plan.title}: ${told.join("; ")}`;
  }

  axes() {
    const { axis, steps } = this.plan;
    const every = Math.ceil(axis.ticks.length * 17 * this.unit / (this.low - this.high));
    axis.ticks.forEach(([value, name], k) => {
      const y = this.y(value);
      this.svg.append(shape("line", { class: "grid", x1: this.left, x2: this.right, y1: y, y2: y }));
      if (k % every === 0) this.svg.append(shape("text", { x: this.left - 7, y: y + 4 * this.unit, "text-anchor": "end" }, name));
    });
    for (const [step, name] of steps) {
      const x = this.x(step), anchor = x > this.right - 16 ? "end" : step === 0 ? "start" : "middle";
      this.svg.append(shape("text", { x, y: this.low + 15 * this.unit, "text-anchor": anchor }, name));
    }
  }

  /** Where a line would be by chance. */
  chance() {
    if (this.plan.chance === null) return;
    const y = this.y(this.plan.chance);
    this.svg.append(shape("line", { class: "chance", x1: this.left, x2: this.right, y1: y, y2: y }));
    this.svg.append(shape("text", { x: this.right, y: y - 4, "text-anchor": "end" }, "heat by chance"));
  }

  /** An arrow and the value, where the highest or the lowest value of a line lies beyond the axis. */
  beyond() {
    const size = 5 * this.unit;
    for (const line of this.plan.lines) for (const [step, value] of line.beyond ?? []) {
      const x = this.x(step), up = value > this.plan.axis.low ? 1 : -1, y = up > 0 ? this.high - 6 : this.low + 6;
      const late = x > this.right - 60 * this.unit, side = late ? -1 : 1, base = y + 1.6 * up * size;
      const colour = `beyond c${line.colour % 7}`;
      this.svg.append(shape("polygon", { class: colour, points: `${x},${y} ${x - size},${base} ${x + size},${base}` }));
      const at = { class: colour, x: x + 1.7 * side * size, y: y + up * size + 4 * this.unit, "text-anchor": late ? "end" : "start" };
      this.svg.append(shape("text", at, written(value, this.plan.share)));
    }
  }

  path([steps, values]) {
    const points = steps.map((step, k) => `${this.x(step).toFixed(1)} ${this.y(values[k]).toFixed(1)}`);
    return points.length === 1 ? `M${points[0]}h.01` : `M${points.join("L")}`;
  }

  show(step) {
    this.step = step;
    const now = this.plan.lines.map((line) => this.value(line, step));
    now.forEach((value, k) => { this.values[k].textContent = this.told(k, value, step); });
    if (!this.svg) return;
    const x = this.x(step);
    this.veil.setAttribute("x", x);
    this.veil.setAttribute("width", this.width - x);
    this.place(this.cursor, x);
    now.forEach((value, k) => {
      this.dots[k].setAttribute("visibility", value === null ? "hidden" : "visible");
      this.dots[k].setAttribute("cx", x);
      this.dots[k].setAttribute("cy", this.level(this.plan.lines[k].main, step));
    });
  }

  told(k, value, step) {
    const { lost } = this.plan.lines[k];
    return lost !== null && step >= lost ? "not a number" : written(value, this.plan.share);
  }

  place(line, x) {
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  }

  // ---- reading and jumping

  listen() {
    const step = (event) => {
      const at = event.clientX - this.plot.getBoundingClientRect().left;
      return Math.round(this.total * clamp((at - this.left) / (this.right - this.left), 0, 1));
    };
    this.plot.addEventListener("pointerdown", (event) => {
      if (!this.svg || event.button !== 0) return;
      this.plot.setPointerCapture(event.pointerId);
      this.jump(step(event));
    });
    this.plot.addEventListener("pointermove", (event) => {
      if (!this.svg) return;
      if (event.buttons) this.jump(step(event));
      this.read(step(event));
    });
    for (const kind of ["pointerleave", "pointerup", "pointercancel"]) {
      this.plot.addEventListener(kind, (event) => { if (kind !== "pointerup" || event.pointerType === "touch") this.unread(); });
    }
  }

  read(step) {
    const x = this.x(step);
    this.place(this.pointer, x);
    this.pointer.setAttribute("visibility", "visible");
    const rows = this.plan.lines.map((line, k) => {
      const raw = line.raw ? this.value({ main: line.raw, lost: line.lost }, step) : null;
      const text = this.told(k, this.value(line, step), step) + (raw === null ? "" : ` · raw ${written(raw, this.plan.share)}`);
      return element("div", { class: `c${line.colour % 7}` }, element("i"), element("b", {}, text));
    });
    this.tip.replaceChildren(element("div", {}, `step ${step.toLocaleString("en")}`), ...rows);
    this.tip.hidden = false;
    const beyond = x + 14 + this.tip.offsetWidth > this.width;
    this.tip.style.left = `${beyond ? x - 12 - this.tip.offsetWidth : x + 12}px`;
  }

  unread() {
    this.tip.hidden = true;
    if (this.svg) this.pointer.setAttribute("visibility", "hidden");
  }
}
