// Asks the server for frames, two at a time, draws them, and sends it what the user does. Nothing is loaded from elsewhere.
import { build, buildNetworkControls, sharesText } from "./controls.js";

const byId = id => document.getElementById(id);
const query = new URLSearchParams(location.search), token = query.get("token");
if (query.get("view") === "clean") document.documentElement.classList.add("clean");
// The token leaves the address bar and the history; the cookie that came with the page replaces it.
if (token) { query.delete("token"); history.replaceState(null, "", location.pathname + (query.size ? `?${query}` : "")); }

const IN_FLIGHT = 2, KINDS = ["blend", "before", "pixels"], CANVAS = { blend: byId("picture"), before: byId("before"), pixels: byId("pixels") };
const state = { facts: null, socket: null, controls: null, shares: [], requestId: 0, awaitedId: 0, appliedId: 0, drawn: 0, asked: 0, view: "blend",
  wait: 500, started: 0, moved: -1e9, status: {} };
const sent = new Map();
// For tests and benchmarks: what was drawn, and how long it took.
const stats = window.dni = { frames: 0, sequence: 0, shares: [], frame: 0, latencies: [], times: [] };

function connect() {
  const socket = state.socket = new WebSocket(`ws://${location.host}/frames${token ? `?token=${encodeURIComponent(token)}` : ""}`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = event => typeof event.data === "string" ? handleText(JSON.parse(event.data)) : handleFrame(event.data);
  socket.onclose = event => {
    if (state.socket !== socket) return;
    showProblem(event.code === 1013 ? `The server has too many pages open: ${event.reason}.`
      : "The server does not answer. If it was restarted, open the address that it printed.");
    setTimeout(connect, state.wait);
    state.wait = Math.min(5000, state.wait * 1.6);
  };
}

function sendMessage(message) {
  if (state.socket && state.socket.readyState === WebSocket.OPEN) state.socket.send(JSON.stringify(message));
}

function requestFrames() {
  while (state.asked < IN_FLIGHT && !document.hidden) { state.asked += 1; sendMessage({ next: true }); }
}

function handleText(message) {
  if (message.hello) handleHello(message.hello);
  if (message.status) showStatus(message.status);
  if (message.problem) { state.awaitedId = 0; showProblem(message.problem, 6000); }  // the server refused it
}

function handleHello(facts) {
  state.wait = 500;
  state.drawn = 0;
  state.asked = 0;
  state.awaitedId = 0;
  sent.clear();
  showProblem("");
  const shape = ({ members, controls }) => JSON.stringify([members, controls]);
  const same = state.facts && shape(state.facts) === shape(facts);
  state.facts = facts;
  state.shares = facts.alpha;
  if (!same) state.controls = build(byId("controls"), facts, handleMove);
  if (!same) state.networkControls = buildNetworkControls(byId("network-controls"), facts.controls, handleMove);
  byId("title").textContent = document.title = facts.name;
  byId("lead").textContent = `${facts.members.join(", ")}: blended live`;
  byId("m-engine").textContent = facts.engine;
  byId("m-rules").textContent = (facts.rules || []).join(", ");
  document.querySelectorAll(".rules").forEach(part => { part.hidden = !(facts.rules || []).length; });
  showShares(state.shares);
  setView(state.view);
  requestFrames();
}

function showStatus(facts) {
  state.status = facts;
  byId("source").textContent = `Showing ${facts.source}.`;
  showControls();
  byId("restore").hidden = facts.is_first_source;
  byId("restore").textContent = `Back to ${facts.first_source}`;
  byId("waiting").textContent = facts.problem || "Computing the first picture…";
  showTake(facts);
  byId("hold").setAttribute("aria-pressed", facts.paused);
  byId("hold").hidden = !facts.is_moving;
  byId("follow").hidden = !state.facts.timeline || facts.follows;
  byId("tag-pixels").textContent = facts.pixels === "opening" ? "blended pixels: opening the members…" : "blended pixels";
  showProblem(facts.problem || "");
}

// ---- frames

function handleFrame(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0, false) !== 0x444e4931 || view.getUint8(4) !== 1) { showProblem("The server has another version; reload the page."); return; }
  const members = view.getUint8(5), count = view.getUint8(6);
  const head = { sequence: view.getUint32(8, true), generation: view.getUint32(12, true), frame: view.getUint32(16, true),
    requestId: view.getUint32(20, true), network: view.getFloat32(28, true), change: view.getFloat32(32, true) };
  let place = 44;
  head.shares = Array.from({ length: members }, (_, index) => view.getFloat32(place + 4 * index, true));
  place += 4 * members;
  const table = Array.from({ length: count }, (_, index) => [KINDS[view.getUint32(place + 8 * index, true)], view.getUint32(place + 8 * index + 4, true)]);
  place += 8 * count;
  const jobs = table.map(([kind, length]) => {
    const part = new Blob([new Uint8Array(buffer, place, length)], { type: "image/jpeg" });
    place += length;
    return createImageBitmap(part).then(bitmap => [kind, bitmap]);
  });
  const socket = state.socket;
  Promise.all(jobs).then(bitmaps => drawFrame(head, bitmaps), () => showProblem("A frame could not be decoded.", 4000)).finally(() => {
    if (state.socket === socket) { state.asked = Math.max(0, state.asked - 1); requestFrames(); }
  });
}

