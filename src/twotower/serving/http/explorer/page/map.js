// The map of a bundle's item vectors, with the history, the list and the current user on it.
import { html, useLayoutEffect, useRef, useState } from "./preact-htm.js";
import { LETTER, Named, Problem, useAnswer } from "./parts.js";
import { draw, layout, nearest, onward } from "./picture.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function Picture({ bundles, asker, found, history, chosen, add }) {
  const [which, pick] = useState(() => Object.keys(bundles).find((name) => bundles[name].map) ?? "first");
  const list = found[which].answer?.items ?? [];
  const { answer, problem, busy } = useAnswer("map", { bundle: which });
  const wanted = [...history, ...list];
  const asked = asker && answer?.points.length && found[which].answer && !found[which].busy ? { ...asker, bundle: which, items: wanted.map((item) => item.id) } : undefined;
  const placed = useAnswer("place", asked);
  const on = placed.answer ?? { user: [], items: {} };
  const marks = [
    ...list.filter((item) => on.items[item.id]).map((item) => ({ item, point: on.items[item.id], shape: "dot", ink: which, size: chosen?.item.id === item.id ? 8 : 5 })),
    ...history.filter((item) => on.items[item.id]).map((item) => ({ item, point: on.items[item.id], shape: "square", ink: "text", size: 5 })),
    ...on.user.map((point) => ({ point, shape: "star", ink: "healthy", size: 12 })),
  ];
  const noUser = asked && placed.answer && !on.user.length;
  return html`<section class="card map" aria-labelledby="map-head" aria-busy=${Boolean(busy || placed.busy)}>
    <div class="head">
      <h2 id="map-head">Map</h2>
      ${bundles.second && html`<div class="choice" role="group" aria-label="Map of">
        ${Object.keys(bundles).map((name) => html`<button type="button" aria-pressed=${name === which} aria-label=${`Map of bundle ${LETTER[name]}`} onClick=${() => pick(name)}>${LETTER[name]}</button>`)}
      </div>`}
    </div>
    ${problem && html`<${Problem} problem=${problem} />`}
    ${placed.problem && html`<${Problem} problem=${placed.problem} />`}
    ${answer && (answer.points.length ? html`<${Scene} key=${which} ...${{ answer, marks, which, add }} />` : html`<p class="empty">${answer.note}</p>`)}
    ${answer?.points.length > 0 && html`
      <ul class="legend" aria-label="Marks">
        <li><span class="key star"></span>the user</li><li><span class="key square"></span>history</li>
        <li><span class="key dot ${which}"></span>list of ${LETTER[which]}</li><li><span class="key dot"></span>other items</li>
      </ul>
      <p class="quiet">${answer.note} ${noUser && "This model's user is no point among its items. "}Arrow keys go from point to point, Enter adds one.</p>`}
  </section>`;
}

function Scene({ answer, marks, which, add }) {
  const canvas = useRef();
  const [size, setSize] = useState([0, 0]);
  const [theme, setTheme] = useState();
  const [cursor, setCursor] = useState(-1);
  useLayoutEffect(() => {
    // at once, too: an observer reports with the next frame, and a key may be quicker
    const measure = () => setSize([canvas.current.clientWidth, canvas.current.clientHeight]);
    measure();
    const resized = new ResizeObserver(measure);
    resized.observe(canvas.current);
    const themed = new MutationObserver(() => setTheme(document.documentElement.dataset.theme));
    themed.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => [resized, themed].forEach((watch) => watch.disconnect());
  }, []);

  const user = marks.filter((mark) => !mark.item).map((mark) => mark.point);
  const at = layout(answer.points, user, ...size);
  const dots = answer.points.map(at);
  const own = marks.map((mark) => ({ ...mark, place: at(mark.point) }));
  // what may be pointed at: marks first, since they lie on top
  const items = [...own.map((mark) => mark.item ?? { title: "The user" }), ...answer.items];
  const places = [...own.map((mark) => mark.place), ...dots];
  useLayoutEffect(() => {
    if (size[0]) draw(canvas.current, dots, own, places[cursor]);
  }, [answer, JSON.stringify(marks), size, theme, cursor, which]);

  const point = (event) => {
    const { left, top } = canvas.current.getBoundingClientRect();
    return nearest(places, event.clientX - left, event.clientY - top);
  };
  // a browser tells of a pointer that rests, too, when the page moves below it: the keyboard's place stays then
  const moved = (event) => event.pointerType === "mouse" && (event.movementX || event.movementY);
  const take = (place) => items[place]?.id !== undefined && add(items[place]);
  const onKey = (event) => {
    if (ARROWS[event.key]) setCursor(cursor < 0 ? 0 : onward(places, cursor, ARROWS[event.key]));
    else if (event.key === "Enter" && cursor >= 0) take(cursor);
    else if (event.key === "Escape" && cursor >= 0) setCursor(-1);
    else return;
    event.preventDefault();
  };
  const [x, y] = places[cursor] ?? [0, 0];
  return html`<div class="scene">
    <canvas
      id="map" ref=${canvas} tabindex="0" role="application" aria-label=${`Map of ${answer.items.length} items; arrow keys go from point to point`}
      onPointerMove=${(event) => moved(event) && setCursor(point(event))}
      onPointerLeave=${(event) => event.pointerType === "mouse" && document.activeElement !== canvas.current && setCursor(-1)}
      onClick=${(event) => {
        const place = point(event);
        setCursor(place);
        take(place);
      }}
      onBlur=${() => setCursor(-1)} onKeyDown=${onKey}
    ></canvas>
    <div class="tip ${x > size[0] / 2 ? "leftward" : ""} ${y > size[1] / 2 ? "upward" : ""}" role="status" hidden=${cursor < 0} style=${{ "--x": `${x}px`, "--y": `${y}px` }}>
      ${items[cursor] && html`<${Named} item=${items[cursor]} />`}
    </div>
  </div>`;
}
