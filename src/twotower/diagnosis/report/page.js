// Ties controls, pointer and keys to the map.
const HELP = {
  flat: "Drag to move, + and − to zoom. Click or tap a point for its neighbours. With keys: arrows move, + and − zoom.",
  deep: "Drag to rotate, + and − to zoom. Click or tap a point for its neighbours. With keys: arrows rotate, + and − zoom.",
};
let drag = null;

function fill(select, names) {
  select.replaceChildren(...names.map((name, at) => Object.assign(made("option", name), { value: at })));
}

function describe() {
  byId("reading").textContent = state.view.note;
  byId("help").textContent = HELP[state.depth];
  const axes = state.depth === "flat" ? "two" : "three";
  scene.setAttribute("aria-label", `${state.view.name} in ${axes} dimensions, ${data.points} points coloured by ${state.column.name}`);
}

function refresh() {
  recolour();
  showLegend();
  showTip(-1);
  describe();
  draw();
}

function move(across, down) {
  if (state.depth === "deep") {
    camera.yaw += across * 0.01;
    camera.pitch = Math.max(-1.5, Math.min(1.5, camera.pitch + down * 0.01));
  } else {
    camera.x += across;
    camera.y += down;
  }
  showTip(-1);
  draw();
}

function zoom(factor) {
  const next = Math.max(0.5, Math.min(40, camera.zoom * factor));
  camera.x *= next / camera.zoom;
  camera.y *= next / camera.zoom;
  camera.zoom = next;
  showTip(-1);
  draw();
}

function spot(event) {
  const box = scene.getBoundingClientRect();
  return pointAt(event.clientX - box.left, event.clientY - box.top, event.pointerType === "touch" ? 22 : 10);
}

scene.addEventListener("pointerdown", (event) => {
  drag = { x: event.clientX, y: event.clientY, moved: false };
  scene.setPointerCapture(event.pointerId);
});
scene.addEventListener("pointermove", (event) => {
  if (drag) {
    const across = event.clientX - drag.x, down = event.clientY - drag.y;
    if (!drag.moved && Math.hypot(across, down) < 5) return;
    drag = { x: event.clientX, y: event.clientY, moved: true };
    move(across, down);
    return;
  }
  const at = spot(event);
  if (at === state.over) return;
  state.over = at;
  scene.classList.toggle("over", at >= 0);
  draw();
  showTip(at);
});
scene.addEventListener("pointerup", (event) => {
  const click = drag && !drag.moved;
  drag = null;
  if (!click) return;
  const at = spot(event);
  if (at >= 0) choose(at);
  showTip(at);
});
scene.addEventListener("pointercancel", () => { drag = null; });
scene.addEventListener("pointerleave", () => {
  state.over = -1;
  if (!drag) showTip(-1);
  draw();
});
scene.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return; // the page scrolls; a pinch, or Ctrl and the wheel, zooms
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * 0.01));
}, { passive: false });
scene.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-20, 0], ArrowRight: [20, 0], ArrowUp: [0, -20], ArrowDown: [0, 20] };
  if (steps[event.key]) move(...steps[event.key]);
  else if (event.key === "+" || event.key === "=") zoom(1.3);
  else if (event.key === "-") zoom(1 / 1.3);
  else return;
  event.preventDefault();
});

byId("nearer").addEventListener("click", () => zoom(1.5));
byId("farther").addEventListener("click", () => zoom(1 / 1.5));
byId("reset").addEventListener("click", () => { resetCamera(); refresh(); });
byId("view").addEventListener("change", (event) => { state.view = data.views[event.target.value]; resetCamera(); refresh(); });
byId("depth").addEventListener("change", (event) => { state.depth = event.target.value; resetCamera(); refresh(); });
byId("colour").addEventListener("change", (event) => { state.column = data.columns[event.target.value]; refresh(); });
byId("find").addEventListener("input", (event) => search(event.target.value));
new ResizeObserver(draw).observe(scene);
themeWatchers.push(refresh);

fill(byId("view"), data.views.map((view) => view.name));
fill(byId("colour"), data.columns.map((column) => column.name));
refresh();