function drawFrame(head, bitmaps) {
  const stale = head.sequence <= state.drawn;
  for (const [kind, bitmap] of bitmaps) {
    const canvas = CANVAS[kind];
    if (!stale) {
      if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) { canvas.width = bitmap.width; canvas.height = bitmap.height; }
      canvas.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
    }
    bitmap.close();
  }
  if (stale) return;
  state.drawn = head.sequence;
  byId("waiting").hidden = true;
  byId("picture-save").disabled = false;
  const now = performance.now();
  if (head.requestId !== state.appliedId) {
    for (const [id, moment] of sent) if (id <= head.requestId) { stats.latencies.push(now - moment); sent.delete(id); }
    if (stats.latencies.length > 1000) stats.latencies.splice(0, 500);
    state.appliedId = head.requestId;
  }
  stats.times.push(now);
  if (stats.times.length > 600) stats.times.splice(0, 300);
  Object.assign(stats, { frames: stats.frames + 1, sequence: head.sequence, shares: head.shares, frame: head.frame, generation: head.generation });
  Object.assign(CANVAS.blend.dataset, { sequence: head.sequence, generation: head.generation, shares: head.shares.map(share => share.toFixed(3)).join(" ") });
  if (head.change > 0) state.change = head.change;
  state.network = head.network;
  showShares(head.shares);
}

function showShares(shares) {
  state.shares = shares;
  byId("coefficients").replaceChildren(...state.facts.members.flatMap((name, index) => {
    const strong = document.createElement("b");
    strong.textContent = shares[index].toFixed(2);
    return [index ? " · " : "", `${name} `, strong];
  }));
  showControls();
}

// A control that is being moved, or that no frame has caught up with, is not moved back.
function showControls() {
  if (performance.now() - state.moved < 400 || state.appliedId < state.awaitedId) return false;
  state.controls.show(state.shares);
  state.networkControls.show(state.status.controls || {});
  return true;
}

// ---- what the user does

function handleMove(message, moment) {
  state.moved = performance.now();
  sendAlpha(message, moment);
  settleIn(700);
}

function settleIn(milliseconds) {
  clearTimeout(state.settle);
  state.settle = setTimeout(() => showControls() ? announce(sharesText(state.facts.members, state.shares)) : settleIn(100), milliseconds);
}

