// Where the network runs: pictures in, raw maps and probabilities out.

import { fromHalf, toHalf } from "./half.js";
import { layout, resized, values } from "./resample.js";

let ort = null, session = null, model = null, canvas = null;

onmessage = async ({ data }) => {
  try {
    postMessage({ result: data.open ? await open(data.open) : await explain(data) });
  } catch (error) {
    if (session && isFatal(error)) setTimeout(() => { throw error; }); // the page begins again with a new worker
    else postMessage({ error: error.message || String(error) });
  }
};

/** Whether nothing can be computed here any more: no memory, or the GPU is gone. */
const isFatal = (error) => error instanceof WebAssembly.RuntimeError || /abort|out of memory|device.{0,9}lost/i.test(error.message ?? "");

const tell = (text, share) => postMessage({ progress: { text, share } });

// ---- the runtime and the model

async function open({ model: described, runtime, device }) {
  model = described;
  const loading = load(model.url, model.bytes);
  loading.catch(() => {}); // told below
  let note = "";
  if (device !== "wasm" && runtime.webgpu) {
    note = await noWebgpu();
    if (!note) {
      try {
        return await begin(runtime.webgpu, "webgpu", await loading, "");
      } catch (error) {
        session = null;
        note = `WebGPU cannot run this model: ${firstLine(error)}`;
      }
    }
  }
  return begin(runtime.wasm, "wasm", await loading, note);
}

/** Why WebGPU is not there; empty where it is. */
async function noWebgpu() {
  if (model.quantised) return "quantised: on the CPU, where its numbers are those of Python";
  if (!navigator.gpu) return isSecureContext ? "no WebGPU in this browser" : "WebGPU needs https or localhost";
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  if (!adapter) return "no WebGPU adapter";
  const half = model.half && !adapter.features.has("shader-f16");
  return half ? "this GPU has no 16-bit floats" : "";
}

async function begin(build, kind, bytes, note) {
  tell("Starting ONNX Runtime");
  ort = await import(build.main);
  ort.env.logLevel = "error";
  const threads = self.crossOriginIsolated ? Math.max(1, Math.min(4, navigator.hardwareConcurrency >> 1)) : 1;
  Object.assign(ort.env.wasm, { wasmPaths: { mjs: build.mjs, wasm: build.wasm }, numThreads: threads, proxy: false });
  const options = { executionProviders: [kind], graphOptimizationLevel: "all", logSeverityLevel: 3 };
  session = await ort.InferenceSession.create(bytes, options);
  const size = model.preprocess.size;
  if (size) {
    tell("Warming up");
    const { map, probabilities } = await run(new Float32Array(model.channels * size[0] * size[1]), size, null);
    if (kind === "webgpu" && ![...map, ...probabilities].every(Number.isFinite)) throw new Error("it gives NaN");
  }
  const name = kind === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  return { device: name, note };
}

const firstLine = (error) => String(error.message ?? error).split("\n")[0].slice(0, 160);

/** The bytes of a file, with the share that has come. */
async function load(address, expected) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`The model cannot be loaded (${response.status} ${response.statusText}): is ${new URL(address).pathname} there?`);
  const reader = response.body.getReader(), parts = [];
  let length = 0;
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    parts.push(value);
    length += value.length;
    tell("Loading the model", length / expected);
  }
  if (length !== expected) throw new Error(`The model has ${length} bytes instead of ${expected}: copy the folder again.`);
  const bytes = new Uint8Array(length);
  parts.reduce((at, part) => (bytes.set(part, at), at + part.length), 0);
  return bytes;
}

// ---- a picture

async function explain({ picture, classIndex }) {
  const began = performance.now();
  const plan = prepare(picture);
  picture.close();
  const answer = await run(plan.input, plan.size, classIndex);
  return { ...answer, view: plan.view, rectifies: model.rectifies, milliseconds: performance.now() - began };
}

function prepare(picture) {
  const { width, height } = picture;
  const plan = layout(height, width, model.preprocess);
  const [high, across] = plan.size;
  const fixed = model.preprocess.size;
  if (fixed && (fixed[0] !== high || fixed[1] !== across)) {
    throw new Error(`This model takes pictures of exactly ${fixed[1]} x ${fixed[0]} pixels; this one has ${width} x ${height}.`);
  }
  const rgb = resized(height, width, plan, (...part) => pixels(picture, ...part).data);
  return { ...plan, input: values(rgb, model.channels, model.preprocess) };
}

/** Some of a picture, which is laid on white. */
function pixels(picture, x, y, width, height) {
  canvas ??= new OffscreenCanvas(1, 1);
  if (canvas.width < width || canvas.height < height) {
    Object.assign(canvas, { width: Math.max(canvas.width, width), height: Math.max(canvas.height, height) });
  }
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, -x, -y);
  return context.getImageData(0, 0, width, height);
}

// ---- a run

async function run(input, [high, across], classIndex) {
  const shape = [model.batch, model.channels, high, across];
  const feeds = { [model.input]: tensor(model.type, repeated(input, model.batch), shape) };
  feeds[model.classInput] = new ort.Tensor("int32", Int32Array.of(classIndex ?? -1), [1]);
  const outputs = await session.run(feeds, [model.scores, model.cam, `${model.cam}_classes`]);
  const scores = floats(outputs[model.scores], model.classes);
  const [rows, wide] = outputs[model.cam].dims.slice(-2);
  const map = floats(outputs[model.cam], rows * wide);
  const chosen = Number(outputs[`${model.cam}_classes`].data[0]);
  for (const value of [...Object.values(feeds), ...Object.values(outputs)]) value.dispose();
  return { map, shape: [rows, wide], classIndex: chosen, probabilities: probabilities(scores, model.scoresAre) };
}

function repeated(input, times) {
  if (times === 1) return input;
  const all = new Float32Array(input.length * times);
  for (let n = 0; n < times; n++) all.set(input, n * input.length);
  return all;
}

function tensor(type, data, shape) {
  if (type === "float16") return new ort.Tensor(type, globalThis.Float16Array ? Float16Array.from(data) : Uint16Array.from(data, toHalf), shape);
  if (type === "float64") return new ort.Tensor(type, Float64Array.from(data), shape);
  if (type === "uint8") return new ort.Tensor(type, Uint8Array.from(data), shape);
  return new ort.Tensor("float32", data, shape);
}

/** The first numbers of an output as float32. */
function floats({ data, type }, count) {
  const part = data.slice(0, count);
  return type === "float16" && part instanceof Uint16Array ? Float32Array.from(part, fromHalf) : Float32Array.from(part);
}

function probabilities(scores, are) {
  if (are === "probability") return scores;
  if (are === "log-probability") return scores.map(Math.exp);
  if (are === "independent logit" || scores.length === 1) return scores.map((s) => 0.5 * (1 + Math.tanh(0.5 * s)));
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(scores, (s) => Math.exp(s - most)), sum = powers.reduce((a, b) => a + b, 0);
  return Float32Array.from(powers, (p) => p / sum);
}
