// Drawing the map: where points fall on a canvas, which one is meant, and the marks.
const EDGE = 16;
const NEAR = 14;
const ROOM = 1; // how far a user outside the items may widen the picture, in widths of the items

// How the plane is laid on a canvas of this size: items fill it, and a user far outside is held at the edge.
export function layout(points, user, width, height) {
  const range = (axis) => {
    const values = points.map((point) => point[axis]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = ROOM * (high - low || 1);
    const own = user.map((point) => point[axis]);
    return [Math.max(low - room, Math.min(low, ...own)), Math.min(high + room, Math.max(high, ...own))];
  };
  const [[left, right], [bottom, top]] = [range(0), range(1)];
  const scale = Math.min((width - 2 * EDGE) / (right - left || 1), (height - 2 * EDGE) / (top - bottom || 1));
  const held = (value, most) => Math.min(Math.max(value, EDGE), most - EDGE);
  return ([x, y]) => [
    held(width / 2 + (x - (left + right) / 2) * scale, width),
    held(height / 2 - (y - (bottom + top) / 2) * scale, height),
  ];
}

// The place nearest to (x, y), if it is near.
export function nearest(places, x, y) {
  let best = -1;
  let least = NEAR;
  places.forEach(([left, top], at) => {
    const far = Math.hypot(left - x, top - y);
    if (far < least) [best, least] = [at, far];
  });
  return best;
}

// The next place in the direction of an arrow key: near, and not far off the line.
export function onward(places, from, [dx, dy]) {
  const [x, y] = places[from];
  let best = from;
  let least = Infinity;
  places.forEach(([left, top], at) => {
    const ahead = (left - x) * dx + (top - y) * dy;
    const aside = Math.abs((left - x) * dy) + Math.abs((top - y) * dx);
    if (at !== from && ahead > 0.5 && ahead + 3 * aside < least) [best, least] = [at, ahead + 3 * aside];
  });
  return best;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const SHAPES = {
  dot: (brush, x, y, size) => brush.arc(x, y, size, 0, 2 * Math.PI),
  square: (brush, x, y, size) => brush.rect(x - size, y - size, 2 * size, 2 * size),
  star(brush, x, y, size) {
    for (let at = 0; at < 10; at += 1) {
      const [long, turn] = [at % 2 ? size * 0.45 : size, (Math.PI * at) / 5];
      brush.lineTo(x + long * Math.sin(turn), y - long * Math.cos(turn));
    }
    brush.closePath();
  },
};

// Marks: [{place, shape, size, ink}], drawn over the dots; `cursor` is a place or undefined.
export function draw(canvas, dots, marks, cursor) {
  const ratio = devicePixelRatio;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const brush = canvas.getContext("2d");
  brush.scale(ratio, ratio);
  brush.clearRect(0, 0, width, height);
  brush.fillStyle = colour("other");
  brush.globalAlpha = 0.45;
  const size = dots.length > 800 ? 1.7 : dots.length > 100 ? 2.4 : 3.5;
  for (const [x, y] of dots) {
    brush.beginPath();
    brush.arc(x, y, size, 0, 2 * Math.PI);
    brush.fill();
  }
  brush.globalAlpha = 1;
  brush.lineWidth = 1.5;
  brush.strokeStyle = colour("card");
  for (const { place, shape, size: large, ink } of marks) {
    brush.beginPath();
    SHAPES[shape](brush, ...place, large);
    brush.fillStyle = colour(ink);
    brush.fill();
    brush.stroke();
  }
  if (!cursor) return;
  brush.beginPath();
  brush.arc(...cursor, 10, 0, 2 * Math.PI);
  brush.lineWidth = 2;
  brush.strokeStyle = colour("text");
  brush.stroke();
}
