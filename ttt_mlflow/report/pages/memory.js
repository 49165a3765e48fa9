"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("history");
const pen = canvas.getContext("2d");
const LEFT = 90, HEIGHT = 360, BOTTOM = 24, TOP = 10;

function bytes(value) {
  if (value === null) return "";
  const [factor, unit] = Math.abs(value) >= 1e9 ? [1e9, "GB"] : Math.abs(value) >= 1e6 ? [1e6, "MB"] : [1e3, "kB"];
  return `${+(value / factor).toPrecision(4)} ${unit}`;
}

function row(kind, ...cells) {
  const line = document.createElement("tr");
  cells.forEach((text, index) => {
    const cell = document.createElement(kind);
    cell.textContent = text;
    if (index) cell.className = "number";
    line.append(cell);
  });
  document.getElementById("parts").append(line);
  return line;
}

row("th", "part", "between steps", "at the peak", "reserved from the GPU");
for (const part of data.parts) {
  const line = row("td", part.part, bytes(part.allocated_bytes), bytes(part.peak_bytes), bytes(part.reserved_bytes));
  line.firstChild.style.borderLeft = `10px solid ${part.color}`;
  line.firstChild.style.paddingLeft = "6px";
}
const sum = (name) => data.parts.reduce((total, part) => total + (part[name] ?? 0), 0);
row("th", "sum", bytes(sum("allocated_bytes")), bytes(sum("peak_bytes")), bytes(sum("reserved_bytes")));
const count = `${data.events.length} allocations and releases in the pass`;
document.getElementById("note").textContent = !data.events.length
  ? "Nothing was allocated in the pass."
  : data.left_out ? `${count}; the ${data.left_out} earlier ones are only in snapshot.pickle.` : `${count}.`;

// The allocated memory is constant between two events.
const times = data.events.map((event) => event[0]), held = data.events.map((event) => event[2]);
const end = Math.max(1, times[times.length - 1] ?? 1);
const low = held.reduce((a, b) => Math.min(a, b), Infinity), high = held.reduce((a, b) => Math.max(a, b), 0);
let from = 0, to = end, chosen = -1;

function width() { return canvas.clientWidth - LEFT - 8; }
function x(time) { return LEFT + ((time - from) / (to - from)) * width(); }
function y(value) {
  const span = Math.max(1, high - low) * 1.1;
  return HEIGHT - BOTTOM - ((value - (high - span)) / span) * (HEIGHT - BOTTOM - TOP);
}
function after(time) { // index of the first later event
  let begin = 0, stop = times.length;
  while (begin < stop) {
    const middle = (begin + stop) >> 1;
    if (times[middle] <= time) begin = middle + 1; else stop = middle;
  }
  return begin;
}

function draw() {
  const scale = window.devicePixelRatio || 1;
  canvas.style.height = `${HEIGHT}px`;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = HEIGHT * scale;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, HEIGHT);
  if (!times.length) return;
  pen.font = "11px system-ui, sans-serif";
  pen.strokeStyle = "#eaeef2";
  pen.fillStyle = "#57606a";
  for (let tick = 0; tick <= 4; tick++) {
    const value = low + ((high - low) * tick) / 4, at = from + ((to - from) * tick) / 4;
    pen.beginPath();
    pen.moveTo(LEFT, y(value));
    pen.lineTo(LEFT + width(), y(value));
    pen.stroke();
    pen.fillText(bytes(value), 4, y(value) + 4);
    pen.fillText(`${+(at / 1000).toPrecision(4)} ms`, Math.min(x(at), LEFT + width() - 50), HEIGHT - 8);
  }
  pen.save();
  pen.beginPath();
  pen.rect(LEFT, 0, width(), HEIGHT - BOTTOM);
  pen.clip();
  pen.beginPath();
  const first = Math.max(0, after(from) - 1), last = Math.min(times.length - 1, after(to));
  pen.moveTo(x(times[first]), y(held[first]));
  for (let index = first + 1; index <= last; index++) {
    pen.lineTo(x(times[index]), y(held[index - 1]));
    pen.lineTo(x(times[index]), y(held[index]));
  }
  pen.strokeStyle = data.parts[0]?.color ?? "#1f6fb4";
  pen.lineWidth = 1.5;
  pen.stroke();
  pen.lineWidth = 1;
  if (chosen >= 0) {
    pen.fillStyle = "#c8553d";
    pen.fillRect(x(times[chosen]) - 3, y(held[chosen]) - 3, 6, 6);
  }
  pen.restore();
}

function show(begin, stop) {
  const span = Math.min(end, Math.max(1, stop - begin));
  from = Math.min(Math.max(0, begin), end - span);
  to = from + span;
  draw();
}

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const at = from + ((event.offsetX - LEFT) / width()) * (to - from), factor = Math.exp(event.deltaY * 0.002);
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
  if (!times.length) return;
  chosen = Math.max(0, after(from + ((event.offsetX - LEFT) / width()) * (to - from)) - 1);
  const [us, change, level, where] = data.events[chosen];
  document.getElementById("detail").textContent =
    `${change > 0 ? "+" : "−"}${bytes(Math.abs(change))} at ${+(us / 1000).toPrecision(5)} ms, ` +
    `${bytes(level)} allocated${data.where[where] ? `, ${data.where[where]}` : ""}`;
  draw();
});
canvas.addEventListener("dblclick", () => show(0, end));
document.getElementById("whole").addEventListener("click", () => show(0, end));
window.addEventListener("resize", draw);
draw();
