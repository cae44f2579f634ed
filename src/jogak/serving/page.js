// The page: which model and what to do with it, questions and answers, settings, attention beside an answer.
"use strict";

// name: [kind, modes in which it is there, step]
const FIELDS = {
  system: ["textarea", ["chat"]],
  temperature: ["number", ["chat", "write", "translate"], 0.1],
  top_p: ["number", ["chat", "write", "translate"], 0.05],
  top_k: ["number", ["chat", "write", "translate"], 1],
  min_p: ["number", ["chat", "write", "translate"], 0.05],
  repetition_penalty: ["number", ["chat", "write", "translate"], 0.05],
  max_tokens: ["number", ["chat", "write", "translate"], 1],
  seed: ["number", ["chat", "write", "translate"], 1],
  stopText: ["text", ["chat", "write"]],
  search: ["checkbox", ["translate"]],
  count: ["number", ["run"], 1],
  key: ["password", ["chat", "write", "translate", "run"]],
};
const ASKS = { chat: "askChat", write: "askWrite", translate: "askTranslate", run: "askRun" };
const SENDS = { chat: "send", write: "sendWrite", translate: "sendTranslate", run: "sendRun" };
const EMPTY = { chat: "emptyChat", write: "emptyWrite", translate: "emptyTranslate", run: "emptyRun" };
let history_ = []; // of the conversation: role and content
let shownMap = null; // the address of the map in the frame

const model = () => state.models.find((one) => one.id === byId("model").value);

function modesOf(one) {
  const able = new Set(one.abilities);
  const translates = able.has("completions") && !able.has("chat");
  const modes = [];
  if (able.has("chat")) modes.push("chat", "write");
  if (translates) modes.push("translate");
  if (able.has("run")) modes.push("run");
  return modes;
}

function firstMode(one) {
  const modes = modesOf(one);
  return modes.includes("chat") && !one.defaults.template ? "write" : modes[0];
}

// ------------------------------------------------------------ asking the server

function headers() {
  const key = value("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function ask(path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers: headers(), body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(say("gone"));
  }
  if (answer.ok) return answer;
  if (answer.status === 401) throw new Error(say("needsKey"));
  const told = await answer.json().catch(() => null);
  throw new Error(told?.error?.message ?? `${answer.status} ${answer.statusText}`);
}

// The events of a stream, as they come.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value: part, done } = await reader.read();
    if (done) return;
    held += part;
    const ready = held.split("\n\n");
    held = ready.pop();
    for (const event of ready) {
      const told = event.replace(/^data: /, "");
      if (told === "[DONE]") return;
      const content = JSON.parse(told);
      if (content.error) throw new Error(content.error.message);
      yield content;
    }
  }
}

// ------------------------------------------------------------ settings

function value(name) {
  const field = byId(`field-${name}`);
  if (!field) return undefined;
  if (field.type === "checkbox") return field.checked;
  if (field.value === "") return undefined;
  return field.type === "number" ? Number(field.value) : field.value;
}

function buildFields() {
  const kept = Object.fromEntries(Object.keys(FIELDS).map((name) => [name, byId(`field-${name}`)]));
  const defaults = model()?.defaults ?? {};
  const parts = Object.entries(FIELDS).filter(([, [, modes]]) => modes.includes(state.mode) || !state.mode).map(([name, [kind, , step]]) => {
    const label = document.createElement("label");
    const field = document.createElement(kind === "textarea" ? "textarea" : "input");
    field.id = `field-${name}`;
    if (kind !== "textarea") field.type = kind;
    else field.rows = 2;
    if (step) field.step = step;
    if (kind === "number" && name !== "seed") field.min = 0;
    if (kind === "password") field.autocomplete = "off";
    if (defaults[name] !== undefined && defaults[name] !== null) field.placeholder = defaults[name];
    const words = document.createElement("span");
    words.textContent = say(name);
    if (kind === "checkbox") label.classList.add("check");
    label.append(...(kind === "checkbox" ? [field, words] : [words, field]));
    const before = kept[name];
    if (before?.type === "checkbox") field.checked = before.checked;
    else if (before) field.value = before.value;
    else if (name === "key") field.value = sessionStorage.getItem("jogak-key") ?? "";
    return label;
  });
  byId("fields").replaceChildren(...parts);
  byId("field-key")?.addEventListener("change", (event) => {
    sessionStorage.setItem("jogak-key", event.target.value);
    if (!state.models.length) start();
  });
}

function sampling() {
  const names = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
  const given = Object.fromEntries(names.map((name) => [name, value(name)]).filter(([, v]) => v !== undefined));
  const stop = value("stopText");
  return stop === undefined ? given : { ...given, stop };
}

// ------------------------------------------------------------ questions and answers