function sendAlpha(message, moment = performance.now()) {
  state.awaitedId = state.requestId += 1;
  sent.set(state.requestId, moment);
  if (sent.size > 500) sent.delete(sent.keys().next().value);
  sendMessage({ ...message, request_id: state.requestId });
}

function announce(text) { byId("said").textContent = text; }

function showProblem(text, soon = 0) {
  clearTimeout(state.forget);
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
  if (soon) state.forget = setTimeout(() => showProblem(state.status.problem || ""), soon);
}

function setView(view) {
  state.view = view;
  const split = view === "split", pixels = view === "pixels";
  byId("stage").dataset.view = view;
  for (const id of ["before", "edge", "tag-left", "tag-right", "cutter"]) byId(id).hidden = !split;
  for (const id of ["beside", "tag-blend"]) byId(id).hidden = !pixels;
  document.querySelector(`input[name=view][value=${view}]`).checked = true;
  sendMessage({ views: split ? ["before"] : pixels ? ["pixels"] : [] });
}

function setCut(percent) {
  percent = Math.min(100, Math.max(0, Math.round(percent)));
  byId("cut").value = percent;
  byId("cut").setAttribute("aria-valuetext", `${percent} percent of the width shows the frame before the network`);
  byId("stage").style.setProperty("--cut", `${percent}%`);
}

function togglePause() { sendMessage({ pause: byId("hold").getAttribute("aria-pressed") !== "true" }); }

function toggleRecording() { sendMessage({ record: !state.status.recording }); }

function togglePlaying() { if (state.status.take) sendMessage({ play: !state.status.playing, loop: byId("loop").checked }); }

// The server records: what is set, by whomever, and the frames of the video that were shown with it.
function showTake({ recording, playing, take }) {
  const was = byId("record").getAttribute("aria-pressed") === "true";
  byId("record").setAttribute("aria-pressed", recording);
  byId("record-text").textContent = recording ? "Stop" : "Record";
  byId("play").setAttribute("aria-pressed", playing);
  byId("play").disabled = recording || !take;
  byId("export").hidden = recording || !take;
  byId("loop-label").hidden = Boolean(take && take.video);
  if (take && !recording) {
    const count = `${take.keyframes} keyframe${take.keyframes === 1 ? "" : "s"}`;
    byId("take").textContent = take.video ? `${count}, from frame ${take.first} to frame ${take.last} of the video.`
      : `${count} in ${(take.last - take.first).toFixed(1)} s.`;
  }
  if (was === recording) return;
  byId("take-command").hidden = true;
  if (recording) state.started = performance.now();
  announce(recording ? "Recording." : byId("take").textContent);
}

async function fetchOrExplain(address) {
  try {
    const answer = await fetch(address);
    if (answer.ok) return answer;
    showProblem((await answer.json()).error.message, 6000);
  } catch { showProblem("The server does not answer.", 6000); }
  return null;
}

async function saveFile(address, name) {
  const answer = await fetchOrExplain(address);
  if (!answer) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  announce(`Saved ${name}.`);
}

const savePicture = () => saveFile("picture", `${["picture", ...state.facts.members.map((name, index) => `${name}-${state.shares[index].toFixed(2)}`)].join(" ")}.png`);

async function copyText(kind, place, note) {
  const answer = await fetchOrExplain("commands");
  if (!answer) return;
  const text = (await answer.json())[kind];
  byId(place).textContent = text;
  byId(place).hidden = false;
  try {
    await navigator.clipboard.writeText(text);
    announce(note);
  } catch {
    getSelection().selectAllChildren(byId(place));
    announce("Selected, to be copied.");
  }
}

