// The controls of alpha, and of what the network takes beside the image. Of alpha: a slider for two members; the path through three or more, and beside it a plane for three or four, or a slider
// for each member.
const SVG = "http://www.w3.org/2000/svg";

export function sharesText(members, shares) {
  return members.map((name, index) => `${name} ${shares[index].toFixed(2)}`).join(", ");
}

function createElement(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

// Each control has {show(shares)}; `send` takes an object for the server and the time of the event.
export function build(place, facts, send) {
  place.replaceChildren();
  const parts = facts.members.length === 2 ? [makeSlider(place, facts, send)]
    : facts.plane ? [makePad(place, facts, send), makePath(place, facts, send), makeDetails(place, facts, send)]
      : [makePath(place, facts, send), makeSliders(place, facts, send)];
  return { show: shares => parts.forEach(part => part.show(shares)) };
}

// Where the bundle holds a slider with even steps, the knob is at its position, which is shown beside it; the shares are shown below.
function makeSlider(place, { members, slider: points }, send) {
  const input = createElement("input", { type: "range", id: "alpha", min: 0, max: 1, step: 0.01 });
  const ends = createElement("div", { className: "ends" }, createElement("span", { textContent: `all ${members[1]}` }), createElement("span", { textContent: `all ${members[0]}` }));
  const number = createElement("span", { id: "alpha-number", ariaHidden: "true" });
  const label = createElement("label", { htmlFor: "alpha", textContent: points ? `even steps to the eye, towards ${members[0]}` : `alpha, the share of ${members[0]}` });
  place.append(label, ...(points ? [number] : []), input, ends);
  const showValue = share => {
    number.textContent = ` position ${input.valueAsNumber.toFixed(2)}`;
    input.setAttribute("aria-valuetext", sharesText(members, [share, 1 - share]));
  };
  input.addEventListener("input", event => {
    const share = points ? interpolate(points, input.valueAsNumber, 0, 1) : input.valueAsNumber;
    showValue(share);
    send({ alpha: share }, event.timeStamp);
  });
  return { show(shares) { input.value = points ? interpolate(points, shares[0], 1, 0) : shares[0]; showValue(shares[0]); } };
}

// Interpolates between the slider points, which rise strictly, from column `from` to column `to`.
function interpolate(points, value, from, to) {
  const next = Math.max(1, points.findIndex(point => point[from] >= value));
  const [before, after] = [points[next - 1], points[next]];
  const part = (value - before[from]) / (after[from] - before[from]);
  return Math.min(1, Math.max(0, before[to] + part * (after[to] - before[to])));
}

// The path of `path=0..1`: from each member to the next. Other blends have a place on it, too: the mean of their members' places.
function makePath(place, { members }, send) {
  const last = members.length - 1;
  const input = createElement("input", { type: "range", id: "path", min: 0, max: 1, step: 0.01 });
  const ends = createElement("div", { className: "ends" }, createElement("span", { textContent: members[0] }), createElement("span", { textContent: members[last] }));
  place.append(createElement("label", { htmlFor: "path", textContent: "path through all members" }), input, ends);
  const showValue = shares => input.setAttribute("aria-valuetext", sharesText(members, shares));
  input.addEventListener("input", event => {
    const spot = input.valueAsNumber * last, before = Math.min(Math.floor(spot), last - 1), part = spot - before;
    const shares = members.map((_, index) => index === before ? 1 - part : index === before + 1 ? part : 0);
    showValue(shares);
    send({ alpha: shares }, event.timeStamp);
  });
  return { show(shares) { input.value = shares.reduce((sum, share, index) => sum + share * index, 0) / last; showValue(shares); } };
}

function makeSliders(place, { members }, send) {
  const rows = members.map((name, index) => {
    const input = createElement("input", { type: "range", id: `share-${index}`, min: 0, max: 1, step: 0.01 });
    const number = createElement("span", { ariaHidden: "true" });
    place.append(createElement("div", { className: "member" }, createElement("label", { htmlFor: input.id, textContent: name }), number, input));
    input.addEventListener("input", event => send({ share: { member: name, value: input.valueAsNumber } }, event.timeStamp));
    return { input, number };
  });
  return {
    show(shares) {
      rows.forEach(({ input, number }, index) => {
        input.value = shares[index];
        number.textContent = shares[index].toFixed(2);
        input.setAttribute("aria-valuetext", `${members[index]} ${shares[index].toFixed(2)}`);
      });
    },
  };
}

function makeDetails(place, facts, send) {
  const box = createElement("div");
  place.append(createElement("details", {}, createElement("summary", { textContent: "One slider for each member" }), box));
  return makeSliders(box, facts, send);
}

// The plane: x from left to right, y from top to bottom, both 0 to 1, drawn with a margin so that the knob stays inside.
function makePad(place, { members, plane }, send) {
  const margin = 0.06, size = 1 + 2 * margin;
  const names = Object.keys(plane);
  const box = createElement("div", { className: "pad", id: "pad", tabIndex: 0 });
  box.setAttribute("role", "slider");
  box.setAttribute("aria-label", "Control plane, two-dimensional: arrow keys move, with Shift in large steps");
  box.setAttribute("aria-valuemin", 0);
  box.setAttribute("aria-valuemax", 100);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `${-margin} ${-margin} ${size} ${size}`);
  svg.setAttribute("aria-hidden", "true");
  const shape = (tag, className, attributes) => {
    const element = document.createElementNS(SVG, tag);
    element.setAttribute("class", className);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    svg.append(element);
    return element;
  };
  const corners = names.map(name => plane[name]);
  const around = corners.length === 3 ? corners : [[0, 0], [1, 0], [1, 1], [0, 1]];
  shape("polygon", "area", { points: around.map(([x, y]) => `${x},${y}`).join(" ") });
  if (corners.length !== 3) shape("path", "cross", { d: "M.5 0V1M0 .5H1" });
  corners.forEach(([x, y]) => shape("circle", "place", { cx: x, cy: y, r: 0.014 }));
  const knob = shape("circle", "knob", { cx: 0.5, cy: 0.5, r: 0.045 });
  box.append(svg);
  names.forEach(name => {
    const [x, y] = plane[name];
    const tag = createElement("span", { className: "at", textContent: name });
    const across = 100 * (x + margin) / size, down = 100 * (y + margin) / size;
    if (x > 0.66) tag.style.right = `${100 - across + 4}%`; else if (x < 0.34) tag.style.left = `${across + 4}%`;
    else { tag.style.left = `${across}%`; tag.style.transform = "translateX(-50%)"; }
    if (y > 0.5) tag.style.bottom = `${100 - down + (x >= 0.34 && x <= 0.66 ? 6 : 2)}%`; else tag.style.top = `${down + 2}%`;
    box.append(tag);
  });
  place.append(box);
  let point = [0.5, 0.5];
  const draw = () => {
    knob.setAttribute("cx", point[0]);
    knob.setAttribute("cy", point[1]);
    box.setAttribute("aria-valuenow", Math.round(100 * point[0]));
  };
  const moveTo = (x, y, moment) => {
    point = [Math.min(1, Math.max(0, x)), Math.min(1, Math.max(0, y))];
    draw();
    send({ point }, moment);
  };
  const followPointer = event => {
    const room = svg.getBoundingClientRect();
    moveTo((event.clientX - room.left) / room.width * size - margin, (event.clientY - room.top) / room.height * size - margin, event.timeStamp);
  };
  box.addEventListener("pointerdown", event => { box.setPointerCapture(event.pointerId); box.focus({ preventScroll: true }); followPointer(event); });
  box.addEventListener("pointermove", event => { if (box.hasPointerCapture(event.pointerId)) followPointer(event); });
  box.addEventListener("keydown", event => {
    const step = event.shiftKey || event.key.startsWith("Page") ? 0.1 : 0.02;
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], PageUp: [0, -1], PageDown: [0, 1] }[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moveTo(Math.round(100 * (point[0] + step * move[0])) / 100, Math.round(100 * (point[1] + step * move[1])) / 100, event.timeStamp);
  });
  return {
    // The point is the weighted mean of the members' places, in both kinds of planes.
    show(shares) {
      box.setAttribute("aria-valuetext", sharesText(members, shares));
      point = [0, 1].map(axis => names.reduce((sum, name) => sum + plane[name][axis] * shares[members.indexOf(name)], 0));
      draw();
    },
  };
}

// A slider for each number that the network takes beside the image.
export function buildNetworkControls(place, controls, send) {
  place.hidden = controls.length === 0;
  place.replaceChildren(place.firstElementChild);
  const rows = Object.fromEntries(controls.map(({ name, low, high }, index) => {
    const input = createElement("input", { type: "range", id: `network-${index}`, min: low, max: high, step: (high - low) / 200 });
    const number = createElement("span", { ariaHidden: "true" });
    place.append(createElement("div", { className: "member" }, createElement("label", { htmlFor: input.id, textContent: name }), number, input));
    const showValue = value => { number.textContent = Number(value.toPrecision(3)); input.setAttribute("aria-valuetext", `${name} ${number.textContent}`); };
    input.addEventListener("input", event => { showValue(input.valueAsNumber); send({ control: { name, value: input.valueAsNumber } }, event.timeStamp); });
    return [name, { input, showValue }];
  }));
  return {
    show(values) {
      for (const [name, value] of Object.entries(values)) { rows[name].input.value = value; rows[name].showValue(value); }
    }
  };
}