function entry(who, text, given = "") {
  const article = document.createElement("article");
  article.className = who === "you" ? "mine" : "theirs";
  const heading = document.createElement("h3");
  heading.textContent = say(who, { model: byId("model").value });
  const body = document.createElement("div");
  body.className = "text";
  body.dir = "auto";
  if (given) {
    const before = document.createElement("span");
    before.className = "given";
    before.textContent = given;
    body.append(before);
  }
  body.append(document.createTextNode(text));
  article.append(heading, body);
  byId("log").append(article);
  toEnd();
  return { article, body, text: body.lastChild };
}

function toEnd() {
  const log = byId("log");
  log.scrollTop = log.scrollHeight;
}

function button(word, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.dataset.word = word;
  made.textContent = say(word);
  made.addEventListener("click", () => act(made));
  return made;
}

function foot(shown, told, look, text) {
  const line = document.createElement("div");
  line.className = "foot";
  const hint = document.createElement("span");
  hint.className = "hint";
  hint.textContent = told;
  line.append(hint, button("copy", async (made) => {
    await navigator.clipboard.writeText(text);
    made.textContent = say("copied");
  }));
  if (look && model().abilities.includes("look")) line.append(button("look", () => showMap(look)));
  shown.article.append(line);
  toEnd();
}

async function stream(path, body, shown, signal) {
  const began = performance.now();
  const ids = [];
  let [prompt, text, reason, count] = [[], "", null, 0];
  try {
    const asked = { ...body, stream: true, stream_options: { include_usage: true }, return_token_ids: true };
    for await (const event of events(await ask(path, asked, signal))) {
      count = event.usage?.completion_tokens ?? count;
      const choice = event.choices[0];
      if (!choice) continue;
      const part = choice.delta?.content ?? choice.text ?? "";
      text += part;
      shown.text.appendData(part);
      ids.push(...(choice.token_ids ?? []));
      prompt = choice.prompt_token_ids ?? prompt;
      reason = choice.finish_reason ?? reason;
      if (part) toEnd();
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    reason = "broken";
  } finally {
    shown.article.classList.remove("busy");
  }
  const seconds = (performance.now() - began) / 1000;
  const parts = [say("tokens", { count: count || ids.length, seconds: seconds.toFixed(1), rate: ((count || ids.length) / seconds).toFixed(0) })];
  if (reason === "length") parts.push(say("cut"));
  if (reason === "broken") parts.push(say("broken"));
  const look = prompt.length && ids.length ? { prompt_token_ids: prompt, token_ids: ids } : null;
  foot(shown, parts.join(" · "), look, text);
  return { text, reason };
}

async function whole(text, signal, settings) {
  const shown = entry("them", "");
  shown.article.classList.add("busy");
  try {
    const answer = await ask("v1/run", { model: model().id, input: text, settings }, signal);
    const { answers, faults } = (await answer.json()).data[0];
    const list = document.createElement("ol");
    list.className = "said";
    list.append(...answers.map((one) => {
      const line = document.createElement("li");
      const [said, score] = [document.createElement("span"), document.createElement("span")];
      said.textContent = one.text;
      said.dir = "auto";
      score.className = "score";
      score.textContent = Number(one.score).toFixed(3);
      line.append(said, score);
      return line;
    }));
    shown.body.replaceWith(list);
    foot(shown, faults.join("; "), { input: text }, answers[0].text);
    return { text: answers[0].text };
  } catch (error) {
    shown.article.remove();
    if (error.name !== "AbortError") throw error;
    return { text: "", reason: "broken" };
  } finally {
    shown.article.classList.remove("busy");
  }
}

const DO = {
  async chat(text, signal) {
    entry("you", text);
    const system = value("system");
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...history_, { role: "user", content: text }];
    const shown = entry("them", "");
    shown.article.classList.add("busy");
    const found = await streamed("v1/chat/completions", { model: model().id, messages, ...sampling() }, shown, signal);
    history_.push({ role: "user", content: text }, { role: "assistant", content: found.text });
    return found;
  },
  async write(text, signal) {
    const shown = entry("them", "", text);
    shown.article.classList.add("busy");
    return streamed("v1/completions", { model: model().id, prompt: text, ...sampling() }, shown, signal);
  },
  async translate(text, signal) {
    entry("you", text);
    if (value("search")) return whole(text, signal, {});
    const shown = entry("them", "");
    shown.article.classList.add("busy");
    return streamed("v1/completions", { model: model().id, prompt: text, ...sampling() }, shown, signal);
  },
  async run(text, signal) {
    entry("you", text);
    const count = value("count");
    return whole(text, signal, count === undefined ? {} : { n_best: count });
  },
};

// A stream whose answer goes away again where nothing came of it.
async function streamed(path, body, shown, signal) {
  try {
    return await stream(path, body, shown, signal);
  } catch (error) {
    if (!shown.text.data) shown.article.remove();
    throw error;
  }
}

