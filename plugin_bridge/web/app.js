"use strict";

// The state is the server's: what is shown is what it said last, but for a control that is being moved here.

const STEPS = { semitones: [1, 12], dB: [1, 6], "": [0.01, 0.1] }; // by unit: of an arrow key, of a page key
const SEND_MS = 40; // between two values of a slider
const HOLD_MS = 400; // after which a control that was moved here follows the server again
const RETRY_MS = [300, 600, 1200, 2400];
const NOTICE_MS = 6000;
const FLOOR_DB = -60;
const FALL_DB = 30; // of a meter, in a second
const TRACE_SECONDS = 8;
const GAP_SECONDS = 0.05;
const TRACE_HZ = [55, 1100];
const NOTES = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"];

const $ = (id) => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

let table = [];
let values = {};
let preset = "";
let lists = { voices: [], presets: [] };
const controls = {}; // name: {show}
const held = {}; // name: until when, in ms
let socket = null;

// To the server.

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

const waiting = {}; // name: value that will be sent
let sending = 0;

function change(name, value) {
  values[name] = value;
  held[name] = performance.now() + HOLD_MS;
  setTimeout(render, HOLD_MS + 10);
  waiting[name] = value;
  if (!sending) flush();
  render();
}

function flush() {
  sending = 0;
  const names = Object.keys(waiting);
  for (const name of names) {
    send({ do: "change", name, value: waiting[name] });
    delete waiting[name];
  }
  if (names.length) sending = setTimeout(flush, SEND_MS);
}

function panic() {
  send({ do: "panic" });
}

// From the server.

let said = { values: {}, preset: "" };

const heard = {
  state(message) {
    said = message;
    render();
  },
  lists(message) {
    lists = message;
    buildChoices();
    render();
  },
  status: showStatus,
  meters: showMeters,
  refused(message) {
    notify(message.reason);
    for (const name in held) held[name] = 0;
    render();
  },
};

let tries = 0;

function connect() {
  const url = new URL("socket" + location.search, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  socket.onopen = () => {
    tries = 0;
    document.body.classList.remove("away");
    showConnection(true, "connected");
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (heard[message.kind]) heard[message.kind](message);
  };
  socket.onclose = (event) => {
    document.body.classList.add("away");
    showConnection(false, event.reason || "connection lost, trying again");
    setTimeout(connect, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
  };
}

function showConnection(good, text) {
  const line = $("connection");
  line.classList.toggle("good", good);
  if (line.textContent !== text) line.textContent = text;
}

let noticeTimer = 0;

function notify(text) {
  $("notice").textContent = text;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => ($("notice").textContent = ""), NOTICE_MS);
}

// Controls.

function title(name) {
  const word = name.split("_")[0];
  return word[0].toUpperCase() + word.slice(1);
}

function shown(parameter, value) {
  const sign = parameter.minimum < 0 && parameter.maximum > 0 && value > 0 ? "+" : "";
  if (parameter.unit === "") return `${Math.round(100 * value)} %`;
  const text = `${sign}${Number(value.toFixed(1))}`.replace("-", "−");
  const unit = parameter.unit === "semitones" && Math.abs(value) === 1 ? "semitone" : parameter.unit;
  return parameter.name === "gate_db" && value === parameter.minimum ? "off" : `${text} ${unit}`;
}

function buildSlider(parameter) {
  const { name, minimum, maximum } = parameter;
  const [step, page] = STEPS[parameter.unit] || STEPS[""];
  const about = make("span", { id: `${name}-about`, class: "unseen" }, parameter.description);
  const slider = make("input", {
    type: "range", id: name, min: minimum, max: maximum, step: "any", "aria-describedby": about.id,
  });
  const text = make("span", { class: "value", "aria-hidden": "true" });
  const reset = make("button", { type: "button", "aria-label": `${title(name)} back to ${shown(parameter, parameter.default)}` }, "Reset");
  const set = (value) => {
    const whole = Math.round(value / step) * step;
    change(name, Math.min(maximum, Math.max(minimum, Number(whole.toFixed(4)))));
  };
  slider.addEventListener("input", () => set(Number(slider.value)));
  const keys = {
    ArrowRight: step, ArrowUp: step, ArrowLeft: -step, ArrowDown: -step, PageUp: page, PageDown: -page,
    Home: -Infinity, End: Infinity,
  };
  slider.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in keys) set(Math.min(maximum, Math.max(minimum, values[name] + keys[event.key])));
    else if (event.key === "Delete" || event.key === "Backspace") change(name, parameter.default);
    else return;
    event.preventDefault();
  });
  const nudge = (sign, text, by) => {
    const button = make("button", { type: "button", "aria-label": `${title(name)} ${text}` }, sign);
    button.addEventListener("click", () => set(values[name] + by));
    return button;
  };
  // A note is hit exactly, by a thumb too.
  const [less, more] = parameter.unit === "semitones" ? [[nudge("−", "down", -step)], [nudge("+", "up", step)]] : [[], []];
  reset.addEventListener("click", () => {
    change(name, parameter.default);
    slider.focus({ preventScroll: true }); // the button is about to hide
  });
  $("controls").append(
    make("div", { class: "control" },
      make("label", { for: name }, title(name)), text, reset, make("div", { class: "reach" }, ...less, slider, ...more), about),
  );
  const place = (value) => (100 * (value - minimum)) / (maximum - minimum);
  controls[name] = (value) => {
    slider.value = value;
    text.textContent = shown(parameter, value);
    slider.setAttribute("aria-valuetext", text.textContent);
    // The light runs from the value that does nothing to the present one.
    const origin = minimum < 0 && maximum > 0 ? place(0) : 0;
    slider.style.setProperty("--from", `${Math.min(origin, place(value))}%`);
    slider.style.setProperty("--to", `${Math.max(origin, place(value))}%`);
    reset.disabled = value === parameter.default;
  };
}

