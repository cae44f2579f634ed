// The large map: only the part in view is drawn, so that a thousand tokens scroll as lightly as ten.
const FONT = 'system-ui, "Noto Sans CJK KR", "Noto Sans KR", "Apple SD Gothic Neo", "Malgun Gothic", sans-serif';
const SLANT = -Math.PI / 3.4; // of the column labels
const SMALLEST = 1.5, LARGEST = 64; // sides of a cell in pixels
let view = null; // the geometry of what is drawn: margins, cell, sizes
let picture = null; // the whole map, one pixel a cell
let current = { values: new Float32Array(0), top: 0, rows: 0, columns: 0 };

function loadMap() {
  const panel = panels[state.panel];
  if (panel.layers.length) current = readMap(panel, state.layer, state.head);
  picture = paint(current, state.byRow);
}

function shorten(pen, text, room) {
  if (pen.measureText(text).width <= room) return text;
  const letters = [...text];
  while (letters.length && pen.measureText(`${letters.join("")}…`).width > room) letters.pop();
  return `${letters.join("")}…`;
}

function layOut() {
  const panel = panels[state.panel];
  const frame = byId("map");
  const width = frame.clientWidth;
  const pen = byId("map-canvas").getContext("2d");
  pen.font = `13px ${FONT}`;
  const limit = Math.min(120, width * 0.28);
  const longest = (tokens) => Math.min(limit, tokens.reduce((most, t) => Math.max(most, pen.measureText(visible(t)).width), 0));
  const slanted = longest(panel.keys);
  const left = Math.ceil(longest(panel.queries)) + 12;
  const top = Math.ceil(slanted * -Math.sin(SLANT)) + 18;
  const right = Math.ceil(slanted * Math.cos(SLANT)) + 4;
  const most = Math.min(760, window.innerHeight * 0.82) - top - 8;
  const fitting = clamp(Math.min((width - left - right) / current.columns, most / current.rows), SMALLEST, 40);
  const cell = clamp(fitting * state.zoom, SMALLEST, LARGEST);
  const whole = { width: left + current.columns * cell + right, height: top + current.rows * cell + 4 };
  byId("map-size").style.width = `${Math.max(whole.width, width - 1)}px`;
  byId("map-size").style.height = `${whole.height}px`;
  view = { left, top, cell, limit, width, height: Math.min(whole.height, Math.min(760, window.innerHeight * 0.82)) };
  resize(byId("map-canvas"), frame.clientWidth, view.height);
}

// First and last cell in view along one axis.
function span(scrolled, room, count) {
  return [Math.max(0, Math.floor(scrolled / view.cell)), Math.min(count, Math.ceil((scrolled + room) / view.cell))];
}

function drawHeatmap() {
  if (!view) return;
  const frame = byId("map");
  const canvas = byId("map-canvas");
  const scale = canvas.width / view.width;
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, view.width, view.height);
  const { left, top, cell } = view;
  const [q0, q1] = span(frame.scrollTop, view.height - top, current.rows);
  const [k0, k1] = span(frame.scrollLeft, view.width - left, current.columns);
  const x = (k) => left + k * cell - frame.scrollLeft;
  const y = (q) => top + q * cell - frame.scrollTop;
  pen.save();
  pen.beginPath();
  pen.rect(left, top, view.width - left, view.height - top);
  pen.clip();
  pen.imageSmoothingEnabled = false;
  pen.drawImage(picture, k0, q0, k1 - k0, q1 - q0, x(k0), y(q0), (k1 - k0) * cell, (q1 - q0) * cell);
  if (cell >= 9) drawGaps(pen, x, y, [q0, q1], [k0, k1]);
  if (cell >= 27) drawNumbers(pen, x, y, [q0, q1], [k0, k1]);
  drawCross(pen, x, y);
  pen.restore();
  drawRowLabels(pen, y, q0, q1);
  drawColumnLabels(pen, x, k0, k1);
}

