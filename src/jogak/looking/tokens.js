// The token lines: what is read above, what reads below, and curves between them.
const SIDES = ["keys", "queries"];
const single = (side) => (side === "keys" ? "key" : "query");

function buildTokens() {
  const panel = panels[state.panel];
  byId("queries-heading").textContent = say(panel.rowsWrite ? "writes" : "queries");
  for (const side of SIDES) {
    byId(side).replaceChildren(...panel[side].map((token, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dir = "auto";
      button.dataset.index = index;
      button.textContent = visible(token);
      button.title = `${index + 1}: ${visible(token)}`;
      button.tabIndex = index ? -1 : 0;
      return button;
    }));
  }
}

// What the page talks about now: the weights from or to one token, or null.
function focused() {
  if (state.query !== null && state.pin !== "key") return { side: "queries", index: state.query, weights: rowOf(current, state.query) };
  if (state.key !== null) return { side: "keys", index: state.key, weights: columnOf(current, state.key) };
  return null;
}

function drawTokens() {
  const focus = focused();
  const top = focus ? largest(focus.weights) || 1 : 1;
  for (const side of SIDES) {
    [...byId(side).children].forEach((button, index) => {
      const chosen = state[single(side)] === index;
      const held = chosen && state.pin === single(side);
      const lit = focus && focus.side !== side;
      const colour = lit ? shade(focus.weights[index] / top) : null;
      button.classList.toggle("chosen", chosen);
      button.setAttribute("aria-pressed", held);
      button.style.background = lit && !held ? css(colour) : "";
      button.style.color = lit && !held ? onTop(colour) : "";
    });
  }
  follow(focus);
  drawCurves(focus);
  byId("reading").textContent = describe(focus);
}

// In a line that scrolls, bring the token that is talked about into sight, or else the one with most weight.
function follow(focus) {
  for (const side of SIDES) {
    const line = byId(side);
    const best = focus && focus.side !== side ? focus.weights.indexOf(largest(focus.weights)) : null;
    const token = line.children[state[single(side)] ?? best];
    if (!token || line.scrollHeight <= line.clientHeight) continue;
    const top = token.offsetTop, bottom = top + token.offsetHeight;
    if (top < line.scrollTop) line.scrollTop = top - 4;
    else if (bottom > line.scrollTop + line.clientHeight) line.scrollTop = bottom - line.clientHeight + 4;
  }
}

function describe(focus) {
  if (!focus) return say("linesHint");
  const panel = panels[state.panel];
  const others = focus.side === "queries" ? panel.keys : panel.queries;
  const best = [...focus.weights.keys()].sort((a, b) => focus.weights[b] - focus.weights[a]);
  const list = best.slice(0, 6).filter((i) => focus.weights[i] >= 0.01);
  const token = visible(panel[focus.side][focus.index]);
  const words = list.map((i) => `${visible(others[i])} ${number(focus.weights[i])}`).join(", ") || say("nothing");
  const held = state.pin ? ` (${say("held")})` : "";
  const text = `${say(focus.side === "queries" ? "reads" : "readBy", { token })}${held}: ${words}`;
  return state.query === null || state.key === null ? text : `${text}\n${pairText()}`;
}

function pairText() {
  const panel = panels[state.panel];
  const weight = number(current.values[state.query * current.columns + state.key]);
  return say("pair", { query: visible(panel.queries[state.query]), key: visible(panel.keys[state.key]), weight });
}

// Where a curve meets each token of a line: its middle, kept inside the box that the line scrolls in.
function anchors(side) {
  const origin = byId("links").getBoundingClientRect();
  const box = byId(side).getBoundingClientRect();
  return [...byId(side).children].map((button) => {
    const place = button.getBoundingClientRect();
    const y = side === "keys" ? place.bottom : place.top;
    return { x: place.left + place.width / 2 - origin.left, y: clamp(y, box.top, box.bottom) - origin.top };
  });
}

function drawCurves(focus) {
  const links = byId("links");
  const pen = resize(byId("curves"), links.clientWidth, links.clientHeight);
  const [above, below] = SIDES.map(anchors);
  const curve = (q, k, width, alpha) => {
    const from = above[k], to = below[q], bend = Math.max(24, (to.y - from.y) / 2);
    pen.globalAlpha = alpha;
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(from.x, from.y);
    pen.bezierCurveTo(from.x, from.y + bend, to.x, to.y - bend, to.x, to.y);
    pen.stroke();
  };
  if (focus) {
    pen.strokeStyle = style("--accent");
    focus.weights.forEach((w, i) => {
      const [q, k] = focus.side === "queries" ? [focus.index, i] : [i, focus.index];
      if (w >= 0.01) curve(q, k, 1 + 6 * w, 0.15 + 0.75 * Math.sqrt(w));
    });
  } else if (current.values.length <= 2500) {
    // Nothing is pointed at: the strong links of a short text, faintly.
    pen.strokeStyle = css(shade(0.75));
    current.values.forEach((w, i) => {
      if (w >= 0.1) curve(Math.floor(i / current.columns), i % current.columns, 1 + 4 * w, 0.7 * w);
    });
  }
}

function point(side, index) {
  if (state.pin === single(side)) return;
  if (state.pin) change({ [single(side)]: index });
  else change({ query: null, key: null, [single(side)]: index });
}

// The pointer has gone: only what is held stays.
function release() {
  change({ query: state.pin === "query" ? state.query : null, key: state.pin === "key" ? state.key : null });
}

function hold(name, index) {
  if (state.pin === name && state[name] === index) change({ pin: null });
  else change({ query: null, key: null, pin: name, [name]: index });
}

function letGo() {
  change({ query: null, key: null, pin: null });
}

for (const side of SIDES) {
  const line = byId(side);
  const indexAt = (event) => event.target.closest("button")?.dataset.index;
  for (const kind of ["pointerover", "focusin"]) {
    line.addEventListener(kind, (event) => {
      const index = indexAt(event);
      if (index !== undefined) point(side, Number(index));
    });
  }
  line.addEventListener("pointerleave", release);
  line.addEventListener("focusout", release);
  line.addEventListener("click", (event) => {
    const index = indexAt(event);
    if (index !== undefined) hold(single(side), Number(index));
  });
  line.addEventListener("scroll", () => drawCurves(focused()));
  line.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -1e6, End: 1e6 };
    const index = Number(indexAt(event));
    const other = byId(side === "keys" ? "queries" : "keys");
    let next = null;
    if (event.key in steps) next = line.children[clamp(index + steps[event.key], 0, line.children.length - 1)];
    else if (event.key === (side === "keys" ? "ArrowDown" : "ArrowUp")) next = other.querySelector('[tabindex="0"]');
    if (!next) return;
    event.preventDefault();
    for (const button of next.parentElement.children) button.tabIndex = button === next ? 0 : -1;
    next.focus();
  });
}
