// The map on a canvas: places of points after pan, zoom and rotation, their marks, and which one is under the pointer.
const data = JSON.parse(document.getElementById("data").textContent);
const scene = document.getElementById("scene");
const pen = scene.getContext("2d");
const REACH = 4000; // places are whole numbers up to this size
const COLOURS = 6;
const MARGIN = 26;

const camera = { zoom: 1, x: 0, y: 0, yaw: 0.6, pitch: 0.35 };
const state = { view: data.views[0], depth: "flat", column: data.columns[0], chosen: -1, over: -1 };
let screen = []; // [x, y, depth from 0 far to 1 near] of each point, in CSS pixels
let marks = []; // [colour, square] of each point

function resetCamera() {
  Object.assign(camera, { zoom: 1, x: 0, y: 0, yaw: 0.6, pitch: 0.35 });
}

function project() {
  const { width, height } = scene.getBoundingClientRect();
  const scale = (camera.zoom * (Math.min(width, height) / 2 - MARGIN)) / REACH;
  // a flat map may use the whole width: it is as wide as its points are
  const places = state.view[state.depth];
  const left = width / 2 + camera.x, top = height / 2 + camera.y;
  if (state.depth === "flat") {
    screen = places.map(([x, y]) => [left + x * scale, top - y * scale, 1]);
    return;
  }
  const [sinYaw, cosYaw] = [Math.sin(camera.yaw), Math.cos(camera.yaw)];
  const [sinPitch, cosPitch] = [Math.sin(camera.pitch), Math.cos(camera.pitch)];
  screen = places.map(([x, y, z]) => {
    const across = x * cosYaw + z * sinYaw;
    const away = z * cosYaw - x * sinYaw;
    const up = y * cosPitch - away * sinPitch;
    const near = y * sinPitch + away * cosPitch;
    const depth = Math.min(1, Math.max(0, (near / REACH + 1.2) / 2.4));
    const lens = 0.8 + 0.3 * depth;
    return [left + across * scale * lens, top - up * scale * lens, depth];
  });
}

function mixed(low, high, share) {
  const part = (text, at) => parseInt(text.slice(1 + 2 * at, 3 + 2 * at), 16);
  return `rgb(${[0, 1, 2].map((at) => Math.round(part(low, at) * (1 - share) + part(high, at) * share)).join(",")})`;
}

function shade(share) {
  const [low, middle, high] = ["ramp0", "ramp1", "ramp2"].map(cssColour);
  return share < 0.5 ? mixed(low, middle, 2 * share) : mixed(middle, high, 2 * share - 1);
}

// Marks of the categories by code, or of the shades from 0 to 100; -1 is missing.
function markTable() {
  const other = [cssColour("other"), false];
  const table = new Map([[-1, [other[0], true]]]);
  if (state.column.kind === "number") {
    for (let at = 0; at <= 100; at++) table.set(at, [shade(at / 100), false]);
  } else {
    const palette = Array.from({ length: COLOURS }, (_, at) => cssColour(`c${at}`));
    state.column.labels.forEach((_, at) => table.set(at, [palette[at % COLOURS], at >= COLOURS]));
    table.set(state.column.labels.length, other);
  }
  return table;
}

function recolour() {
  const table = markTable();
  marks = (state.column.codes ?? state.column.shades).map((code) => table.get(code));
}

function drawMark(target, x, y, size, square) {
  target.beginPath();
  if (square) target.rect(x - size * 0.85, y - size * 0.85, size * 1.7, size * 1.7);
  else target.arc(x, y, size, 0, 2 * Math.PI);
}

function draw() {
  const { width, height } = scene.getBoundingClientRect();
  const pixels = devicePixelRatio || 1;
  scene.width = Math.round(width * pixels);
  scene.height = Math.round(height * pixels);
  pen.setTransform(pixels, 0, 0, pixels, 0, 0);
  project();
  const near = state.chosen >= 0 ? data.neighbours[state.chosen].filter((place) => place < data.points) : [];
  const lit = new Set([state.chosen, ...near]);
  const size = (data.points > 800 ? 3.2 : 4.6) * Math.min(1.8, Math.sqrt(camera.zoom));
  const edge = cssColour("card"), text = cssColour("text");
  const order = Array.from(screen.keys());
  if (state.depth === "deep") order.sort((a, b) => screen[a][2] - screen[b][2]);
  pen.lineWidth = 0.8;
  pen.strokeStyle = edge;
  for (const at of order) {
    const [x, y, depth] = screen[at];
    pen.globalAlpha = (state.chosen >= 0 && !lit.has(at) ? 0.3 : 0.92) * (0.45 + 0.55 * depth);
    pen.fillStyle = marks[at][0];
    drawMark(pen, x, y, size * (0.6 + 0.4 * depth), marks[at][1]);
    pen.fill();
    pen.stroke();
  }
  pen.globalAlpha = 1;
  pen.strokeStyle = text;
  for (const at of near) {
    pen.beginPath();
    pen.moveTo(screen[state.chosen][0], screen[state.chosen][1]);
    pen.lineTo(screen[at][0], screen[at][1]);
    pen.globalAlpha = 0.45;
    pen.stroke();
    pen.globalAlpha = 1;
    drawMark(pen, screen[at][0], screen[at][1], size + 2, marks[at][1]);
    pen.stroke();
  }
  for (const at of [state.chosen, state.over]) {
    if (at < 0) continue;
    pen.lineWidth = 2.5;
    drawMark(pen, screen[at][0], screen[at][1], size + 4, marks[at][1]);
    pen.stroke();
  }
}

// The nearest point within reach of a finger or a pointer; -1 when there is none.
function pointAt(x, y, reach) {
  let best = -1, least = reach * reach;
  screen.forEach(([left, top], at) => {
    const distance = (left - x) ** 2 + (top - y) ** 2;
    if (distance <= least) [best, least] = [at, distance];
  });
  return best;
}
