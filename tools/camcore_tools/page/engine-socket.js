// The engine of `camcore live`: a frame goes out over one WebSocket, its explanation comes back, one at a time.
//
// config   {engine: "socket", title, classIndex: null | int, source: {kind, ...}}, where source is one of
//            {kind: "camera"}
//            {kind: "video", url, name}
//            {kind: "folder", list}     the address of [{id, name, url}]
// explain  takes {classIndex, top, picture}: with `picture`, the id of a picture of that list, the server reads the
//          file itself, so that the numbers are those of `camcore explain`. A request that has not been sent when the
//          next one comes is rejected with an AbortError. One that has is sent again when the socket was lost.

import { layout, resized } from "./resample.js";

const SILENCE = 15_000; // ms; the server says something every 5 s
const PAUSES = [200, 400, 800, 1500, 3000];

export async function open(config, report = () => {}) {
  const engine = new SocketEngine(new URL("socket", document.baseURI), report);
  await engine.met;
  return engine;
}

class SocketEngine {
  info = null;
  onstate = () => {};
  #address;
  #report;
  #socket = null;
  #greeted = false; // this socket has said what is behind it
  #met;
  #heard = 0;
  #failures = 0;
  #said = "";
  #timer = 0;
  #watch = 0;
  #count = 0;
  #waiting = null;
  #flying = null;
  #closed = false;