function buildSwitch(parameter) {
  const button = make("button", { type: "button", id: parameter.name, title: parameter.description }, title(parameter.name));
  button.addEventListener("click", () => change(parameter.name, !values[parameter.name]));
  $("panic").before(button);
  controls[parameter.name] = (value) => button.setAttribute("aria-pressed", value);
}

const builders = { number: buildSlider, switch: buildSwitch, voice() { controls.voice = showVoice; } };

function buildChoices() {
  fill($("voices"), lists.voices, (voice) => change("voice", voice.name));
  fill($("presets"), lists.presets, (wanted) => send({ do: "load", preset: wanted.name }));
}

function fill(box, choices, choose) {
  const focused = document.activeElement && box.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  box.replaceChildren(...choices.map((choice) => {
    const button = make("button", { type: "button", "data-name": choice.name, "aria-pressed": "false" },
      make("span", {}, choice.title), make("small", {}, choice.about));
    button.addEventListener("click", () => choose(choice));
    if (choice.name === focused) queueMicrotask(() => button.focus());
    return button;
  }));
}

function showVoice(voice) {
  for (const button of $("voices").children) {
    const name = button.dataset.name;
    const share = typeof voice === "string" ? Number(voice === name) : voice[name] || 0;
    button.setAttribute("aria-pressed", share === 1 ? "true" : share > 0 ? "mixed" : "false");
    button.classList.toggle("partly", share > 0 && share < 1);
    const about = lists.voices.find((each) => each.name === name).about;
    button.lastChild.textContent = share > 0 && share < 1 ? `${Math.round(100 * share)} % of the mix` : about;
  }
}

function render() {
  const now = performance.now();
  for (const name in said.values) if (!(held[name] > now)) values[name] = said.values[name];
  preset = said.preset;
  for (const name in controls) if (name in values) controls[name](values[name]);
  for (const button of $("presets").children) button.setAttribute("aria-pressed", button.dataset.name === preset);
}

// How it is doing.

function showStatus(status) {
  const ms = (value) => (value === null ? "–" : `${value.toFixed(1)} ms`);
  const percent = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);
  showConnection(status.running, status.running ? status.device : "waiting for the sound device");
  $("latency").textContent = ms(status.latency_ms);
  $("round-trip").textContent = ms(status.round_trip_ms);
  $("load").textContent = percent(status.load_median);
  $("load").title = `99 of 100 blocks: at most ${percent(status.load_p99)}`;
  $("load").classList.toggle("bad", status.load_p99 > 1);
  $("lost").textContent = status.xruns;
}

const meters = {};
for (const side of ["in", "out"]) meters[side] = { level: FLOOR_DB, peak: FLOOR_DB, peakUntil: 0, told: 0, at: 0 };
const trace = []; // [seconds, in Hz, out Hz]
let traceEnd = 0;
let drawing = 0;

function showMeters(message) {
  const now = performance.now();
  for (const side of ["in", "out"]) showLevel(side, message[side].level_db, now);
  const count = message.in.pitch_hz.length;
  if (message.end < traceEnd) trace.length = 0; // another server
  traceEnd = message.end;
  for (let i = 0; i < count; i++) {
    const moment = traceEnd - (count - 1 - i) * message.spacing;
    trace.push([moment, message.in.pitch_hz[i], message.out.pitch_hz[i]]);
  }
  while (trace.length && trace[0][0] < traceEnd - TRACE_SECONDS) trace.shift();
  if (!drawing && !document.hidden) drawing = requestAnimationFrame(drawTrace);
}

