// What the page says, in its two languages; {name} is filled in.
const WORDS = {
  en: {
    other: "한국어", toDark: "Dark", toLight: "Light", tabs: "Attentions",
    encoder: "Encoder self-attention", decoder: "Decoder self-attention", cross: "Cross-attention",
    overview: "Layers and heads", overviewHint: "Pick a map: click, or use the arrow keys.",
    layer: "Layer", head: "Head", mean: "mean", layerHead: "Layer {layer}, head {head}",
    layerOnly: "Layer {layer}, its only head",
    layerMean: "Layer {layer}, mean of its {count} heads",
    spread: "Reads {spread} of {keys} tokens at a time, on average over its rows (2 to the power of the entropy).",
    linesHint: "Point at a token to see what it reads or what reads it; click to hold it, Esc to let go.",
    keys: "What is read", queries: "What reads", writes: "What reads, to write this token next", reads: "“{token}” reads", readBy: "“{token}” is read by",
    pair: "“{query}” reads “{key}” with {weight}", held: "held", nothing: "nothing",
    heatmap: "Every weight", byRow: "scale each row by itself", fit: "Fit",
    zoomIn: "Larger cells", zoomOut: "Smaller cells",
    heatmapKeys: "Heat map: rows read, columns are read. Arrow keys move, Enter holds a row, plus and minus zoom.",
    sizes: "{queries} rows read {keys} columns",
    without: "No attention map for {layers}: a mixer of this kind does not weigh positions one by one.",
    withoutLayers: "layers {layers} ({mixer})",
    noMap: "This stack has no attention map to show.",
    smallPrint: "A row is one token that reads; its weights sum to 1. Weights are stored in 8 bits on a square-root " +
      "scale: off by at most 0.004 near 1 and 0.0004 near 0.01. Colours run from 0 to the largest weight of the map " +
      "(or of the row). This file makes no network request.",
    tooOld: "This browser cannot unpack the weights. Open the page in Chrome or Edge 80, Firefox 113, Safari 16.4 or newer.",
    damaged: "The weights in this file are damaged; write the page again.",
  },
  ko: {
    other: "English", toDark: "어둡게", toLight: "밝게", tabs: "어텐션 종류",
    encoder: "인코더 셀프 어텐션", decoder: "디코더 셀프 어텐션", cross: "교차 어텐션",
    overview: "층과 헤드", overviewHint: "클릭하거나 화살표 키로 지도를 고르세요.",
    layer: "층", head: "헤드", mean: "평균", layerHead: "{layer}층 {head}번 헤드",
    layerOnly: "{layer}층의 하나뿐인 헤드",
    layerMean: "{layer}층, 헤드 {count}개의 평균",
    spread: "한 번에 토큰 {keys}개 중 평균 {spread}개를 읽습니다(2의 엔트로피 제곱).",
    linesHint: "토큰을 가리키면 무엇을 읽고 무엇에 읽히는지 보입니다. 클릭하면 고정, Esc를 누르면 풀립니다.",
    keys: "읽히는 쪽", queries: "읽는 쪽", writes: "읽는 쪽 (다음에 쓸 토큰)", reads: "‘{token}’ → 읽는 토큰", readBy: "‘{token}’ ← 읽는 쪽 토큰",
    pair: "‘{query}’ → ‘{key}’ 가중치 {weight}", held: "고정됨", nothing: "없음",
    heatmap: "모든 가중치", byRow: "행마다 따로 색 맞추기", fit: "맞춤",
    zoomIn: "칸 크게", zoomOut: "칸 작게",
    heatmapKeys: "히트맵: 행이 열을 읽습니다. 화살표 키로 움직이고, Enter로 행을 고정하고, 더하기와 빼기로 확대·축소합니다.",
    sizes: "행 {queries}개가 열 {keys}개를 읽음",
    without: "어텐션 지도가 없는 층: {layers}. 이런 믹서는 위치마다 가중치를 매기지 않습니다.",
    withoutLayers: "{layers}층({mixer})",
    noMap: "이 스택에는 보여 줄 어텐션 지도가 없습니다.",
    smallPrint: "한 행은 읽는 토큰 하나이고, 그 가중치의 합은 1입니다. 가중치는 제곱근 눈금의 8비트로 저장되어 있어 " +
      "오차는 1 근처에서 최대 0.004, 0.01 근처에서 최대 0.0004입니다. 색은 0부터 지도(또는 행)의 최댓값까지입니다. " +
      "이 파일은 네트워크에 접속하지 않습니다.",
    tooOld: "이 브라우저는 가중치를 풀 수 없습니다. Chrome·Edge 80, Firefox 113, Safari 16.4 이상에서 여세요.",
    damaged: "이 파일의 가중치가 손상되었습니다. 페이지를 다시 만드세요.",
  },
};

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

// Everything that can change while one looks. head -1 is the mean; query, key: the tokens pointed at, or null;
// pin: "query" or "key" while that one is held.
const state = {
  language: data.language, panel: 0, layer: 0, head: -1, query: null, key: null, pin: null, byRow: false, zoom: 1,
};

function say(word, values = {}) {
  return WORDS[state.language][word].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// A token as people can see it: blanks, line ends and emptiness get a sign.
function visible(token) {
  const signs = { "\n": "⏎", "\r": "⏎", "\t": "⇥" };
  const shown = token.replace(/[\n\r\t]/g, (c) => signs[c]);
  return shown === "" ? "∅" : shown.trim() === "" ? "␣".repeat(shown.length) : shown;
}

function number(weight) {
  return weight >= 0.0995 ? weight.toFixed(2) : weight.toFixed(3);
}
