// The engine without a server: ONNX Runtime Web in a worker, so that the page stays awake.
//
// config   {engine: "web", title, labels, model: {...}, runtime: {...}}, written by `camcore export --web`
// explain  takes {classIndex, top}; a request that has not begun when the next one comes is rejected with an AbortError.

export async function open(config, report = () => {}) {
  const engine = new WebEngine(config, report);
  await engine.start();
  return engine;
}

const absolute = (address) => new URL(address, document.baseURI).href;

class WebEngine {
  info = null;
  onstate = () => {};
  #config;
  #report;
  #worker = null;
  #flying = null;
  #waiting = null;
  #failures = 0;
  #closed = false;

  constructor(config, report) {
    const { model, runtime } = config;
    const places = (build) => build && Object.fromEntries(Object.entries(build).map(([k, v]) => [k, absolute(v)]));
    this.#config = {
      model: { ...model, url: absolute(model.url) },
      runtime: { wasm: places(runtime.wasm), webgpu: places(runtime.webgpu) },
      device: new URLSearchParams(location.hash.slice(1)).get("device") ?? config.device ?? "auto",
    };
    this.labels = config.labels;
    this.#report = report;
  }

  /** Load the runtime and the model. */
  async start() {
    if (!globalThis.WebAssembly || !globalThis.OffscreenCanvas) {
      throw new Error("This browser is too old: it needs WebAssembly and OffscreenCanvas (Chrome 80, Firefox 105, Safari 16.4).");
    }
    this.#worker = new Worker(new URL("engine-web-worker.js", import.meta.url), { type: "module" });
    this.#worker.onerror = (event) => this.#lose(event.message || "the worker could not be started");
    this.#worker.onmessage = ({ data }) => this.#take(data);
    const { device, note } = await this.#ask({ open: this.#config });
    const { model } = this.#config;
    this.info = { labels: this.labels, classes: model.classes, size: model.preprocess.size, method: model.method, device, note };
    setTimeout(() => this.onstate("ready", ""));
  }

  explain(source, { classIndex = null, top = 3 } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new DOMException("the engine is closed", "AbortError"));
      this.#waiting?.reject(new DOMException("a newer frame took its place", "AbortError"));
      this.#waiting = { source, classIndex, top, resolve, reject };
      this.#next();
    });
  }

  close() {
    this.#closed = true;
    this.#worker?.terminate();
    const gone = new DOMException("the engine was closed", "AbortError");
    for (const request of [this.#waiting, this.#flying]) request?.reject(gone);
    this.#waiting = this.#flying = null;
  }

  async #next() {
    if (this.#flying || !this.#waiting || !this.info) return;
    const { source, classIndex, top, resolve, reject } = this.#waiting;
    this.#waiting = null;
    this.#flying = { resolve, reject }; // until the picture is on its way
    try {
      const picture = await createImageBitmap(source);
      const answer = await this.#ask({ picture, classIndex }, [picture]);
      resolve({ ...answer, top: best(answer.probabilities, top, this.labels) });
    } catch (error) {
      this.#flying = null;
      reject(error);
    }
    this.#next();
  }

  #ask(message, transfer = []) {
    return new Promise((resolve, reject) => {
      this.#flying = { resolve, reject };
      this.#worker.postMessage(message, transfer);
    });
  }

  #take(message) {
    if (message.progress) return this.#report(message.progress.text, message.progress.share);
    const request = this.#flying;
    this.#flying = null;
    if (message.error) request?.reject(new Error(message.error));
    else request?.resolve(message.result);
  }

  /** The worker died, perhaps for want of memory: begin again with a new one, not without end. */
  async #lose(why) {
    const opened = this.info !== null;
    this.#worker.terminate();
    const error = opened ? new DOMException("the worker was lost", "AbortError") : new Error(`The engine cannot start: ${why}.`);
    this.#flying?.reject(error);
    this.#flying = null;
    if (!opened || this.#closed) return;
    this.info = null;
    this.#failures += 1;
    if (this.#failures > 3) return this.onstate("lost", `The engine stopped again and again (${why}). Reload the page; close other tabs if memory is short.`);
    this.onstate("lost", `The engine stopped (${why}); starting it again.`);
    try {
      await this.start();
      this.onstate("back", "The engine is back.");
      this.#next();
    } catch (failure) {
      this.onstate("lost", `${failure.message} Reload the page.`);
    }
  }
}

/** The classes of the highest probability, best first; of equal ones the first. */
function best(probabilities, top, labels) {
  const found = [];
  probabilities.forEach((probability, index) => {
    if (found.length === top && !(probability > found[top - 1].probability)) return;
    let place = found.length;
    while (place > 0 && probability > found[place - 1].probability) place--;
    found.splice(place, 0, { index, name: labels?.[index] ?? `class ${index}`, probability });
    if (found.length > top) found.pop();
  });
  return found;
}
