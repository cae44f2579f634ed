// What the page says, in both of its languages.
"use strict";

const WORDS = {
  en: {
    skip: "Skip to the question", model: "Model", modes: "What to do", other: "한국어", toDark: "Dark", toLight: "Light",
    chat: "Chat", write: "Write on", translate: "Translate", run: "Task", answers: "Questions and answers",
    askChat: "Message", askWrite: "Text to go on from", askTranslate: "Text to translate", askRun: "Text",
    hint: "Enter sends, Shift+Enter breaks the line, Esc stops.",
    send: "Send", sendWrite: "Write", sendTranslate: "Translate", sendRun: "Run",
    stop: "Stop", clear: "Clear", copy: "Copy", copied: "Copied", look: "Attention", attention: "Attention of the answer",
    apart: "In a tab of its own", close: "Close", you: "You", them: "{model}",
    settings: "Settings", settingsHint: "What is left empty is as the model's own settings say.",
    system: "System message", temperature: "Temperature (0 to 2)", top_p: "Top-p (0 to 1)", top_k: "Top-k (0: off)",
    min_p: "Min-p (0 to 1)", repetition_penalty: "Repetition penalty (0.01 to 100)", max_tokens: "Tokens at most",
    seed: "Seed", stopText: "Stop text", search: "Search for the best answer (it comes whole)",
    count: "Answers", key: "API key",
    emptyChat: "Say something, and the model answers.", emptyWrite: "Begin a text, and the model goes on.",
    emptyTranslate: "Give a text, and the model translates it.", emptyRun: "Give a text, and the model does its task.",
    answering: "The model answers.", done: "Answer: {text}", stopped: "Stopped.", looking: "The maps are drawn.",
    looked: "The attention of the answer is beside it.", loading: "Looking for models.",
    tokens: "{count} tokens, {seconds} s, {rate} a second", cut: "cut at the most tokens", broken: "stopped",
    needsKey: "This server wants an API key: write it into the settings.", gone: "The server does not answer.",
    nothing: "Write something first.",
  },
  ko: {
    skip: "질문 칸으로 가기", model: "모델", modes: "할 일", other: "English", toDark: "어둡게", toLight: "밝게",
    chat: "대화", write: "이어 쓰기", translate: "번역", run: "과제", answers: "질문과 답",
    askChat: "메시지", askWrite: "이어 쓸 글", askTranslate: "번역할 글", askRun: "글",
    hint: "Enter로 보내고, Shift+Enter로 줄을 바꾸고, Esc로 멈춥니다.",
    send: "보내기", sendWrite: "쓰기", sendTranslate: "번역", sendRun: "실행",
    stop: "멈추기", clear: "지우기", copy: "복사", copied: "복사했습니다", look: "어텐션", attention: "답의 어텐션",
    apart: "새 탭에서 보기", close: "닫기", you: "나", them: "{model}",
    settings: "설정", settingsHint: "비워 두면 모델에 딸린 설정을 따릅니다.",
    system: "시스템 메시지", temperature: "온도 (0~2)", top_p: "Top-p (0~1)", top_k: "Top-k (0: 끔)",
    min_p: "Min-p (0~1)", repetition_penalty: "반복 벌점 (0.01~100)", max_tokens: "최대 토큰 수",
    seed: "시드", stopText: "멈춤 글", search: "가장 좋은 답 찾기 (한꺼번에 나옵니다)",
    count: "답의 수", key: "API 키",
    emptyChat: "말을 걸면 모델이 대답합니다.", emptyWrite: "글을 시작하면 모델이 이어 씁니다.",
    emptyTranslate: "글을 주면 모델이 번역합니다.", emptyRun: "글을 주면 모델이 맡은 일을 합니다.",
    answering: "모델이 답하고 있습니다.", done: "답: {text}", stopped: "멈췄습니다.", looking: "지도를 그리고 있습니다.",
    looked: "답의 어텐션이 옆에 있습니다.", loading: "모델을 찾고 있습니다.",
    tokens: "토큰 {count}개, {seconds}초, 초당 {rate}개", cut: "최대 토큰 수에서 잘림", broken: "멈춤",
    needsKey: "이 서버는 API 키가 필요합니다. 설정에 적어 주십시오.", gone: "서버가 대답하지 않습니다.",
    nothing: "먼저 글을 적어 주십시오.",
  },
};

const state = { language: navigator.language.startsWith("ko") ? "ko" : "en", models: [], mode: "", busy: null };

function say(word, values = {}) {
  return WORDS[state.language][word].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const byId = (id) => document.getElementById(id);
