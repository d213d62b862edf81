// A picture in overlapping tiles of one size, joined without seams: dni_deploy/imaging/tiling.py in JavaScript.
import { roundUpSide } from "./pixels.js";

// The tiles of a picture: {top, left, height, width}, and `keep`, the part of the picture that comes from it. All in input pixels;
// the last tiles reach into the padding.
export function planTiles(height, width, signature, tiles) {
  const rows = planSide(height, signature, tiles), columns = planSide(width, signature, tiles);
  return rows.flatMap(row => columns.map(column => ({
    top: row.start, left: column.start, height: row.end - row.start, width: column.end - column.start,
    keep: { top: row.keepStart, left: column.keepStart, height: row.keepEnd - row.keepStart, width: column.keepEnd - column.keepStart },
  })).filter(({ keep }) => keep.height > 0 && keep.width > 0));
}

function planSide(size, signature, tiles) {
  const padded = roundUpSide(size, signature);
  if (tiles === null || padded <= tiles.side) return [{ start: 0, end: padded, keepStart: 0, keepEnd: size }];
  const side = tiles.side - tiles.side % signature.multiple;
  const room = side - 2 * tiles.overlap, stride = room - room % signature.multiple;
  const starts = [];
  for (let start = 0; start < padded - side; start += stride) starts.push(start);
  starts.push(padded - side);
  const cuts = [0, ...starts.slice(1).map((after, index) => Math.floor((after + starts[index] + side) / 2)), padded];
  return starts.map((start, index) => ({ start, end: start + side, keepStart: Math.min(cuts[index], size), keepEnd: Math.min(cuts[index + 1], size) }));
}