function drawGaps(pen, x, y, [q0, q1], [k0, k1]) {
  pen.fillStyle = style("--card");
  for (let k = k0; k <= k1; k++) pen.fillRect(x(k) - 0.5, y(q0), 1, (q1 - q0) * view.cell);
  for (let q = q0; q <= q1; q++) pen.fillRect(x(k0), y(q) - 0.5, (k1 - k0) * view.cell, 1);
}

// Hundredths, inside the cells that are large enough and not nearly empty.
function drawNumbers(pen, x, y, [q0, q1], [k0, k1]) {
  pen.font = `${Math.round(view.cell * 0.36)}px ${FONT}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  for (let q = q0; q < q1; q++) {
    const row = rowOf(current, q);
    const top = (state.byRow ? largest(row) : current.top) || 1;
    for (let k = k0; k < k1; k++) {
      if (row[k] < 0.01) continue;
      pen.fillStyle = onTop(shade(row[k] / top));
      const text = row[k] >= 0.995 ? "1" : `.${String(Math.round(row[k] * 100)).padStart(2, "0")}`;
      pen.fillText(text, x(k) + view.cell / 2, y(q) + view.cell / 2);
    }
  }
}

function drawCross(pen, x, y) {
  pen.strokeStyle = style("--accent");
  pen.lineWidth = 2;
  const out = view.cell < 12 ? 1.5 : 0; // a thin row or column is framed from outside, to stay in sight itself
  const size = view.cell + 2 * out;
  if (state.query !== null) pen.strokeRect(x(0), y(state.query) - out, current.columns * view.cell, size);
  if (state.key !== null) pen.strokeRect(x(state.key) - out, y(0), size, current.rows * view.cell);
}

// Every n-th label so that none overlap, and always the one that is pointed at.
function labels(first, last, chosen, pitch) {
  const every = Math.ceil(pitch / view.cell);
  const list = [];
  for (let i = Math.ceil(first / every) * every; i < last; i += every) {
    if (chosen === null || i === chosen || Math.abs(i - chosen) * view.cell >= pitch) list.push(i);
  }
  if (chosen !== null && chosen >= first && chosen < last && !list.includes(chosen)) list.push(chosen);
  return list;
}

function labelFont(chosen) {
  return `${chosen ? "600 " : ""}${clamp(Math.round(view.cell * 0.8), 11, 13)}px ${FONT}`;
}

function drawRowLabels(pen, y, q0, q1) {
  const tokens = panels[state.panel].queries;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const q of labels(q0, q1, state.query, 14)) {
    const middle = y(q) + view.cell / 2;
    if (middle < view.top) continue;
    pen.font = labelFont(q === state.query);
    pen.fillStyle = style(q === state.query ? "--accent" : "--ink");
    pen.fillText(shorten(pen, visible(tokens[q]), view.limit), view.left - 6, middle);
  }
}

function drawColumnLabels(pen, x, k0, k1) {
  const tokens = panels[state.panel].keys;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  for (const k of labels(k0, k1, state.key, 15)) {
    const middle = x(k) + view.cell / 2;
    if (middle < view.left) continue;
    pen.save();
    pen.translate(middle, view.top - 8);
    pen.rotate(SLANT);
    pen.font = labelFont(k === state.key);
    pen.fillStyle = style(k === state.key ? "--accent" : "--ink");
    pen.fillText(shorten(pen, visible(tokens[k]), view.limit), 0, 0);
    pen.restore();
  }
}

function drawLegend() {
  const pen = byId("ramp").getContext("2d");
  ramp.forEach((colour, i) => {
    pen.fillStyle = css(colour);
    pen.fillRect(i, 0, 1, 1);
  });
  byId("ramp-top").textContent = state.byRow ? "max" : number(current.top);
  byId("sizes").textContent = say("sizes", { queries: current.rows, keys: current.columns });
}

// The cell under the pointer, or null.
function cellAt(event) {
  const frame = byId("map");
  const box = frame.getBoundingClientRect();
  const inX = event.clientX - box.left, inY = event.clientY - box.top;
  const k = Math.floor((inX - view.left + frame.scrollLeft) / view.cell);
  const q = Math.floor((inY - view.top + frame.scrollTop) / view.cell);
  const inside = inX >= view.left && inY >= view.top && q >= 0 && q < current.rows && k >= 0 && k < current.columns;
  return inside ? { q, k } : null;
}

function pointAtCell({ q, k }) {
  change({ query: state.pin === "query" ? state.query : q, key: state.pin === "key" ? state.key : k });
}

function showTip(event) {
  const tip = byId("tip");
  const box = byId("heat").getBoundingClientRect();
  tip.textContent = pairText();
  tip.hidden = false;
  const x = event.clientX - box.left + 14, y = event.clientY - box.top + 16;
  tip.style.left = `${Math.max(4, Math.min(x, box.width - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.min(y, box.height - tip.offsetHeight - 4)}px`;
}

// Larger or smaller cells (null: the size that fits); what lies at (x, y) behind the labels stays where it is.
function zoomBy(factor, x = (view.width - view.left) / 2, y = (view.height - view.top) / 2) {
  const frame = byId("map");
  const before = view.cell;
  const fixed = [frame.scrollLeft + x, frame.scrollTop + y];
  state.zoom = factor ? clamp(state.zoom * factor, 0.1, 32) : 1;
  layOut();
  if (factor && view.cell === before) state.zoom /= factor; // the end of the range
  frame.scrollLeft = fixed[0] * (view.cell / before) - x;
  frame.scrollTop = fixed[1] * (view.cell / before) - y;
  drawHeatmap();
}

function moveInHeatmap(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const zooms = { "+": 1.4, "=": 1.4, "-": 1 / 1.4, 0: null };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in zooms) {
    zoomBy(zooms[event.key]);
    bringIntoView(state.query, state.key);
  } else if ((event.key === "Enter" || event.key === " ") && state.query !== null) hold("query", state.query);
  else if (event.key in steps) {
    const [down, across] = steps[event.key];
    const fresh = state.query === null || state.key === null;
    const q = fresh ? state.query ?? 0 : clamp(state.query + down, 0, current.rows - 1);
    const k = fresh ? state.key ?? 0 : clamp(state.key + across, 0, current.columns - 1);
    change({ query: q, key: k });
    bringIntoView(q, k);
  } else return;
  event.preventDefault();
}

function bringIntoView(q, k) {
  const frame = byId("map");
  const near = (scrolled, at, room) => Math.min(Math.max(scrolled, at + view.cell - room), at);
  if (q !== null) frame.scrollTop = near(frame.scrollTop, q * view.cell, view.height - view.top);
  if (k !== null) frame.scrollLeft = near(frame.scrollLeft, k * view.cell, view.width - view.left);
}

const canvas = byId("map-canvas");
canvas.addEventListener("pointermove", (event) => {
  const cell = cellAt(event);
  if (!cell) return leaveHeatmap();
  pointAtCell(cell);
  showTip(event);
});
canvas.addEventListener("pointerleave", leaveHeatmap);
canvas.addEventListener("click", (event) => {
  const cell = cellAt(event);
  if (!cell) return;
  hold("query", cell.q);
  pointAtCell(cell);
});
canvas.addEventListener("keydown", moveInHeatmap);
canvas.addEventListener("blur", release);
byId("map").addEventListener("scroll", drawHeatmap);
byId("map").addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls
  event.preventDefault();
  const box = byId("map").getBoundingClientRect();
  zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - box.left - view.left, event.clientY - box.top - view.top);
}, { passive: false });

function leaveHeatmap() {
  byId("tip").hidden = true;
  release();
}
