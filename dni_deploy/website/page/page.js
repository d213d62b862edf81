// The page: controls and pictures here, the network in a worker. Alpha is in the address behind #, so that a link shares a look.
import { formatAlpha, parseAlpha, setShare } from "./alpha.js";
import { build, buildNetworkControls, sharesText } from "./controls.js";

const byId = id => document.getElementById(id);
const BASE = new URL(".", import.meta.url).href;
const LINK_DELAY_MS = 250;
const state = { site: null, shares: [], controls: {}, view: "split", requestId: 0, pictureId: 0, picture: null, drawn: false, moved: -1e9, worker: null };
// For tests and benchmarks.
const stats = window.dni = { frames: 0, changes: [], times: [], firstFrame: 0, engine: "", done: 0 };
let linkTimer, noteTimer, sayTimer;

async function main() {
  const answer = await fetch(new URL("site.json", BASE), { cache: "no-cache" });
  if (!answer.ok) throw new Error(`site.json cannot be read (HTTP ${answer.status}).`);
  const site = state.site = await answer.json();
  state.shares = site.alpha;
  state.controls = Object.fromEntries(site.controls.map(({ name, default: value }) => [name, value]));
  state.panel = build(byId("controls"), { members: site.members, slider: site.slider, plane: null }, handleMove);
  state.networkPanel = buildNetworkControls(byId("network-controls"), site.controls, handleControl);
  readLink();
  showSettings();
  openWorker();
  await loadSample();
}

// ---- the worker

function openWorker() {
  const worker = state.worker = new Worker(new URL("worker.js", BASE), { type: "module" });
  worker.onmessage = ({ data }) => {
    if (data.tile) drawTile(data.tile);
    if (data.loading) showStage(`Loading the network: ${formatBytes(data.loading.done)} of ${formatBytes(data.loading.total)}`, data.loading.done / data.loading.total);
    if (data.starting) showStage(data.starting === "webgpu" ? "Starting WebGPU…" : "Starting WebAssembly…", null);
    if (data.ready) showEngine(data.ready);
    if (data.note) showNote(data.note);
    if (data.problem) showProblem(data.problem);
  };
  worker.onerror = event => { event.preventDefault(); showProblem(`The network could not be started here${event.message ? `: ${event.message}` : "."}`); };
  const engine = new URLSearchParams(location.search).get("engine");
  worker.postMessage({ open: { base: BASE, site: state.site, engine: ["webgpu", "wasm"].includes(engine) ? engine : "auto" } });
}

// With a picture where it is a new one.
function requestFrame(picture) {
  state.requestId += 1;
  const settings = { id: state.requestId, shares: state.shares, controls: state.controls };
  state.worker.postMessage(picture ? { settings, picture } : { settings }, picture ? [picture.data.buffer] : []);
}

