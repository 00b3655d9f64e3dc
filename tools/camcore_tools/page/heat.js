// From a raw map of low resolution to heat, as Python's Explanation.heatmaps makes it: rectify, resize, scale to [0, 1].

/** Base64 as bytes. */
export function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let k = 0; k < raw.length; k++) found[k] = raw.charCodeAt(k);
  return found;
}

const LARGEST = 3.4028234663852886e38;

/** Infinity as the largest float; NaN as the smallest value of the map, or 0 where there is nothing else. */
function finite(map, rectifies) {
  const values = Float32Array.from(map, (v) => Math.min(Math.max(rectifies && v < 0 ? 0 : v, -LARGEST), LARGEST));
  let low = Infinity;
  for (const v of values) if (v < low) low = v;
  const instead = low === Infinity ? 0 : low;
  return values.map((v) => (Number.isNaN(v) ? instead : v));
}

/** Between which two cells each pixel lies, and how far towards the second: half-pixel centres, borders repeated. */
function samples(old, length) {
  const first = new Uint16Array(length), second = new Uint16Array(length), part = new Float64Array(length);
  for (let k = 0; k < length; k++) {
    const centre = Math.max((k + 0.5) * old / length - 0.5, 0);
    first[k] = Math.min(Math.floor(centre), old - 1);
    second[k] = Math.min(first[k] + 1, old - 1);
    part[k] = centre - first[k];
  }
  return { first, second, part };
}

/** Heat in [0, 1] of a size [height, width]; a map that is the same everywhere gives zeros. */
export function heatmap(map, [high, wide], [height, width], rectifies) {
  const cells = finite(map, rectifies), rows = samples(high, height), columns = samples(wide, width);
  const line = new Float64Array(wide), heat = new Float32Array(height * width);
  let low = Infinity, most = -Infinity, k = 0;
  for (let y = 0; y < height; y++) {
    const above = rows.first[y] * wide, below = rows.second[y] * wide, part = rows.part[y];
    for (let x = 0; x < wide; x++) line[x] = cells[above + x] + part * (cells[below + x] - cells[above + x]);
    for (let x = 0; x < width; x++, k++) {
      const from = line[columns.first[x]];
      heat[k] = from + columns.part[x] * (line[columns.second[x]] - from);
      if (heat[k] < low) low = heat[k];
      if (heat[k] > most) most = heat[k];
    }
  }
  const reach = most - low;
  for (k = 0; k < heat.length; k++) heat[k] = reach > 0 ? (heat[k] - low) / reach : 0;
  return heat;
}

/** The size in which heat is made: the network's own input, times a whole number where that is small. */
export function sizeOfHeat([height, width]) {
  const times = Math.max(1, Math.ceil(192 / Math.max(height, width)));
  return [height * times, width * times];
}

/** The 256 colours of a table as pixels; with `fade` they are as opaque as they are hot. */
export function colours(table, fade) {
  const found = new Uint8ClampedArray(1024);
  for (let level = 0; level < 256; level++) {
    found.set([table[3 * level], table[3 * level + 1], table[3 * level + 2], fade ? level : 255], 4 * level);
  }
  return new Uint32Array(found.buffer);
}

/** Draw heat of a size on a canvas, which takes that size. */
export function draw(canvas, heat, [height, width], looks) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let k = 0; k < heat.length; k++) pixels[k] = looks[heat[k] * 255 + 0.5 | 0];
  context.putImageData(image, 0, 0);
}
