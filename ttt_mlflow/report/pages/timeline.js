"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("timeline");
const pen = canvas.getContext("2d");
const LEFT = 120, ROW = 22, AXIS = 26, LANE_GAP = 10;

// Overlapping or nested activities of a lane get separate rows.
function rowsOfLanes() {
  let top = AXIS;
  return data.lanes.map((name, lane) => {
    const ends = [];
    const own = data.activities.filter((one) => one.lane === lane);
    for (const one of own) {
      let row = ends.findIndex((end) => end <= one.begin + 1e-6);
      if (row < 0) row = ends.push(0) - 1;
      ends[row] = one.begin + one.length;
      one.top = top + row * ROW;
    }
    const placed = { name, top };
    top += Math.max(1, ends.length) * ROW + LANE_GAP;
    placed.bottom = top - LANE_GAP;
    return placed;
  });
}

const lanes = rowsOfLanes();
const height = lanes[lanes.length - 1]?.bottom + LANE_GAP || AXIS + ROW;
// not Math.max(...): a prompt has more activities than a call can take arguments
const length = data.activities.reduce((latest, one) => Math.max(latest, one.begin + one.length), 1e-3);
let from = 0, to = length; // the visible range, in microseconds
let chosen = null;

function width() { return canvas.clientWidth - LEFT; }
function x(time) { return LEFT + ((time - from) / (to - from)) * width(); }
function time(pixel) { return from + ((pixel - LEFT) / width()) * (to - from); }

function text(us) { return us >= 1000 ? `${+(us / 1000).toPrecision(5)} ms` : `${+us.toPrecision(4)} µs`; }

function axis() {
  const rough = (to - from) / 8, power = 10 ** Math.floor(Math.log10(rough));
  const tick = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
  pen.fillStyle = "#57606a";
  pen.strokeStyle = "#eaeef2";
  for (let at = Math.ceil(from / tick) * tick; at <= to; at += tick) {
    pen.beginPath();
    pen.moveTo(x(at), AXIS);
    pen.lineTo(x(at), height);
    pen.stroke();
    pen.fillText(text(at), x(at) + 3, 16);
  }
}

function draw() {
  const scale = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = height * scale;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, height);
  pen.font = "11px system-ui, sans-serif";
  axis();
  pen.save();
  pen.beginPath();
  pen.rect(LEFT, 0, width(), height);
  pen.clip();
  for (const one of data.activities) {
    const left = x(one.begin), wide = Math.max(0.6, x(one.begin + one.length) - left);
    if (left > canvas.clientWidth || left + wide < LEFT) continue;
    pen.fillStyle = data.parts[one.part].color;
    pen.globalAlpha = chosen && chosen !== one ? 0.75 : 1;
    pen.fillRect(left, one.top + 1, wide, ROW - 3);
    if (wide > 40) {
      pen.save();
      pen.beginPath();
      pen.rect(left, one.top, wide - 2, ROW);
      pen.clip();
      pen.fillStyle = "white";
      pen.fillText(data.names[one.name], Math.max(left, LEFT) + 3, one.top + 14);
      pen.restore();
    }
  }
  pen.restore();
  pen.globalAlpha = 1;
  pen.fillStyle = "#1b1f24";
  for (const lane of lanes) pen.fillText(lane.name, 4, lane.top + 14, LEFT - 8);
}

function show(begin, end) {
  const span = Math.min(length, Math.max(1e-2, end - begin));
  from = Math.min(Math.max(0, begin), length - span);
  to = from + span;
  draw();
}

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const at = time(event.offsetX), factor = Math.exp(event.deltaY * 0.002);
  show(at - (at - from) * factor, at + (to - at) * factor);
}, { passive: false });

let dragged = null;
canvas.addEventListener("pointerdown", (event) => {
  dragged = { x: event.offsetX, from, to };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointerup", () => { dragged = null; });
canvas.addEventListener("pointermove", (event) => {
  if (dragged) {
    const moved = ((event.offsetX - dragged.x) / width()) * (dragged.to - dragged.from);
    show(dragged.from - moved, dragged.to - moved);
    return;
  }
  const at = time(event.offsetX), y = event.offsetY, slack = (to - from) / width();
  chosen = data.activities.findLast(
    (one) => y >= one.top && y < one.top + ROW && at >= one.begin - slack && at <= one.begin + one.length + slack) || null;
  describe();
  draw();
});
canvas.addEventListener("dblclick", () => show(0, length));
document.getElementById("whole").addEventListener("click", () => show(0, length));
window.addEventListener("resize", draw);

function describe() {
  const detail = document.getElementById("detail");
  detail.textContent = chosen
    ? `${text(chosen.length)} from ${text(chosen.begin)}, ${data.parts[chosen.part].name}` +
      `${chosen.layer === null ? "" : `, layer ${chosen.layer}`}: ${data.names[chosen.name]}`
    : "";
}

for (const part of data.parts) {
  const entry = document.createElement("span"), square = document.createElement("i");
  square.style.background = part.color;
  entry.append(square, part.name);
  document.getElementById("legend").append(entry);
}

// Sends the full trace to Perfetto's page. The page answers PING once it is ready.
const PERFETTO = "https://ui.perfetto.dev", PATIENCE_MS = 60000;

function say(message) { document.getElementById("message").textContent = message; }

function openInPerfetto(buffer) {
  const other = window.open(PERFETTO);
  if (!other) {
    say("This browser does not allow the page to open a window, for example inside the MLflow UI. Download open.html " +
      "and open it, or open trace.json.gz at ui.perfetto.dev.");
    return;
  }
  const asking = setInterval(() => other.postMessage("PING", PERFETTO), 100);
  const giveUp = setTimeout(() => {
    clearInterval(asking);
    window.removeEventListener("message", answer);
    say("ui.perfetto.dev does not answer. Check that this machine can reach it.");
  }, PATIENCE_MS);
  function answer(event) {
    if (event.origin !== PERFETTO || event.data !== "PONG") return;
    clearInterval(asking);
    clearTimeout(giveUp);
    window.removeEventListener("message", answer);
    other.postMessage({ perfetto: { buffer, title: data.title, fileName: "trace.json.gz" } }, PERFETTO);
    say("");
  }
  window.addEventListener("message", answer);
}

let trace = data.trace === null ? null : Uint8Array.from(atob(data.trace), (letter) => letter.charCodeAt(0)).buffer;
const button = document.getElementById("perfetto");
button.hidden = trace === null;
button.addEventListener("click", () => openInPerfetto(trace));
document.getElementById("picker").hidden = trace !== null;
document.getElementById("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (!file) return;
  trace = await file.arrayBuffer();
  button.hidden = false;
});

draw();
