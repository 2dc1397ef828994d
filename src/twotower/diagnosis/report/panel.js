// What is said about points: the tip under the pointer, the chosen point and its neighbours, the legend, the search.
const tip = document.getElementById("tip");
const byId = (id) => document.getElementById(id);
const HITS = 8;

function made(tag, text, name) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
}

function valueOf(column, at) {
  if (column.kind === "number") return column.values[at] ?? "missing";
  const code = column.codes[at];
  return code < 0 ? "missing" : column.labels[code] ?? "another value";
}

function facts(at) {
  const known = data.columns.map((column) => `${column.name}: ${valueOf(column, at)}`);
  return data.ids ? [`id: ${data.ids[at]}`, ...known] : known;
}

function showTip(at) {
  tip.hidden = at < 0;
  if (at < 0) return;
  tip.replaceChildren(made("strong", data.names[at]), made("span", `${state.column.name}: ${valueOf(state.column, at)}`));
  const [x, y] = screen[at];
  const room = scene.clientWidth - tip.offsetWidth - 4;
  tip.style.left = `${Math.max(4, Math.min(x + 14, room))}px`;
  tip.style.top = `${y > scene.clientHeight - tip.offsetHeight - 24 ? Math.max(4, y - tip.offsetHeight - 12) : y + 14}px`;
}

function choose(at) {
  state.chosen = at;
  byId("chosen-name").textContent = data.names[at];
  byId("chosen-facts").textContent = facts(at).join(" · ");
  byId("near").replaceChildren(
    ...data.neighbours[at].map((place, rank) => {
      const line = made("li");
      // a neighbour outside the sample has a name but no point
      const name = made(place < data.points ? "button" : "span", data.names[place]);
      if (place < data.points) {
        name.type = "button";
        name.addEventListener("click", () => choose(place));
      }
      line.append(name, made("span", data.cosines[at][rank].toFixed(4), "cosine"));
      return line;
    }),
  );
  if (!data.neighbours[at].length) byId("near").append(made("li", "A zero vector: it has no direction, so no neighbours."));
  draw();
}

function swatch([colour, square]) {
  const picture = made("canvas");
  picture.width = picture.height = 28;
  picture.style.width = picture.style.height = "14px";
  const brush = picture.getContext("2d");
  brush.fillStyle = colour;
  drawMark(brush, 14, 14, 11, square);
  brush.fill();
  picture.setAttribute("aria-hidden", "true");
  return picture;
}

function legendLine(mark, text) {
  const line = made("li");
  line.append(swatch(mark), made("span", text));
  return line;
}

function showLegend() {
  const { column } = state, table = markTable(), lines = [];
  if (column.kind === "number") {
    ["lowest", "median", "highest"].forEach((word, at) => lines.push(legendLine(table.get(50 * at), `${word}: ${column.marks[at]}`)));
    lines.push(made("li", "coloured by rank"));
  } else {
    column.labels.forEach((label, code) => lines.push(legendLine(table.get(code), `${label} (${column.counts[code]})`)));
    if (column.others) lines.push(legendLine(table.get(column.labels.length), `${column.others} other values`));
  }
  if ((column.codes ?? column.shades).includes(-1)) lines.push(legendLine(table.get(-1), "missing"));
  byId("legend").replaceChildren(...lines);
}

function search(text) {
  const wanted = text.trim().toLowerCase();
  const found = [];
  for (let at = 0; wanted && at < data.points && found.length < HITS; at++) {
    if (`${data.names[at]} ${data.ids?.[at] ?? ""}`.toLowerCase().includes(wanted)) found.push(at);
  }
  const hits = found.map((at) => {
    const button = made("button", data.names[at]);
    button.type = "button";
    button.addEventListener("click", () => choose(at));
    const line = made("li");
    line.append(button);
    return line;
  });
  if (wanted && !found.length) hits.push(made("li", "Nothing on the map has this in its title."));
  byId("hits").replaceChildren(...hits);
}
