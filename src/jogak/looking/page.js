// The page as a whole: tabs, language, light and dark, the address, and what is redrawn when something changes.

function change(patch) {
  const same = Object.entries(patch).every(([name, value]) => state[name] === value);
  if (same || !panels[state.panel].layers.length) return;
  Object.assign(state, patch);
  drawTokens();
  drawHeatmap();
  if ("pin" in patch) remember();
}

function pick(layer, head) {
  const heads = panels[state.panel].heads[layer];
  Object.assign(state, { layer, head: head < heads ? head : heads - 1 });
  showMap();
  remember();
}

function showPanel(index) {
  const panel = panels[index];
  const other = panels[state.panel];
  const alike = panel.queries.length === other.queries.length && panel.keys.length === other.keys.length;
  if (!alike || index === state.panel) Object.assign(state, { query: null, key: null, pin: null });
  if (index !== state.panel) state.zoom = 1;
  state.panel = index;
  state.layer = clamp(state.layer, 0, Math.max(0, panel.layers.length - 1));
  state.head = Math.min(state.head, (panel.heads[state.layer] ?? 0) - 1);
  for (const tab of byId("tabs").children) {
    const chosen = Number(tab.dataset.panel) === index;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    if (!chosen) continue;
    byId("main").setAttribute("aria-labelledby", tab.id);
    byId("tabs").scrollLeft = tab.offsetLeft - (byId("tabs").clientWidth - tab.offsetWidth) / 2;
  }
  showWithout(panel);
  if (byId("main").inert) return; // the weights are still being unpacked
  for (const part of ["overview", "lines", "heat"]) byId(part).hidden = !panel.layers.length;
  if (!panel.layers.length) return;
  buildOverview();
  buildTokens();
  showMap();
}

function showWithout(panel) {
  const byMixer = new Map();
  for (const [layer, mixer] of panel.without) byMixer.set(mixer, [...(byMixer.get(mixer) ?? []), layer]);
  const list = [...byMixer].map(([mixer, layers]) => say("withoutLayers", { layers: layers.join(", "), mixer })).join("; ");
  const sentences = [];
  if (list) sentences.push(say("without", { layers: list }));
  if (!panel.layers.length) sentences.push(say("noMap"));
  byId("without").textContent = sentences.join(" ");
  byId("without").hidden = !sentences.length;
}

function showMap() {
  const panel = panels[state.panel];
  loadMap();
  layOut();
  markOverview();
  byId("lines-heading").textContent = `${panelName(panel)} · ${headName(panel, state.layer, state.head)}`;
  drawLegend();
  drawTokens();
  drawHeatmap();
}

// A title that is only the usual name of its kind is translated; any other stays as it was given.
function panelName(panel) {
  return panel.title === WORDS.en[panel.kind] ? say(panel.kind) : panel.title;
}

function buildTabs() {
  byId("tabs").replaceChildren(...panels.map((panel, index) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.id = `tab-${index}`;
    tab.dataset.panel = index;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "main");
    tab.textContent = panelName(panel);
    return tab;
  }));
}

function speak() {
  document.documentElement.lang = state.language;
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = say(place.dataset.word);
  for (const place of document.querySelectorAll("[data-label]")) place.setAttribute("aria-label", say(place.dataset.label));
  byId("language").textContent = say("other");
  byId("language").lang = state.language === "en" ? "ko" : "en";
  byId("theme").textContent = say(document.documentElement.dataset.theme === "dark" ? "toLight" : "toDark");
  buildTabs();
}

function dress(theme) {
  document.documentElement.dataset.theme = theme;
  readRamp();
}

// The address says what is shown (#panel/layer/head/q5), so that a view can be bookmarked and linked to.
function remember() {
  const head = state.head < 0 ? "mean" : state.head + 1;
  const held = state.pin ? `/${state.pin[0]}${state[state.pin] + 1}` : "";
  history.replaceState(null, "", `#${state.panel + 1}/${state.layer + 1}/${head}${held}`);
}

function recall() {
  const parts = location.hash.match(/^#(\d+)\/(\d+)\/(\d+|mean)(?:\/([qk])(\d+))?$/);
  if (!parts) return;
  state.panel = clamp(Number(parts[1]) - 1, 0, panels.length - 1);
  const panel = panels[state.panel];
  state.layer = clamp(Number(parts[2]) - 1, 0, Math.max(0, panel.layers.length - 1));
  state.head = parts[3] === "mean" ? -1 : clamp(Number(parts[3]) - 1, -1, (panel.heads[state.layer] ?? 0) - 1);
  return parts[4] && [parts[4] === "q" ? "query" : "key", Number(parts[5]) - 1];
}

function openView() {
  const held = recall();
  showPanel(state.panel);
  const panel = panels[state.panel];
  if (held && held[1] >= 0 && held[1] < (held[0] === "query" ? panel.queries : panel.keys).length) hold(...held);
}

function refresh() {
  const held = { query: state.query, key: state.key, pin: state.pin };
  showPanel(state.panel);
  change(held);
}

byId("tabs").addEventListener("click", (event) => {
  const tab = event.target.closest("button");
  if (!tab) return;
  showPanel(Number(tab.dataset.panel));
  remember();
});
byId("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  showPanel((state.panel + step + panels.length) % panels.length);
  byId("tabs").children[state.panel].focus();
  remember();
});
byId("language").addEventListener("click", () => {
  state.language = state.language === "en" ? "ko" : "en";
  speak();
  refresh();
});
byId("theme").addEventListener("click", () => {
  dress(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  speak();
  refresh();
});
byId("by-row").addEventListener("change", (event) => {
  state.byRow = event.target.checked;
  showMap();
});
byId("zoom-in").addEventListener("click", () => zoomBy(1.4));
byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.4));
byId("zoom-fit").addEventListener("click", () => zoomBy(null));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") letGo();
});
window.addEventListener("hashchange", openView);

let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return; // a phone's address bar coming and going
  width = window.innerWidth;
  refresh();
});

async function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dress(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => {
    dress(dark.matches ? "dark" : "light");
    speak();
    refresh();
  });
  byId("source").textContent = data.source;
  byId("output").textContent = data.output;
  byId("texts").hidden = !(data.source || data.output);
  byId("texts").querySelector(".arrow").hidden = !(data.source && data.output);
  const cross = panels.findIndex((panel) => panel.kind === "cross" && panel.layers.length);
  state.panel = Math.max(0, cross);
  speak();
  try {
    await unpack();
  } catch (error) {
    byId("failure").textContent = say(error.message === "tooOld" ? "tooOld" : "damaged");
    byId("failure").hidden = false;
    byId("main").hidden = true;
    return;
  }
  byId("main").inert = false;
  state.layer = Math.max(0, panels[state.panel].layers.length - 1);
  openView();
  document.documentElement.dataset.ready = "yes";
}

start();
