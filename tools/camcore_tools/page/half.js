// 16-bit floats, where the browser has no array of them.

const view = new DataView(new ArrayBuffer(4));

/** The bits of the nearest 16-bit float, halves to even. */
export function toHalf(value) {
  view.setFloat32(0, value);
  const bits = view.getUint32(0), sign = (bits >>> 16) & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00;
  if (size >= 0x477ff000) return sign | 0x7c00;
  if (size < 0x38800000) { // below the smallest normal one
    const steps = Math.abs(value) * 2 ** 24, low = Math.floor(steps), part = steps - low;
    return sign | (part < 0.5 || (part === 0.5 && low % 2 === 0) ? low : low + 1);
  }
  return sign | ((size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13);
}

/** The number that 16 bits stand for. */
export function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, power = (bits >> 10) & 31, part = bits & 1023;
  if (power === 31) return part ? NaN : sign * Infinity;
  return sign * (power ? 2 ** (power - 15) * (1 + part / 1024) : part * 2 ** -24);
}
