// The grid of small maps, one row a layer, one column a head and one for their mean.
function buildOverview() {
  const panel = panels[state.panel];
  const most = Math.max(0, ...panel.heads);
  const grid = byId("grid");
  byId("main").style.setProperty("--side", most > 9 ? "430px" : "340px");
  const room = grid.parentElement.clientWidth - 34;
  const size = Math.max(16, Math.min(48, Math.floor(room / (most + 1)) - 3));
  const tall = Math.round(size * Math.max(0.6, Math.min(1.5, panel.queries.length / panel.keys.length)));
  grid.style.gridTemplateColumns = `auto repeat(${most}, ${size}px) ${size + 5}px`;
  grid.replaceChildren(note(""));
  for (let h = 0; h < most; h++) grid.append(note(h + 1));
  grid.append(note(say("mean"), "mean"));
  panel.layers.forEach((name, layer) => {
    grid.append(note(name, "side"));
    for (let h = 0; h < most; h++) grid.append(h < panel.heads[layer] ? thumbnail(layer, h, size, tall) : note(""));
    grid.append(thumbnail(layer, -1, size, tall));
  });
  markOverview();
}

function note(text, kind = "") {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  span.setAttribute("aria-hidden", "true");
  return span;
}

function thumbnail(layer, head, width, height) {
  const panel = panels[state.panel];
  const button = document.createElement("button");
  button.type = "button";
  button.className = head < 0 ? "mean" : "";
  button.dataset.layer = layer;
  button.dataset.head = head;
  button.title = headName(panel, layer, head);
  button.setAttribute("aria-label", button.title);
  const image = paint(readMap(panel, layer, head), false, width * 2, height * 2);
  image.style.width = `${width}px`;
  image.style.height = `${height}px`;
  button.append(image);
  return button;
}

function headName(panel, layer, head) {
  const values = { layer: panel.layers[layer], head: head + 1, count: panel.heads[layer] };
  if (head < 0 && panel.heads[layer] === 1) return say("layerOnly", values);
  return say(head < 0 ? "layerMean" : "layerHead", values);
}

function markOverview() {
  const panel = panels[state.panel];
  for (const button of byId("grid").querySelectorAll("button")) {
    const chosen = Number(button.dataset.layer) === state.layer && Number(button.dataset.head) === state.head;
    button.setAttribute("aria-pressed", chosen);
    button.tabIndex = chosen ? 0 : -1;
  }
  fill(byId("layer"), panel.layers.map((name, i) => [i, name]), state.layer);
  const heads = Array.from({ length: panel.heads[state.layer] ?? 0 }, (_, h) => [h, h + 1]);
  fill(byId("head"), [...heads, [-1, say("mean")]], state.head);
  const spread = panel.spread[state.layer]?.at(state.head);
  byId("spread").textContent = spread === undefined ? "" : say("spread", { spread: spread.toFixed(1), keys: panel.keys.length });
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

// Arrow keys in the grid: the mean stands behind the last head.
function moveInOverview(event) {
  const panel = panels[state.panel];
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e6], End: [0, 1e6] };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  const layer = clamp(state.layer + step[0], 0, panel.layers.length - 1);
  const before = state.head < 0 ? panel.heads[state.layer] : state.head;
  const column = state.head < 0 && step[0] ? panel.heads[layer] : clamp(before + step[1], 0, panel.heads[layer]);
  pick(layer, column === panel.heads[layer] ? -1 : column);
  byId("grid").querySelector('[aria-pressed="true"]').focus();
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

byId("grid").addEventListener("keydown", moveInOverview);
byId("grid").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) pick(Number(button.dataset.layer), Number(button.dataset.head));
});
byId("layer").addEventListener("change", (event) => pick(Number(event.target.value), state.head));
byId("head").addEventListener("change", (event) => pick(state.layer, Number(event.target.value)));
