// Records alpha over time as keyframes, which are played back and exported in the form that --alpha reads.
const MIN_HOLD_S = 0.1; // between two alphas that are farther apart, alpha was held, and did not move slowly

export class Recorder {
  constructor(members) {
    this.members = members;
    this.keyframes = [];
    this.started = null;
  }

  get recording() { return this.started !== null; }

  start(shares, now) {
    this.keyframes = [{ time: 0, shares: [...shares] }];
    this.started = now;
  }

  // Times are seconds from the start, with milliseconds; they rise strictly, as a timeline requires.
  note(shares, now) {
    if (!this.recording) return false;
    const last = this.keyframes[this.keyframes.length - 1];
    const time = Math.max(Math.round(now - this.started) / 1000, last.time + 0.001);
    if (shares.every((share, index) => Math.abs(share - last.shares[index]) < 1e-6)) return false;
    if (time - last.time > MIN_HOLD_S) this.keyframes.push({ time: time - 0.001, shares: last.shares });
    this.keyframes.push({ time, shares: [...shares] });
    return true;
  }

  stop(now) {
    const last = this.keyframes[this.keyframes.length - 1];
    const time = Math.round(now - this.started) / 1000;
    if (time > last.time) this.keyframes.push({ time, shares: last.shares });
    this.started = null;
  }

  get length() { return this.keyframes.length ? this.keyframes[this.keyframes.length - 1].time : 0; }

  at(seconds) {
    const after = this.keyframes.findIndex(keyframe => keyframe.time > seconds);
    if (after === -1) return this.keyframes[this.keyframes.length - 1].shares;
    if (after === 0) return this.keyframes[0].shares;
    const one = this.keyframes[after - 1], other = this.keyframes[after];
    const fraction = (seconds - one.time) / (other.time - one.time);
    return one.shares.map((share, index) => share + fraction * (other.shares[index] - share));
  }

  toJSON(loop = false) {
    return {
      schema: 1, members: this.members, interpolation: "linear", loop: loop && this.keyframes.length > 1,
      keyframes: this.keyframes.map(({ time, shares }) => ({ time: round(time, 3), alpha: this.named(shares) })),
    };
  }

  toText(loop = false) {
    const keyframes = this.toJSON(loop).keyframes.map(({ time, alpha }) =>
      `${time}s:` + Object.entries(alpha).map(([name, share]) => `${name}=${share}`).join(","));
    return keyframes.join(", ") + (loop && keyframes.length > 1 ? "; loop" : "");
  }

  // Six digits; what rounding took from the sum goes to the largest share.
  named(shares) {
    const digits = shares.map(share => round(share, 6));
    const largest = digits.indexOf(Math.max(...digits));
    digits[largest] = round(1 - digits.reduce((sum, share, index) => index === largest ? sum : sum + share, 0), 6);
    return Object.fromEntries(this.members.map((name, index) => [name, digits[index]]));
  }
}

function round(value, digits) {
  return Number(value.toFixed(digits));
}
