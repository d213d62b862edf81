// The network: ONNX Runtime Web with the blended weights as inputs of the graph.
import { Blender } from "./blend.js";

const MAX_THREADS = 8;
// Of the check: WebGPU computes in float32 as well, but in another order, and some drivers compute something else altogether.
const CHECK_TOLERANCE = 1e-3;

// Fetches a file of the site and calls `report` with the bytes so far.
async function fetchBytes(address, report) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${new URL(address).pathname} cannot be read (HTTP ${answer.status}).`);
  const parts = [], reader = answer.body.getReader();
  let size = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    size += part.value.length;
    report(part.value.length);
  }
  const bytes = new Uint8Array(size);
  let place = 0;
  for (const part of parts) { bytes.set(part, place); place += part.length; }
  return bytes;
}

// Reads what the network is made of. `base` is the address of the site's folder.
export async function fetchNetwork(base, site, report) {
  const total = site.graph.size + site.statistics.size + site.member_files.reduce((sum, file) => sum + file.size, 0);
  let done = 0;
  const read = ({ file }) => fetchBytes(new URL(file, base).href, count => report((done += count), total));
  const [graph, statistics, ...members] = await Promise.all([site.graph, site.statistics, ...site.member_files].map(read));
  return { graph, blender: new Blender(site, members.map(bytes => new Float32Array(bytes.buffer)), new Float64Array(statistics.buffer)) };
}

// Whether a GPU can be used that is not emulated on the processor, which is slower than WebAssembly there.
export async function findGpu(forced) {
  if (!navigator.gpu || !("Suspending" in WebAssembly)) return false;
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  return Boolean(adapter) && (forced || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false));
}

export class Network {
  constructor(engine, threads, ort, session, site, blender) {
    Object.assign(this, { engine, threads, ort, session, site, blender });
    this.weights = new Float32Array(site.weight_count);
    this.feeds = Object.fromEntries(site.weights.map(({ name, shape, offset }) => {
      const count = shape.reduce((product, size) => product * size, 1);
      return [name, new ort.Tensor("float32", this.weights.subarray(offset, offset + count), shape)];
    }));
  }

  // engine: "webgpu" or "wasm".
  static async open(base, site, { graph, blender }, engine) {
    const onGpu = engine === "webgpu", variant = onGpu ? ".jspi" : "";
    const ort = await import(new URL(`runtime/ort.${onGpu ? "jspi" : "wasm"}.js`, base).href);
    // Threads need shared memory, which a browser gives only to pages whose server sends COOP and COEP headers.
    const threads = self.crossOriginIsolated && !onGpu ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = {
      mjs: new URL(`runtime/ort-wasm-simd-threaded${variant}.js`, base).href,
      wasm: new URL(`runtime/ort-wasm-simd-threaded${variant}.wasm`, base).href,
    };
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(graph, { executionProviders: [engine] });
    return new Network(engine, threads, ort, session, site, blender);
  }

  setWeights(shares, controls) { this.blender.blend(shares, controls, this.weights); }

  // x: a Float32Array of three planes. Returns the output's numbers, those of the whole batch.
  async infer(x, height, width) {
    const { channels } = this.site.signature;
    const input = new this.ort.Tensor("float32", x, [3 / channels, channels, height, width]);
    const outputs = await this.session.run({ ...this.feeds, [this.site.input]: input });
    return outputs[this.site.output].data;
  }

  // Whether the network computes what dni-deploy computed when it made the site. Leaves the weights at the check's alpha.
  async check() {
    const { side, shares, controls, step, expected } = this.site.check;
    this.setWeights(shares, controls);
    const x = Float32Array.from({ length: 3 * side * side }, (_, index) => (Math.imul(index, 2654435761) >>> 8) / 2 ** 24);
    const y = await this.infer(x, side, side), span = this.site.signature.high - this.site.signature.low;
    return expected.every((value, index) => Math.abs(y[index * step] - value) <= CHECK_TOLERANCE * span);
  }

  close() { return this.session.release(); }
}