function showEngine({ engine, threads }) {
  stats.engine = engine;
  byId("m-engine").textContent = engine === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads === 1 ? "" : "s"}`;
  showStage("Computing…", null);
}

// ---- pictures

function drawTile(tile) {
  if (tile.pictureId !== state.pictureId) return;
  const canvas = byId("picture"), { scale } = state.site.signature;
  const width = scale * state.picture.width, height = scale * state.picture.height;
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  canvas.getContext("2d", { alpha: false }).putImageData(new ImageData(tile.data, tile.width, tile.height), tile.left, tile.top);
  canvas.dataset.shares = tile.shares.map(share => share.toFixed(3)).join(" ");
  byId("waiting").hidden = true;
  if (tile.index + 1 < tile.count) {
    showStage(`Part ${tile.index + 2} of ${tile.count}`, (tile.index + 1) / tile.count);
    return;
  }
  stats.frames += 1;
  stats.done = tile.id;
  stats.changes.push(tile.change);
  stats.times.push(tile.frame);
  stats.firstFrame ||= performance.now();
  byId("save").disabled = false;
  byId("m-change").textContent = formatTime(tile.change);
  byId("m-frame").textContent = formatTime(tile.frame);
  byId("m-size").textContent = scale === 1 ? `${width} × ${height}` : `${state.picture.width} × ${state.picture.height} → ${width} × ${height}`;
  if (tile.id === state.requestId) showStage(formatTime(tile.frame), 1);
}

async function loadSample() {
  const answer = await fetch(new URL(state.site.sample.file, BASE));
  if (!answer.ok) throw new Error(`${state.site.sample.file} cannot be read (HTTP ${answer.status}).`);
  await showPicture(await answer.blob(), state.site.sample.name);
  byId("sample").hidden = true;
}

async function openFile(file) {
  if (!file) return;
  await showPicture(file, file.name);
  byId("sample").hidden = false;
}

async function showPicture(blob, name) {
  const turn = ++state.pictureId;
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    if (turn === state.pictureId) showNote(`${name} is no picture that this browser can read.`, 8000);
    return;
  }
  if (turn !== state.pictureId) return;
  const factor = Math.min(1, Math.sqrt(state.site.max_input_pixels / (bitmap.width * bitmap.height)));
  const width = Math.max(1, Math.floor(factor * bitmap.width)), height = Math.max(1, Math.floor(factor * bitmap.height));
  const before = byId("before");
  before.width = width;
  before.height = height;
  const context = before.getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "#fff"; // behind what is transparent
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height), after = byId("picture"), { scale } = state.site.signature;
  state.picture = { width, height, name };
  after.width = scale * width;
  after.height = scale * height;
  byId("drop").style.setProperty("--ratio", width / height);
  byId("save").disabled = true;
  byId("source").textContent = factor < 1 ? `${name}, made smaller (${width} × ${height}): ${state.site.tiles ? "its output would be too large for a browser" : "this network needs the whole picture at once"}.` : `${name}, ${width} × ${height}`;
  byId("waiting").hidden = false;
  byId("waiting").textContent = "Computing the picture…";
  showStage("Computing…", null);
  requestFrame({ id: turn, width, height, data });
}

function savePicture() {
  const name = ["picture", ...state.site.members.map((member, index) => `${member}-${state.shares[index].toFixed(2)}`)].join(" ");
  byId("picture").toBlob(blob => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${name}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    announce(`Saved ${name}.png.`);
  }, "image/png");
}

// ---- what the user sets

function handleMove(message) {
  state.moved = performance.now();
  if ("share" in message) state.shares = setShare(state.shares, state.site.members.indexOf(message.share.member), message.share.value);
  else state.shares = Array.isArray(message.alpha) ? message.alpha : [message.alpha, 1 - message.alpha];
  changeSettings(Array.isArray(message.alpha) || "share" in message);
}

function handleControl({ control }) {
  state.controls = { ...state.controls, [control.name]: control.value };
  changeSettings(false);
}

// A control that is being moved shows its own value already; `panel` shows the others.
function changeSettings(panel) {
  showShares();
  if (panel) state.panel.show(state.shares, true);
  if (state.picture) { showStage("Computing…", null); requestFrame(); }
  clearTimeout(linkTimer);
  linkTimer = setTimeout(() => { writeLink(); announce(sharesText(state.site.members, state.shares)); }, LINK_DELAY_MS);
}

function showSettings() {
  showShares();
  state.panel.show(state.shares, false);
  state.networkPanel.show(state.controls);
}

function showShares() {
  byId("coefficients").replaceChildren(...state.site.members.flatMap((name, index) => {
    const strong = document.createElement("b");
    strong.textContent = state.shares[index].toFixed(2);
    return [index ? " · " : "", `${name} `, strong];
  }));
}

// #alpha=psnr=0.35,gan=0.65&control.sigma=0.1: the controls where they are not at their defaults.
function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  if (link.has("alpha")) {
    const shares = parseAlpha(link.get("alpha"), state.site.members);
    if (shares) state.shares = shares; else showNote(`The address has an alpha that does not fit ${state.site.members.join(", ")}; it is left out.`, 8000);
  }
  for (const { name, low, high, default: value } of state.site.controls) {
    const text = link.get(`control.${name}`) || "", number = text.trim() ? Number(text) : NaN;
    state.controls[name] = number >= low && number <= high ? number : value;
  }
}

function makeLink() {
  const changed = state.site.controls.filter(({ name, default: value }) => state.controls[name] !== value);
  const parts = changed.map(({ name }) => `control.${encodeURIComponent(name)}=${Number(state.controls[name].toPrecision(6))}`);
  const alpha = formatAlpha(state.site.members, state.shares).split(/([=,])/).map(part => (/^[=,]$/.test(part) ? part : encodeURIComponent(part))).join("");
  return `#${[`alpha=${alpha}`, ...parts].join("&")}`;
}