async function upload(file) {
  if (!file) return;
  const isImage = file.type.startsWith("image/") || /\.(png|jpe?g|webp|tiff?|bmp)$/i.test(file.name);
  const limit = isImage ? state.facts.upload : state.facts.video_upload;
  if (file.size > limit) { showProblem(`${file.name} is larger than ${Math.round(limit / 1048576)} MiB.`, 6000); return; }
  byId("source").textContent = `Reading ${file.name}…`;
  try {
    const headers = { "Content-Type": isImage && file.type.startsWith("image/") ? file.type : "application/octet-stream" };
    const answer = await fetch(isImage ? "image" : "video", { method: "PUT", body: file, headers });
    const result = await answer.json();
    if (answer.ok) { announce(`Showing ${file.name}.`); return; }
    showProblem(result.error.message, 8000);
  } catch { showProblem("The file could not be sent.", 6000); }
  byId("source").textContent = `Showing ${state.status.source}.`;
}

// ---- listeners

document.querySelectorAll("input[name=view]").forEach(choice => choice.addEventListener("change", () => setView(choice.value)));
byId("cut").addEventListener("input", () => setCut(byId("cut").valueAsNumber));
byId("hold").addEventListener("click", togglePause);
byId("record").addEventListener("click", toggleRecording);
byId("play").addEventListener("click", togglePlaying);
byId("save").addEventListener("click", () => saveFile("take", "alpha.json"));
byId("copy").addEventListener("click", () => copyText("timeline", "take-command", "Copied; paste it behind --alpha, in quotes."));
byId("copy-take").addEventListener("click", () => copyText("take", "take-command", "Copied the command that renders the take."));
byId("copy-setting").addEventListener("click", () => copyText("setting", "setting-command", "Copied the command that renders with this alpha."));
byId("picture-save").addEventListener("click", savePicture);
byId("restore").addEventListener("click", () => sendMessage({ restore: true }));
byId("follow").addEventListener("click", () => sendMessage({ follow: true }));
byId("file").addEventListener("change", () => { upload(byId("file").files[0]); byId("file").value = ""; });
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
  if (type === "drop") upload(event.dataTransfer.files[0]);
});
addEventListener("keydown", event => {
  const kind = event.target.tagName === "INPUT" ? event.target.type : event.target.tagName;
  if (event.ctrlKey || event.metaKey || event.altKey || ["text", "TEXTAREA"].includes(kind)) return;
  const key = event.key.toLowerCase();
  if (key === " ") { if (["BUTTON", "SUMMARY", "radio", "checkbox", "file"].includes(kind)) return; event.preventDefault(); if (state.status.is_moving) togglePause(); }
  else if (event.repeat) return;
  else if (key === "r") toggleRecording();
  else if (key === "p") togglePlaying();
  else if (key === "v") { const all = ["blend", "split", "pixels"]; setView(all[(all.indexOf(state.view) + 1) % 3]); announce(`View: ${state.view}`); }
});
document.addEventListener("visibilitychange", requestFrames);

setInterval(() => {
  if (!state.facts) return;
  const now = performance.now(), recent = stats.times.filter(time => now - time < 1000);
  const still = !state.status.is_moving || state.status.paused;
  byId("rate").textContent = !stats.frames ? "" : recent.length > 1 ? `${recent.length} frames/s` : still ? "still image" : "0 frames/s";
  if (state.status.recording) byId("take").textContent = `Recording, ${((now - state.started) / 1000).toFixed(0)} s.`;
  const last = stats.latencies.slice(-30).sort((one, other) => one - other), middle = last[last.length >> 1];
  byId("delay").textContent = last.length ? `${middle.toFixed(0)} ms from control to picture` : "";
  byId("m-delay").textContent = last.length ? `${middle.toFixed(0)} ms, at most ${last[last.length - 1].toFixed(0)} ms` : "–";
  byId("m-network").textContent = state.network === undefined ? "–" : `${state.network.toFixed(1)} ms`;
  byId("m-change").textContent = state.change === undefined ? "–" : `${state.change.toFixed(2)} ms`;
  if (stats.frames) byId("m-size").textContent = `${CANVAS.blend.width} × ${CANVAS.blend.height}`;
}, 500);

setCut(50);
connect();
