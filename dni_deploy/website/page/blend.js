// Blends the members' weights, as engines/onnxruntime_cpu/blender.py does: always from the members, in float32; what BatchNorms are
// folded from in float64, and the fold after every blend. One member alone comes out bit for bit.

// What is nearer to a point of the calibration's grid, in grid steps, is meant to be on it: 0.3 * 10 is not 3.
const GRID_POINT_TOLERANCE = 1e-9;

export class Blender {
  // facts: as dni_deploy/website/network.py writes them; members: a Float32Array each; statistics: a Float64Array, row by row.
  constructor(facts, members, statistics) {
    this.facts = facts;
    this.members = members;
    this.statistics = statistics;
    this.points = facts.calibration_steps === null ? null : listGridPoints(members.length, facts.calibration_steps);
    this.row = new Float64Array(facts.statistics_width);
  }

  // Fills `out`, a Float32Array, for shares that sum to 1 and the controls' values by name.
  blend(shares, controls, out) {
    blendRows(this.members, shares, out);
    for (const control of this.facts.controls) {
      const value = controls[control.name] ?? control.default;
      for (const { offset, count } of control.places) out.fill(value + control.shift, offset, offset + count);
    }
    if (!this.row.length) return;
    const weights = this.points === null ? shares : interpolationWeights(shares, this.facts.calibration_steps, this.points);
    this.blendStatistics(weights);
    let start = 0;
    for (const fold of this.facts.folds) {
      this.applyFold(fold, start, out);
      start += 5 * fold.channels;
    }
    for (const { offset, count } of this.facts.estimates) {
      out.set(this.row.subarray(start, start + count), offset);
      start += count;
    }
  }

  blendStatistics(weights) {
    const { row, statistics } = this;
    row.fill(0);
    weights.forEach((weight, index) => {
      if (!weight) return;
      const from = index * row.length;
      for (let place = 0; place < row.length; place += 1) row[place] += weight * statistics[from + place];
    });
  }

  // The row holds variance + epsilon, gamma, beta, mean and bias of the fold's channels, from `start` on.
  applyFold({ offset, outer, channels, inner, bias }, start, out) {
    const row = this.row;
    for (let channel = 0; channel < channels; channel += 1) {
      const place = start + channel;
      const scale = row[place + channels] / Math.sqrt(row[place]);
      out[bias + channel] = row[place + 2 * channels] + scale * (row[place + 4 * channels] - row[place + 3 * channels]);
      const factor = Math.fround(scale);
      for (let block = 0; block < outer; block += 1) {
        const from = offset + (block * channels + channel) * inner;
        for (let index = from; index < from + inner; index += 1) out[index] *= factor;
      }
    }
  }
}

// A member with share 0 is not read: 0 * NaN would be NaN.
export function blendRows(members, shares, out) {
  const used = shares.flatMap((share, index) => (share ? [[share, members[index]]] : []));
  if (used.length === 1 && used[0][0] === 1) {
    out.set(used[0][1]);
    return;
  }
  const [[share, row]] = used;
  if (used.length === 2) {
    const [, [otherShare, other]] = used;
    for (let index = 0; index < out.length; index += 1) out[index] = share * row[index] + otherShare * other[index];
    return;
  }
  for (let index = 0; index < out.length; index += 1) out[index] = share * row[index];
  for (const [nextShare, next] of used.slice(1)) {
    for (let index = 0; index < out.length; index += 1) out[index] += nextShare * next[index];
  }
}

// All points of a simplex grid in units of 1 / steps, in descending order: `enumerate_calibration_points`.
export function listGridPoints(members, steps) {
  if (members === 1) return [[steps]];
  const points = [];
  for (let first = steps; first >= 0; first -= 1) {
    for (const rest of listGridPoints(members - 1, steps - first)) points.push([first, ...rest]);
  }
  return points;
}

// How much each point of the grid counts, in Kuhn's triangulation: `CalibrationTable.interpolation_weights`.
export function interpolationWeights(shares, steps, points) {
  const parts = new Array(shares.length);
  let sum = 0;
  for (let index = shares.length - 1; index >= 0; index -= 1) {
    sum += shares[index];
    const part = Math.min(sum * steps, steps), whole = Math.round(part);
    parts[index] = Math.abs(part - whole) < GRID_POINT_TOLERANCE ? whole : part;
  }
  parts[0] = steps;
  const corner = parts.map(Math.floor);
  const fractions = parts.map((part, index) => part - corner[index]);
  const order = shares.map((_, index) => index).sort((one, other) => fractions[other] - fractions[one]);
  const weights = new Array(points.length).fill(0);
  let before = 1;
  for (const axis of order) {
    const point = corner.map((whole, index) => whole - (corner[index + 1] ?? 0)).join();
    weights[points.findIndex(each => each.join() === point)] += before - fractions[axis];
    before = fractions[axis];
    if (before === 0) break;
    corner[axis] += 1;
  }
  return weights;
}
