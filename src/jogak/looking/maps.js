// The weights: unpacking, one map at a time, and its colours.
const panels = data.panels;
const LEVELS = Float32Array.from({ length: 256 }, (_, q) => (q / 255) ** 2);
let stored = new Uint8Array(0);

async function unpack() {
  if (typeof DecompressionStream === "undefined") throw new Error("tooOld");
  const packed = Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  stored = new Uint8Array(await new Response(stream).arrayBuffer());
  let at = 0;
  for (const panel of panels) {
    panel.starts = panel.heads.map((count) => {
      const start = at;
      at += count * panel.queries.length * panel.keys.length;
      return start;
    });
  }
  if (at !== stored.length) throw new Error("damaged");
}

// Weights [queries * keys] of one head, or the mean over a layer's heads (head -1), with the largest of them.
function readMap(panel, layer, head) {
  const size = panel.queries.length * panel.keys.length;
  const values = new Float32Array(size);
  const heads = head < 0 ? Array.from({ length: panel.heads[layer] }, (_, h) => h) : [head];
  for (const h of heads) {
    const from = panel.starts[layer] + h * size;
    for (let i = 0; i < size; i++) values[i] += LEVELS[stored[from + i]];
  }
  let top = 0;
  for (let i = 0; i < size; i++) {
    values[i] /= heads.length;
    if (values[i] > top) top = values[i];
  }
  return { values, top, rows: panel.queries.length, columns: panel.keys.length };
}

const rowOf = (map, q) => map.values.subarray(q * map.columns, (q + 1) * map.columns);
const columnOf = (map, k) => Float32Array.from({ length: map.rows }, (_, q) => map.values[q * map.columns + k]);
const largest = (values) => values.reduce((a, b) => Math.max(a, b), 0);

// 256 colours between the stops that the style sheet names.
let ramp = [];
function readRamp() {
  const stops = style("--ramp").split(/\s+/).map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  ramp = Array.from({ length: 256 }, (_, i) => {
    const place = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((c, n) => Math.round(c + (stops[low + 1][n] - c) * (place - low)));
  });
}

function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const shade = (share) => ramp[Math.max(0, Math.min(255, Math.round(share * 255)))];
const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
// Black or white, whichever can be read on the colour.
const onTop = ([r, g, b]) => (0.2126 * r + 0.7152 * g + 0.0722 * b > 125 ? "#15161c" : "#ffffff");

// A canvas sized in CSS pixels, sharp on any screen.
function resize(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  return pen;
}

// The map as an image of at most `wide` x `high` pixels; where several cells share one, the largest is shown.
function paint(map, byRow, wide = map.columns, high = map.rows) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.min(wide, map.columns);
  canvas.height = Math.min(high, map.rows);
  const peaks = new Float32Array(canvas.width * canvas.height);
  for (let q = 0; q < map.rows; q++) {
    const base = Math.floor((q * canvas.height) / map.rows) * canvas.width;
    const row = rowOf(map, q);
    const top = (byRow ? largest(row) : map.top) || 1;
    for (let k = 0; k < map.columns; k++) {
      const at = base + Math.floor((k * canvas.width) / map.columns);
      peaks[at] = Math.max(peaks[at], row[k] / top);
    }
  }
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(canvas.width, canvas.height);
  peaks.forEach((peak, i) => image.data.set([...shade(peak), 255], 4 * i));
  pen.putImageData(image, 0, 0);
  return canvas;
}