function writeLink() { history.replaceState(null, "", location.pathname + location.search + makeLink()); }

async function copyLink() {
  clearTimeout(linkTimer);
  writeLink();
  try {
    await navigator.clipboard.writeText(location.href);
    announce("Copied.");
    byId("copy").textContent = "Copied";
    setTimeout(() => { byId("copy").textContent = "Copy link to this look"; }, 1500);
  } catch { showNote("The address bar holds the link; it could not be copied from here.", 6000); }
}

function setView(view) {
  state.view = view;
  byId("stage").dataset.view = view;
  for (const id of ["before", "edge", "tag-left", "tag-right", "cutter"]) byId(id).hidden = view !== "split";
  document.querySelector(`input[name=view][value=${view}]`).checked = true;
}

function setCut(percent) {
  const value = Math.min(100, Math.max(0, Math.round(percent)));
  byId("cut").value = value;
  byId("cut").setAttribute("aria-valuetext", `${value} percent of the width shows the picture before the network`);
  byId("stage").style.setProperty("--cut", `${value}%`);
}

// ---- what the page says

function showStage(text, part) {
  byId("stage-text").textContent = text;
  if (part === null) byId("progress").removeAttribute("value"); else byId("progress").value = part;
  byId("progress").hidden = part === 1;
}

function showProblem(sentence) {
  byId("problem").textContent = sentence;
  byId("problem").hidden = !sentence;
  byId("waiting").hidden = true;
  showStage("", 1);
}

function showNote(sentence, duration) {
  clearTimeout(noteTimer);
  byId("note").textContent = sentence;
  byId("note").hidden = false;
  if (duration) noteTimer = setTimeout(() => { byId("note").hidden = true; }, duration);
}

function announce(text) {
  clearTimeout(sayTimer);
  sayTimer = setTimeout(() => { byId("said").textContent = text; }, 300);
}

function formatBytes(count) { return count < 1e6 ? `${Math.round(count / 1e3)} kB` : `${(count / 1e6).toFixed(1)} MB`; }

function formatTime(ms) { return ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`; }

// ---- listeners

document.querySelectorAll("input[name=view]").forEach(choice => choice.addEventListener("change", () => setView(choice.value)));
byId("cut").addEventListener("input", () => setCut(byId("cut").valueAsNumber));
byId("save").addEventListener("click", savePicture);
byId("copy").addEventListener("click", copyLink);
byId("sample").addEventListener("click", () => loadSample().catch(error => showProblem(error.message)));
byId("file").addEventListener("change", () => { openFile(byId("file").files[0]); byId("file").value = ""; });
addEventListener("hashchange", () => { if (state.site) { readLink(); showSettings(); if (state.picture) requestFrame(); } });
const drag = event => {
  if (state.view !== "split" || (event.type === "pointermove" && !byId("drop").hasPointerCapture(event.pointerId))) return;
  if (event.type === "pointerdown") byId("drop").setPointerCapture(event.pointerId);
  const room = byId("drop").getBoundingClientRect();
  setCut(100 * (event.clientX - room.left) / room.width);
};
byId("drop").addEventListener("pointerdown", drag);
byId("drop").addEventListener("pointermove", drag);
for (const type of ["dragover", "drop", "dragleave"]) addEventListener(type, event => {
  event.preventDefault();
  document.body.classList.toggle("over", type === "dragover");
  if (type === "drop") openFile(event.dataTransfer.files[0]);
});
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.key.toLowerCase() !== "v") return;
  setView(state.view === "split" ? "after" : "split");
  announce(state.view === "split" ? "Before and after" : "After");
});

setCut(50);
main().catch(error => showProblem(error.message || String(error)));
