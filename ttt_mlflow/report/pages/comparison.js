"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLORS = {"faster": "#3a8f5c", "slower": "#c8553d", "no significant difference": "#1f6fb4", "cannot tell": "#8a8f98"};
const SVG = "http://www.w3.org/2000/svg";

function add(parent, tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  parent.appendChild(element);
  return element;
}

function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.appendChild(element);
  return element;
}

function list(parent, title, lines) {
  if (!lines.length) return;
  add(parent, "h2", title);
  const items = add(parent, "ul");
  for (const line of lines) add(items, "li", line);
}

// As many significant digits, or all digits before the decimal point: never an exponent for a large value.
function significant(value, digits) {
  const whole = Math.min(digits, 3);
  const large = Math.abs(value) >= 10 ** whole - 10 ** (whole - digits) / 2;
  return large ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(digits)));
}

function fourDigits(value) { return significant(value, 4); }

function signed(value) { return (value >= 0 ? "+" : "") + value.toFixed(2); }

// The change in speed: of a rate as it is, of a time its inverse, so that right is always faster.
function speed(pair, change) {
  if (change === null || change === undefined) return null;
  return pair.quantity === "rate" ? change : 100 * (1 / (1 + change / 100) - 1);
}

function table(element, columns, rows) {
  const head = add(element, "tr");
  for (const [name, numeric] of columns) add(head, "th", name, numeric ? "number" : "");
  for (const cells of rows) {
    const row = add(element, "tr");
    cells.forEach((cell, index) => add(row, "td", cell, columns[index][1] ? "number" : ""));
  }
}

for (const side of ["baseline", "candidate"]) {
  const row = add(document.getElementById("sides"), "tr");
  add(row, "th", side);
  add(row, "td", data[side]);
}
if (data.gate) add(document.getElementById("gate"), "p", data.gate);

const pairs = data.pairs;
const shared = data.conditions;  // of all pairs
const common = pairs[0].conditions.filter((one) => shared.includes(one.text));
for (const [title, differs] of [["Not the same on both sides", true], ["Limits of both sides", false]]) {
  const lines = common.filter((one) => (one.baseline !== one.candidate) === differs).map((one) => one.text);
  list(document.getElementById("conditions"), title, lines);
}

const picture = document.getElementById("picture");
const shown = pairs.filter((pair) => pair.speed_pct !== null);
if (shown.length) {
  const left = 20 + 7.2 * Math.max(...shown.map((pair) => pair.title.length));
  const row = 26, width = left + 620, height = row * shown.length + 44;
  let most = 1.5 * data.resolution_pct;
  for (const pair of shown) {
    for (const end of [pair.speed_pct, speed(pair, pair.low_pct), speed(pair, pair.high_pct)]) {
      if (end !== null && Number.isFinite(end)) most = Math.max(most, 1.1 * Math.abs(end));
    }
  }
  const x = (value) => left + 300 + 290 * Math.max(-1, Math.min(1, value / most));
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("style", `max-width: ${width}px; width: 100%`);
  draw(picture, "rect", {x: x(-data.resolution_pct), y: 0, width: x(data.resolution_pct) - x(-data.resolution_pct), height: height - 36, fill: "#eef2f6"});
  draw(picture, "line", {x1: x(0), x2: x(0), y1: 0, y2: height - 36, stroke: "#1b1f24"});
  shown.forEach((pair, index) => {
    const y = row * index + row / 2, color = COLORS[pair.answer];
    draw(picture, "text", {x: left - 8, y: y + 4, "text-anchor": "end", "font-size": 12}, pair.title);
    const ends = [speed(pair, pair.low_pct), speed(pair, pair.high_pct)].filter((end) => end !== null);
    if (ends.length === 2) draw(picture, "line", {x1: x(ends[0]), x2: x(ends[1]), y1: y, y2: y, stroke: color, "stroke-width": 3});
    const dot = draw(picture, "circle", {cx: x(pair.speed_pct), cy: y, r: 5, fill: color});
    draw(dot, "title", {}, `${pair.answer} ${signed(pair.speed_pct)} %`);
  });
  const digits = most >= 10 ? 0 : most >= 1 ? 1 : 2;
  for (const part of [-1, -0.5, 0, 0.5, 1]) {
    draw(picture, "text", {x: x(part * most), y: height - 16, "text-anchor": "middle", "font-size": 12}, `${(part * most).toFixed(digits)} %`);
  }
}

const units = [...new Set(pairs.map((pair) => pair.unit))];
const sharedUnit = units.length === 1 ? `, ${units[0]}` : "";

function withInterval(pair, side) {
  const value = pair[side], ends = pair[`${side}_interval`];
  if (value === null) return "";
  const width = ends ? ` ±${significant((50 * (ends[1] - ends[0])) / value, 2)} %` : "";
  return `${fourDigits(value)}${width}${sharedUnit ? "" : " " + pair.unit}`;
}

table(
  document.getElementById("pairs"),
  [["configuration", false], ["answer", false], ["change [95 % confidence interval]", true], [`baseline${sharedUnit}`, true], [`candidate${sharedUnit}`, true], ["runs", true]],
  pairs.map((pair) => [
    pair.title,
    pair.answer,
    pair.change_pct === null ? "" : `${signed(pair.change_pct)} %` + (pair.low_pct === null ? "" : ` [${signed(pair.low_pct)}, ${pair.high_pct === null ? "∞" : signed(pair.high_pct)}]`),
    withInterval(pair, "baseline"),
    withInterval(pair, "candidate"),
    `${pair.baseline_runs.length} : ${pair.candidate_runs.length}`,
  ]),
);

const details = document.getElementById("details");
for (const pair of pairs) {
  const lines = [pair.why, pair.power].filter(Boolean);
  for (const one of pair.beside) {
    const ends = [one.baseline, one.candidate].map((value) => (value === null ? "not measured" : fourDigits(value)));
    const change = one.change_pct === null ? "" : ` (${signed(one.change_pct)} %${one.word ? ", " + one.word : ""})`;
    lines.push(`${one.label} ${ends[0]} → ${ends[1]} ${one.unit}${change}`);
  }
  for (const one of pair.conditions) {
    if (!shared.includes(one.text)) lines.push(one.text);
  }
  if (pair.run_to_run_pct !== null) lines.push(`run-to-run standard deviation ${significant(pair.run_to_run_pct, 2)} %, ${pair.run_to_run_source}`);
  lines.push(...pair.left_out.map((line) => `left out: ${line}`));
  lines.push(`runs: ${pair.baseline_runs.join(", ")} and ${pair.candidate_runs.join(", ")}`);
  list(details, pair.title, lines);
}
list(details, "Only in the baseline", data.only_in_baseline);
list(details, "Only in the candidate", data.only_in_candidate);
list(details, "Left out", data.left_out);
for (const one of data.kernels) {
  add(details, "h2", `Kernels of ${one.title}`);
  add(details, "p", one.change);
  table(add(details, "table"), one.columns.map((name, index) => [name, index > 2]), one.rows);
}
