// Pictures as the arrays of a network, and back: dni_deploy/imaging/frames.py in JavaScript. A picture is RGBA in bytes, row by row.

// Rows (or columns) that pad a side of `size` pixels by `count`: mirrored at the last one, or that one repeated.
export function mirrorIndices(size, count) {
  return Array.from({ length: count }, (_, index) => (count < size ? size - 2 - index : size - 1));
}

export function roundUpSide(side, { minimum, multiple }) {
  return Math.ceil(Math.max(side, minimum) / multiple) * multiple;
}

// The part of a padded picture from (top, left) on, `height` x `width`, as float32 planes of red, green and blue in the network's range.
export function toNetwork(picture, signature, top, left, height, width) {
  const { data } = picture;
  const rows = padIndices(picture.height, top, height), columns = padIndices(picture.width, left, width);
  const values = Float32Array.from({ length: 256 }, (_, level) => {
    const value = Math.fround(level / 255);
    return signature.low === 0 && signature.high === 1 ? value
      : Math.fround(Math.fround(value * Math.fround(signature.high - signature.low)) + Math.fround(signature.low));
  });
  const size = height * width, x = new Float32Array(3 * size);
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const from = 4 * (rows[row] * picture.width + columns[column]), to = row * width + column;
      x[to] = values[data[from]];
      x[to + size] = values[data[from + 1]];
      x[to + 2 * size] = values[data[from + 2]];
    }
  }
  return x;
}

function padIndices(size, start, count) {
  const padding = mirrorIndices(size, Math.max(0, start + count - size));
  return Array.from({ length: count }, (_, index) => (start + index < size ? start + index : padding[start + index - size]));
}

// The part of a network's output, 3 planes of `planeHeight` x `planeWidth`, that is kept, as RGBA; `part` is in pixels of the output.
// A residual network's output is subtracted from the picture, whose pixels are at (part.top + offset.top, ...). Bytes are rounded half
// to even, as NumPy does: Uint8ClampedArray does so by itself.
export function toPixels(y, planeHeight, planeWidth, part, signature, picture, offset) {
  const out = new Uint8ClampedArray(4 * part.height * part.width).fill(255), size = planeHeight * planeWidth;
  const white = Math.fround(255 / Math.fround(signature.high - signature.low)), low = Math.fround(signature.low);
  for (let row = 0; row < part.height; row += 1) {
    for (let column = 0; column < part.width; column += 1) {
      const from = (part.top + row) * planeWidth + part.left + column, to = 4 * (row * part.width + column);
      const pixel = signature.residual ? 4 * ((part.top + row + offset.top) * picture.width + part.left + column + offset.left) : 0;
      for (let channel = 0; channel < 3; channel += 1) {
        const value = y[from + channel * size];
        if (!Number.isFinite(value)) throw new Error("The network's output is not finite.");
        out[to + channel] = signature.residual
          ? Math.fround(Math.fround(-white * value) + picture.data[pixel + channel])
          : Math.fround(Math.fround(value - low) * white);
      }
    }
  }
  return out;
}