async function send() {
  const text = byId("ask").value;
  if (state.busy || !model()) return;
  if (!text.trim()) return fail(say("nothing"));
  fail("");
  setBusy(new AbortController());
  announce(say("answering"));
  try {
    byId("ask").value = "";
    const found = await DO[state.mode](text, state.busy.signal);
    announce(found.reason === "broken" ? say("stopped") : say("done", { text: found.text }));
  } catch (error) {
    byId("ask").value ||= text;
    fail(error.message);
    announce("");
  } finally {
    setBusy(null);
  }
}

function setBusy(controller) {
  state.busy = controller;
  byId("stop").disabled = !controller;
  byId("send").disabled = !!controller;
  byId("model").disabled = !!controller;
}

function stop() {
  state.busy?.abort();
  byId("ask").focus();
}

function clear() {
  stop();
  history_ = [];
  byId("log").replaceChildren();
  closeMap();
  fail("");
}

// ------------------------------------------------------------ attention

async function showMap(look) {
  fail("");
  announce(say("looking"));
  try {
    const answer = await ask("v1/look", { model: model().id, language: state.language, ...look });
    closeMap();
    shownMap = URL.createObjectURL(new Blob([await answer.text()], { type: "text/html;charset=utf-8" }));
    byId("map").src = shownMap;
    byId("apart").href = shownMap;
    byId("attention").hidden = false;
    byId("settings").open = false;
    byId("desk").classList.add("looking");
    byId("attention-heading").focus();
    announce(say("looked"));
  } catch (error) {
    fail(error.message);
    announce("");
  }
}

function closeMap() {
  if (!shownMap) return;
  URL.revokeObjectURL(shownMap);
  shownMap = null;
  byId("map").removeAttribute("src");
  byId("attention").hidden = true;
  byId("desk").classList.remove("looking");
  byId("settings").open = true;
}

// ------------------------------------------------------------ the page as a whole

function announce(sentence) {
  byId("status").textContent = sentence;
}

function fail(sentence) {
  byId("failure").textContent = sentence;
  byId("failure").hidden = !sentence;
}

function buildModes() {
  const one = model();
  const modes = one ? modesOf(one) : [];
  if (!modes.includes(state.mode)) state.mode = one ? firstMode(one) : "";
  byId("modes").replaceChildren(...modes.map((mode) => {
    const made = button(mode, () => pick(mode));
    made.setAttribute("role", "radio");
    made.setAttribute("aria-checked", mode === state.mode);
    made.tabIndex = mode === state.mode ? 0 : -1;
    made.dataset.mode = mode;
    return made;
  }));
  byId("modes").hidden = modes.length < 2;
  if (!state.mode) return;
  byId("ask-label").textContent = say(ASKS[state.mode]);
  byId("send").textContent = say(SENDS[state.mode]);
  byId("log").dataset.empty = say(EMPTY[state.mode]);
}

function pick(mode) {
  if (mode !== state.mode) clear();
  state.mode = mode;
  buildModes();
  buildFields();
}

function speak() {
  document.documentElement.lang = state.language;
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = say(place.dataset.word);
  for (const place of document.querySelectorAll("[data-label]")) place.setAttribute("aria-label", say(place.dataset.label));
  for (const place of document.querySelectorAll("[data-title]")) place.title = say(place.dataset.title);
  byId("ask-hint").textContent = say("hint");
  byId("language").textContent = say("other");
  byId("language").lang = state.language === "en" ? "ko" : "en";
  byId("theme").textContent = say(document.documentElement.dataset.theme === "dark" ? "toLight" : "toDark");
  buildModes();
  buildFields();
}

function dress(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = say(theme === "dark" ? "toLight" : "toDark");
}

async function start() {
  try {
    state.models = (await (await ask("v1/models")).json()).data;
  } catch (error) {
    fail(error.message);
    document.documentElement.dataset.ready = "no";
    return;
  }
  fail("");
  byId("model").replaceChildren(...state.models.map((one) => new Option(one.id, one.id)));
  speak();
  document.documentElement.dataset.ready = "yes";
  byId("ask").focus();
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
byId("ask").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // a syllable that is being put together
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.busy) stop();
});
byId("modes").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const modes = [...byId("modes").children].map((one) => one.dataset.mode);
  pick(modes[(modes.indexOf(state.mode) + step + modes.length) % modes.length]);
  byId("modes").querySelector("[aria-checked=true]").focus();
});
byId("model").addEventListener("change", () => {
  clear();
  state.mode = firstMode(model());
  buildModes();
  buildFields();
});
byId("stop").addEventListener("click", stop);
byId("clear").addEventListener("click", () => {
  clear();
  byId("ask").focus();
});
byId("close").addEventListener("click", () => {
  closeMap();
  byId("ask").focus();
});
byId("language").addEventListener("click", () => {
  state.language = state.language === "en" ? "ko" : "en";
  speak();
});
byId("theme").addEventListener("click", () => dress(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));

const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => dress(dark.matches ? "dark" : "light"));
dress(dark.matches ? "dark" : "light");
speak();
start();
