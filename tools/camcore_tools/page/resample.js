// From a picture to the network's input, in the numbers of Python's camcore.Preprocess: Pillow's bilinear reduction in
// whole numbers, along one axis, then along the other, rounded to 8 bits after each.

const BITS = 22, ONE = 1 << BITS, HALF = 1 << (BITS - 1);

/** To the nearest whole number, halves to the even one, as Python rounds. */
function rounded(value) {
  const low = Math.floor(value), part = value - low;
  return part < 0.5 || (part === 0.5 && low % 2 === 0) ? low : low + 1;
}

/** What is resized to what, and which part of that is cut out: {size, tall, wide, top, left, view}. */
export function layout(height, width, { resize, crop, size }) {
  const whole = { x: 0, y: 0, width: 1, height: 1 };
  if (resize === "none") return { size: [height, width], tall: height, wide: width, top: 0, left: 0, view: whole };
  const [high, across] = size;
  if (resize === "squash") return { size, tall: high, wide: across, top: 0, left: 0, view: whole };
  const scale = Math.max(high / crop / height, across / crop / width);
  const tall = Math.max(high, Math.trunc(height * scale + 1e-6));
  const wide = Math.max(across, Math.trunc(width * scale + 1e-6));
  const top = rounded((tall - high) / 2), left = rounded((wide - across) / 2);
  return { size, tall, wide, top, left, view: { x: left / wide, y: top / tall, width: across / wide, height: high / tall } };
}

/** For outputs `from` to `to` of an axis that goes from `old` to `length`: the first pixel of each, and the weights. */
function weights(old, length, from, to) {
  const scale = old / length, reach = Math.max(scale, 1), room = Math.ceil(reach) * 2 + 1;
  const first = new Int32Array(to - from), count = new Int32Array(to - from), found = new Int32Array((to - from) * room);
  const line = new Float64Array(room);
  for (let n = 0; n < to - from; n++) {
    const centre = (from + n + 0.5) * scale;
    first[n] = Math.max(0, Math.trunc(centre - reach + 0.5));
    count[n] = Math.min(old, Math.trunc(centre + reach + 0.5)) - first[n];
    let sum = 0;
    for (let k = 0; k < count[n]; k++) {
      line[k] = Math.max(0, 1 - Math.abs((k + first[n] - centre + 0.5) * (1 / reach)));
      sum += line[k];
    }
    for (let k = 0; k < count[n]; k++) found[n * room + k] = Math.trunc(0.5 + line[k] / sum * ONE);
  }
  return { first, count, room, found };
}

/** The pixels that an axis reads: where they begin and how many they are. */
function reads({ first, count }) {
  const last = first.length - 1;
  return { start: first[0], length: first[last] + count[last] - first[0] };
}

/** RGBA pixels as RGB pixels. */
function opaque(data) {
  const count = data.length / 4, rgb = new Uint8Array(count * 3);
  for (let k = 0, p = 0, q = 0; k < count; k++, p += 4, q += 3) {
    rgb[q] = data[p]; rgb[q + 1] = data[p + 1]; rgb[q + 2] = data[p + 2];
  }
  return rgb;
}

/** Lines of `width` RGB pixels, of which the first is pixel `start` of the picture, brought to the width of `across`. */
function narrowed(pixels, width, start, across) {
  const columns = across.first.length, rows = pixels.length / 3 / width, result = new Uint8Array(rows * columns * 3);
  for (let x = 0; x < columns; x++) {
    const from = (across.first[x] - start) * 3, begin = x * across.room, end = begin + across.count[x];
    for (let y = 0, to = x * 3; y < rows; y++, to += columns * 3) {
      let red = HALF, green = HALF, blue = HALF;
      for (let k = begin, p = y * width * 3 + from; k < end; k++, p += 3) {
        const w = across.found[k];
        red += pixels[p] * w; green += pixels[p + 1] * w; blue += pixels[p + 2] * w;
      }
      result[to] = red >> BITS; result[to + 1] = green >> BITS; result[to + 2] = blue >> BITS;
    }
  }
  return result;
}

/** The same for columns. */
function lowered(pixels, width, start, down) {
  const rows = down.first.length, stride = width * 3, result = new Uint8Array(rows * stride), line = new Float64Array(stride);
  for (let y = 0; y < rows; y++) {
    line.fill(HALF);
    for (let k = 0, p = (down.first[y] - start) * stride; k < down.count[y]; k++) {
      const w = down.found[y * down.room + k];
      for (let x = 0; x < stride; x++, p++) line[x] += pixels[p] * w;
    }
    for (let x = 0, to = y * stride; x < stride; x++, to++) result[to] = line[x] >> BITS;
  }
  return result;
}

/**
 * The input's pixels of a picture of a height and width.
 *
 * `read` gives the RGBA pixels of a part (x, y, width, height), which is all that is looked at.
 */
export function resized(height, width, { tall, wide, top, left, size: [high, across] }, read) {
  const columns = weights(width, wide, left, left + across), rows = weights(height, tall, top, top + high);
  const x = reads(columns), y = reads(rows);
  const pixels = opaque(read(x.start, y.start, x.length, y.length));
  // As Pillow 13 does: the columns first where that saves much.
  const columnsFirst = tall < height && height - tall > 2 * (width - wide);
  if (columnsFirst) return narrowed(lowered(pixels, x.length, y.start, rows), x.length, x.start, columns);
  return lowered(narrowed(pixels, x.length, x.start, columns), across, y.start, rows);
}

/** RGB pixels as (channels, H, W) float32 values: (pixel * scale - mean) / std, each step rounded to float32. */
export function values(pixels, channels, { scale, mean, std, order }) {
  const count = pixels.length / 3, found = new Float32Array(count * channels), round = Math.fround;
  for (let c = 0; c < channels; c++) {
    const m = round(per(mean, c, channels)), s = round(per(std, c, channels));
    const table = Float32Array.from({ length: 256 }, (_, p) => round(round(round(p * round(scale)) - m) / s));
    const from = order === "BGR" ? 2 - c : c;
    for (let k = 0; k < count; k++) found[c * count + k] = table[channels === 1 ? grey(pixels, 3 * k) : pixels[3 * k + from]];
  }
  return found;
}

function per(numbers, channel, channels) {
  if (numbers.length === 1) return numbers[0];
  return channels === 1 ? numbers.reduce((a, b) => a + b, 0) / numbers.length : numbers[channel];
}

const grey = (pixels, k) => rounded((299 * pixels[k] + 587 * pixels[k + 1] + 114 * pixels[k + 2]) / 1000);
