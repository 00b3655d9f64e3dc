// Which classes a picture shows, and where: in Node, from a file of `camcore export --embed`; alike in a browser.
//   npm install onnxruntime-web
//   node heatmap.mjs model.cam.onnx image.f32     (1, C, H, W) float32, as the model takes it
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web"; // or onnxruntime-node

const [model, image] = await Promise.all(process.argv.slice(2, 4).map((path) => readFile(path)));
const session = await ort.InferenceSession.create(model);
const shape = session.inputMetadata[0].shape.map((n, axis) => (typeof n === "number" ? n : [1, 3, 224, 224][axis]));
const pixels = new Float32Array(image.buffer, image.byteOffset, image.length / 4);
const out = await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", pixels, shape) });

const [, count, height, width] = out.cam.dims; // (N, T, h, w), of the best classes
for (let t = 0; t < count; ++t) {
  const map = out.cam.data.subarray(t * height * width, (t + 1) * height * width);
  const peak = map.indexOf(map.reduce((a, b) => Math.max(a, b))); // a cell; its middle in pixels of the input:
  const x = Math.floor(((peak % width) + 0.5) * (shape[3] / width));
  const y = Math.floor((Math.floor(peak / width) + 0.5) * (shape[2] / height));
  console.log(`class ${out.cam_classes.data[t]}, score ${out.cam_scores.data[t].toFixed(4)}, peak at pixel ${x}, ${y}`);
}