function showLevel(side, level, now) {
  const meter = meters[side];
  meter.level = Math.max(level, meter.level - (FALL_DB * (now - meter.at)) / 1000, FLOOR_DB);
  meter.at = now;
  if (level >= meter.peak || now > meter.peakUntil) {
    meter.peak = Math.max(level, FLOOR_DB);
    meter.peakUntil = now + 1500;
  }
  const bar = $(`meter-${side}`);
  const share = (db) => Math.min(1, 1 - db / FLOOR_DB);
  bar.firstChild.style.transform = `scaleX(${share(meter.level)})`;
  bar.lastChild.style.left = `calc(${100 * share(meter.peak)}% - 3px)`;
  bar.classList.toggle("full", meter.peak >= -0.1);
  if (now - meter.told > 250) {
    meter.told = now;
    const silent = meter.peak <= FLOOR_DB;
    $(`meter-${side}-text`).textContent = `${Math.round(meter.peak)} dB`.replace("-", "−");
    bar.setAttribute("aria-valuenow", Math.round(Math.min(0, meter.peak)));
    bar.setAttribute("aria-valuetext", silent ? "silent" : `${Math.round(meter.peak)} dB`);
    $(`note-${side}`).textContent = note(side === "in" ? 1 : 2);
  }
}

function note(column) {
  const last = trace.slice(-12).map((point) => point[column]).filter((hz) => hz > 0).sort((a, b) => a - b);
  if (last.length < 4) return "–";
  const key = Math.round(69 + 12 * Math.log2(last[last.length >> 1] / 440));
  return `${NOTES[key % 12]}${Math.floor(key / 12) - 1}`;
}

const style = getComputedStyle(document.documentElement);

function drawTrace() {
  drawing = 0;
  const canvas = $("trace");
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const draw = canvas.getContext("2d");
  draw.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw.clearRect(0, 0, width, height);
  const y = (hz) => height * (1 - Math.log(hz / TRACE_HZ[0]) / Math.log(TRACE_HZ[1] / TRACE_HZ[0]));
  const x = (seconds) => width - ((traceEnd - seconds) / TRACE_SECONDS) * width;
  draw.font = "12px system-ui, sans-serif";
  for (let octave = 2; octave <= 5; octave++) {
    const line = y(440 * 2 ** (octave - 4 - 9 / 12));
    draw.fillStyle = style.getPropertyValue("--edge");
    draw.fillRect(0, Math.round(line), width, 1);
    draw.fillStyle = style.getPropertyValue("--quiet");
    draw.fillText(`C${octave}`, 6, line - 4);
  }
  draw.fillStyle = style.getPropertyValue("--in");
  for (const [seconds, hz] of trace) if (hz > 0) draw.fillRect(x(seconds) - 1.25, y(hz) - 3.5, 2.5, 7);
  draw.strokeStyle = style.getPropertyValue("--out");
  draw.lineWidth = 2;
  draw.lineJoin = draw.lineCap = "round";
  draw.beginPath();
  let [before, last] = [0, 0];
  for (const [seconds, , hz] of trace) {
    // A leap of half an octave from one moment to the next is a new note, not a glide; and what was not measured is not drawn.
    const joined = before > 0 && Math.abs(Math.log2(hz / before)) < 0.5 && seconds - last < GAP_SECONDS;
    if (hz > 0) (joined ? draw.lineTo : draw.moveTo).call(draw, x(seconds), y(hz));
    [before, last] = [hz, seconds];
  }
  draw.stroke();
}

// Keys.

const shortcuts = {
  b: () => change("bypass", !values.bypass),
  n: () => send({ do: "step", by: 1 }),
  p: () => send({ do: "step", by: -1 }),
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return panic();
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !$("keys").checked) return;
  if (event.target.matches("input[name]")) return; // a name is being typed
  const voice = lists.voices[Number(event.key) - 1];
  if (/^[1-9]$/.test(event.key) && voice) change("voice", voice.name);
  else if (event.key.toLowerCase() in shortcuts) shortcuts[event.key.toLowerCase()]();
});

$("panic").addEventListener("click", panic);
$("next").addEventListener("click", shortcuts.n);
$("previous").addEventListener("click", shortcuts.p);
$("save").addEventListener("submit", (event) => {
  event.preventDefault();
  send({ do: "save", preset: $("save-name").value });
  $("save-name").value = "";
});

async function start() {
  try {
    const answer = await fetch("parameters" + location.search);
    if (!answer.ok) throw new Error(await answer.text());
    table = await answer.json();
  } catch (error) {
    showConnection(false, "no answer, trying again");
    setTimeout(start, RETRY_MS[RETRY_MS.length - 1]);
    return;
  }
  for (const parameter of table) builders[parameter.kind](parameter);
  connect();
}

start();
