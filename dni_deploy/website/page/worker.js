// Runs the network beside the page, so that the page never stands still. Messages in: {open}, {picture}, {settings}; the newest counts.
import { fetchNetwork, findGpu, Network } from "./network.js";
import { toNetwork, toPixels } from "./pixels.js";
import { planTiles } from "./tiling.js";

let base, site, parts, network = null, picture = null, wanted = null, lastSettings = null, isRunning = false;

// The event loop sees new messages only between tiles: in WebAssembly a tile holds this thread.
const { port1, port2 } = new MessageChannel();
const seeMessages = () => new Promise(resolve => { port1.onmessage = resolve; port2.postMessage(null); });

async function open(request) {
  base = request.base;
  site = request.site;
  parts = await fetchNetwork(base, site, (done, total) => postMessage({ loading: { done, total } }));
  const forced = request.engine;
  const engine = forced === "wasm" || !(await findGpu(forced === "webgpu")) ? "wasm" : "webgpu";
  if (forced === "webgpu" && engine === "wasm") postMessage({ note: "This browser gives no WebGPU; the network runs by WebAssembly." });
  await openEngine(engine);
}

async function openEngine(engine) {
  postMessage({ starting: engine });
  try {
    network = await Network.open(base, site, parts, engine);
    if (!(await network.check())) throw new Error("The network computes something else here than when it was published.");
  } catch (error) {
    if (engine === "wasm") throw error;
    await fallBack(error);
    return;
  }
  postMessage({ ready: { engine: network.engine, threads: network.threads } });
  await render();
}

async function fallBack(error) {
  postMessage({ note: `WebGPU cannot be used here, and the network runs by WebAssembly, which is slower. ${error.message}` });
  const broken = network;
  network = null;
  if (broken) await broken.close().catch(() => {});
  await openEngine("wasm");
}

// Renders the newest settings, and starts anew where newer ones come meanwhile.
async function render() {
  if (isRunning || !network) return;
  isRunning = true;
  try {
    while (wanted && picture) {
      const job = { ...wanted, picture };
      wanted = null;
      await renderPicture(job);
    }
  } catch (error) {
    if (network?.engine !== "webgpu") throw error;
    wanted ??= lastSettings;
    isRunning = false;
    await fallBack(error);
  } finally { isRunning = false; }
}

async function renderPicture(job) {
  const { signature } = site, { scale } = signature, { picture: source } = job;
  let started = performance.now();
  network.setWeights(job.shares, job.controls);
  const change = performance.now() - started;
  const tiles = planTiles(source.height, source.width, signature, site.tiles);
  let frame = 0;
  for (const [index, tile] of tiles.entries()) {
    started = performance.now();
    const x = toNetwork(source, signature, tile.top, tile.left, tile.height, tile.width);
    const y = await network.infer(x, tile.height, tile.width);
    const { keep } = tile;
    const part = { top: scale * (keep.top - tile.top), left: scale * (keep.left - tile.left), height: scale * keep.height, width: scale * keep.width };
    const data = toPixels(y, scale * tile.height, scale * tile.width, part, signature, source, tile);
    frame += performance.now() - started;
    postMessage({
      tile: { id: job.id, pictureId: source.id, index, count: tiles.length, top: scale * keep.top, left: scale * keep.left, height: part.height,
        width: part.width, data, change, frame, shares: job.shares },
    }, [data.buffer]);
    await seeMessages();
    if (wanted && index + 1 < tiles.length) return;
  }
}

async function handle({ data: message }) {
  try {
    if (message.picture) picture = message.picture;
    if (message.settings) wanted = lastSettings = message.settings;
    if (message.open) await open(message.open);
    else await render();
  } catch (error) {
    postMessage({ problem: error.message || String(error) });
  }
}

addEventListener("message", handle);