  constructor(address, report) {
    this.#address = address;
    this.#address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    this.#report = report;
    this.met = new Promise((resolve) => (this.#met = resolve));
    this.#watch = setInterval(() => this.#listen(), 1000);
    addEventListener("online", this.#hurry);
    document.addEventListener("visibilitychange", this.#hurry);
    this.#connect();
  }

  explain(source, { classIndex = null, top = 3, picture = null } = {}) {
    if (this.#closed) return Promise.reject(new DOMException("the engine is closed", "AbortError"));
    return new Promise((resolve, reject) => {
      this.#waiting?.reject(new DOMException("a newer frame took its place", "AbortError"));
      this.#waiting = { source, header: { classIndex, top }, picture, resolve, reject };
      this.#next();
    });
  }

  close() {
    this.#closed = true;
    clearInterval(this.#watch);
    clearTimeout(this.#timer);
    removeEventListener("online", this.#hurry);
    document.removeEventListener("visibilitychange", this.#hurry);
    this.#drop();
    for (const request of [this.#waiting, this.#flying]) {
      request?.reject(new DOMException("the engine was closed", "AbortError"));
    }
    this.#waiting = this.#flying = null;
  }

  // ---- the socket, lost and found

  #connect() {
    this.#drop();
    this.#heard = Date.now();
    const socket = new WebSocket(this.#address);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => this.#take(event.data);
    socket.onclose = () => this.#lose();
    this.#socket = socket;
  }

  #drop() {
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
    this.#greeted = false;
  }

  #lose() {
    const had = this.#greeted;
    this.#drop();
    const pause = PAUSES[Math.min(this.#failures, PAUSES.length - 1)] * (0.8 + 0.4 * Math.random());
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#connect(), pause);
    if (had) this.#say("lost", "The connection to camcore live is lost; trying again.");
    if (this.#failures >= 3) this.#ask();
  }

  async #ask() { // a socket that is refused does not say why; the page does
    let status = 0;
    try {
      status = (await fetch(document.baseURI, { method: "HEAD", cache: "no-store" })).status;
    } catch {}
    if (this.#greeted || this.#closed) return;
    if (status === 403) this.#say("lost", "camcore live was started again at another address: open the one it printed.");
    else if (status === 0) this.#say("lost", "camcore live does not answer. Is it still running? Trying again.");
    else if (status === 200) this.#say("lost", "camcore live takes no more pages: close one of them. Trying again.");
  }

  #say(state, text) {
    if (text === this.#said) return;
    this.#said = text;
    if (this.info) this.onstate(state, text);
    else this.#report(text);
  }

  #listen() {
    if (this.#socket && Date.now() - this.#heard > SILENCE) this.#lose();
  }

  #hurry = () => {
    if (this.#socket || document.hidden) return;
    clearTimeout(this.#timer);
    this.#connect();
  };

  #take(data) {
    this.#heard = Date.now();
    if (data instanceof ArrayBuffer) return this.#finish(unpack(data));
    const message = JSON.parse(data);
    if (message.info) return this.#greet(message.info);
    if ("error" in message || message.dropped) this.#finish(message);
  }

  #greet(info) {
    const first = this.info === null;
    if (!first && info.page !== this.info.page) return location.reload(); // another model or source is there now
    this.info = info;
    this.#greeted = true;
    this.#failures = 0;
    this.#said = "";
    if (first) this.#met();
    setTimeout(() => this.onstate(first ? "ready" : "back", first ? "" : "The connection is back."));
    this.#transmit();
    this.#next();
  }

  // ---- frames out, explanations back

  #next() {
    if (this.#flying || !this.#waiting || !this.#greeted) return;
    const request = this.#waiting;
    [this.#waiting, this.#flying] = [null, request];
    request.header.id = ++this.#count;
    try {
      request.message = packed(request, this.info.frame);
    } catch (error) {
      return this.#end(request, () => request.reject(error));
    }
    this.#transmit();
  }

  #transmit() {
    const request = this.#flying;
    if (!request?.message || !this.#greeted || request.socket === this.#socket) return;
    request.socket = this.#socket;
    this.#socket.send(request.message);
  }

  #finish(answer) {
    const request = this.#flying;
    if (request === null || (answer.id !== request.header.id && answer.id !== null)) return;
    this.#end(request, () => {
      if ("error" in answer) request.reject(new Error(answer.error));
      else if (answer.dropped) request.reject(new DOMException("a newer frame took its place", "AbortError"));
      else request.resolve({ ...answer, view: answer.view ?? request.view });
    });
  }

  #end(request, tell) {
    if (this.#flying !== request) return; // closed meanwhile
    this.#flying = null;
    tell();
    this.#next();
  }
}

// ---- messages: the length of the header, the header in JSON, padded to 4 bytes, then the pixels or the map

function packed(request, rule) {
  const { source, picture, header } = request;
  if (picture !== null) return message({ ...header, frame: "picture", picture }, new Uint8Array());
  const { rgb, size, view } = fitted(source, rule);
  request.view = view;
  return message({ ...header, frame: "rgb", height: size[0], width: size[1] }, rgb);
}

function message(header, payload) {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const start = 4 + Math.ceil(text.length / 4) * 4;
  const bytes = new Uint8Array(start + payload.length).fill(32, 4, start);
  new DataView(bytes.buffer).setUint32(0, start - 4, true);
  bytes.set(text, 4);
  bytes.set(payload, start);
  return bytes;
}

function unpack(buffer) {
  const start = 4 + new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, start - 4)));
  return { ...header, map: new Float32Array(buffer.slice(start)) };
}

// ---- pixels: resized and cropped here as Python would, so that little is sent and the numbers stay the same

const MOVING = 2.1e6, STILL = 16e6; // pixels that are read of one frame at the most
let canvas = null;

function fitted(source, rule) {
  const width = source.videoWidth ?? source.naturalWidth ?? source.displayWidth ?? source.width;
  const height = source.videoHeight ?? source.naturalHeight ?? source.displayHeight ?? source.height;
  if (!width || !height) throw new DOMException("there is no picture, or no longer", "AbortError");
  const most = source instanceof HTMLVideoElement ? MOVING : STILL;
  const shrink = Math.ceil(Math.sqrt((width * height) / (rule.resize === "none" ? Math.min(most, rule.pixels) : most)));
  const [wide, tall] = [width, height].map((length) => Math.max(1, Math.floor(length / shrink)));
  const plan = layout(tall, wide, rule);
  const part = (x, y, width, height) => read(source, -x, -y, wide, tall, width, height).data;
  return { rgb: resized(tall, wide, plan, part), size: plan.size, view: plan.view };
}

function read(source, x, y, wide, tall, width, height) {
  canvas ??= document.createElement("canvas");
  if (canvas.width < width || canvas.height < height) {
    [canvas.width, canvas.height] = [Math.max(canvas.width, width), Math.max(canvas.height, height)];
  }
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.fillStyle = "white"; // as Python shows what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(source, x, y, wide, tall);
  return context.getImageData(0, 0, width, height);
}
