"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
// Inside MLflow the page is in a frame that no link leaves: names and ids are there to copy.
const FRAMED = window.self !== window.top;
if (FRAMED) document.body.classList.add("framed");
const field = Object.fromEntries(data.fields.map((name, index) => [name, index]));
const runs = data.runs;

function add(parent, tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  parent.appendChild(element);
  return element;
}

function of(run, name) { return runs[run][field[name]]; }

// A value as text, with the digits that it has; empty if there is none.
function textOf(run, name) { return of(run, "texts")[Object.keys(data.headings).indexOf(name)]; }

function measured(run) { return ["valid", "unjudged", "invalid"].includes(of(run, "state")); }

// What is known of a run, for a hover.
function about(run) {
  const state = of(run, "state"), reason = of(run, "reason");
  const lines = [of(run, "name"), reason ? `${state}: ${reason}` : state];
  for (const [name, heading] of Object.entries(data.headings)) {
    const text = textOf(run, name);
    if (text) lines.push(`${heading}: ${text}${name === "throughput" ? " " + of(run, "interval") : ""}`);
  }
  lines.push(of(run, "set"), of(run, "gpu"), of(run, "date"), of(run, "id"));
  if (of(run, "others")) lines.push(`${of(run, "others")} more of this configuration, see the runs below`);
  return lines.filter(Boolean);
}

// A text that leads to the run: to MLflow, or in a frame to the list below.
function leading(parent, text, run) {
  const link = FRAMED ? "" : of(run, "link");
  const element = add(parent, "a", text);
  if (/^https?:/.test(link)) {
    element.href = link;
    element.target = "_blank";
    element.rel = "noopener";
  } else {
    element.href = "#";
    element.addEventListener("click", (event) => { event.preventDefault(); show(run); });
  }
  return element;
}

function fill(cell, content, write) {
  if (content === null) return;
  if (Array.isArray(content) || !measured(content)) {
    const [state, reason] = Array.isArray(content) ? content : [of(content, "state"), of(content, "reason")];
    cell.className = state.includes("oom") ? "oom" : "word";
    cell.title = [data.words[state], reason].filter(Boolean).join(": ");
    add(cell, "span", state === "oom" ? "OOM" : state === "predicted_oom" ? "OOM*" : data.words[state]);
    return;
  }
  if (of(content, "state") === "invalid") cell.className = "invalid";
  cell.title = about(content).join("\n");
  write(cell, content);
  const number = cell.querySelector("a, span");
  if (number && of(content, "state") === "unjudged") add(number, "span", "?", "sign");
}

function table(parent, grid, write) {
  const element = add(add(parent, "div", undefined, "wide"), "table", undefined, "results");
  const head = add(add(element, "thead"), "tr");
  add(head, "th", "batch");
  for (const batch of grid.batches) add(head, "th", batch.toLocaleString("en-US"));
  const body = add(element, "tbody");
  for (const series of grid.series) {
    const row = add(body, "tr");
    const name = add(row, "th", series.label);
    if (series.notes) add(name, "span", series.notes, "faint");
    series.cells.forEach((content, column) => fill(add(row, "td"), content, (cell, run) => write(cell, run, column, series)));
  }
  return element;
}

function quantityTable(parent, grid, quantity) {
  add(parent, "h3", quantity.heading);
  add(parent, "p", quantity.metric, "faint");
  table(parent, grid, (cell, run) => {
    const text = textOf(run, quantity.name);
    if (!text) return;
    leading(cell, text, run);
    if (quantity.interval && of(run, "interval")) add(cell, "span", of(run, "interval"), "faint");
  });
}

// The throughput divided by that of the chosen row. An invalid number takes no part.
function speedTable(parent, grid) {
  const title = add(parent, "h3", "Throughput against ");
  const choice = add(title, "select");
  choice.setAttribute("aria-label", "row that others are compared with");
  if (data.sets.length > 1) add(choice, "option", `the same configuration of ${data.sets[0]}`).value = "own";
  grid.series.forEach((series, index) => { add(choice, "option", series.label).value = index; });
  choice.value = grid.against ?? "own";
  const place = add(parent, "div");
  function draw() {
    place.replaceChildren();
    let found = false;
    const element = table(place, grid, (cell, run, column, series) => {
      const baseline = choice.value === "own" ? grid.series.find((one) => one.look === series.look && one.set === 0) : grid.series[Number(choice.value)];
      if (choice.value === "own" && baseline?.steps[column] !== series.steps[column]) return; // another configuration
      const base = baseline?.cells[column];
      if (typeof base !== "number" || [base, run].some((one) => !measured(one) || of(one, "state") === "invalid")) return;
      found = true;
      const decimals = choice.value === "own" ? 3 : 2; // one configuration in two sets differs by per mille
      add(cell, "span", `${(of(run, "throughput") / of(base, "throughput")).toFixed(decimals)}×`);
      if (run !== base && of(run, "interval") && of(base, "interval")) {
        const ends = [of(run, "low") / of(base, "high"), of(run, "high") / of(base, "low")];
        add(cell, "span", `[${ends.map((end) => end.toFixed(decimals)).join(", ")}]`, "faint");
      }
    });
    if (!found) element.remove();
    add(place, "p", found ? "In brackets: from the confidence intervals of the passes. Runs of one configuration differ by more; ttt-mlflow compare counts that in." : `${data.no_speedups}.`, "faint");
  }
  choice.addEventListener("change", draw);
  draw();
}

function legend(parent, grid) {
  const states = new Set(grid.series.flatMap((series) => series.cells).filter((one) => one !== null).map((one) => (Array.isArray(one) ? one[0] : of(one, "state"))));
  const line = add(parent, "p", undefined, "faint");
  add(line, "span", "[…] 95 % confidence interval");
  const signs = [["invalid", "invalid", "invalid: the reason is shown on hover"], ["oom", "oom", "OOM: out of memory"], ["predicted_oom", "oom", "OOM*: out of memory, predicted and not tried"]];
  const text = add(line, "span", states.has("unjudged") ? ";  ? not judged" : "");
  text.style.whiteSpace = "pre";
  for (const [state, className, told] of signs) {
    if (!states.has(state)) continue;
    const key = add(line, "i", undefined, "key");
    key.style.background = className === "oom" ? "repeating-linear-gradient(135deg, transparent 0 4px, var(--gray) 4px 5px)" : "var(--pale)";
    add(line, "span", told);
  }
}

// Charts

function theme() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["text", "faint", "back", "grid", "line"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function traces(grid, chart, colors) {
  const found = [];
  if (chart.front.length) {
    found.push({x: chart.front.map((one) => one[0]), y: chart.front.map((one) => one[1]), mode: "lines", name: "Pareto front", line: {shape: "hv", color: colors.line, width: 8}, hoverinfo: "skip"});
  }
  for (const line of chart.lines) {
    const series = grid.series[line.series];
    if (series.hidden) continue;
    const color = data.looks.colors[series.look % data.looks.colors.length];
    const symbol = data.looks.markers[series.look % data.looks.markers.length];
    const dash = data.looks.dashes[series.set % data.looks.dashes.length];
    if (line.curve && line.curve.length) {
      found.push({x: line.curve.map((one) => one[0]), y: line.curve.map((one) => one[1]), mode: "lines", name: series.label, legendgroup: series.label, showlegend: false, line: {color, dash, width: 2}, hoverinfo: "skip"});
    }
    for (const end of line.ends) {
      found.push({x: end.map((one) => one[0]), y: end.map((one) => one[1]), mode: "lines", name: series.label, legendgroup: series.label, showlegend: false, line: {color, dash: "dot", width: 1.5}, hoverinfo: "skip"});
    }
    const parts = {false: line.points.filter((one) => one[5] !== "invalid"), true: line.points.filter((one) => one[5] === "invalid")};
    for (const [invalid, points] of Object.entries(parts)) {
      if (!points.length) continue;
      const pale = invalid === "true";
      const trace = {
        x: points.map((one) => one[1]),
        y: points.map((one) => one[2]),
        customdata: points.map((one) => one[0]),
        text: points.map((one) => about(one[0]).map(escaped).join("<br>")),
        hovertemplate: "%{text}<extra></extra>",
        name: series.label,
        legendgroup: series.label,
        showlegend: !pale || !parts.false.length,
        mode: pale || line.curve ? "markers" : "lines+markers",
        line: {color, dash, width: 2},
        marker: {color, opacity: pale ? 0.4 : 1, size: pale ? 11 : 8, line: {width: 1.5, color}, symbol: points.map((one) => (["unjudged", "predicted_oom"].includes(one[5]) ? `${symbol}-open` : one[5] === "missing" ? `${symbol}-open-dot` : symbol))},
      };
      if (points.some((one) => one[3] !== null)) {
        const far = (end, sign) => points.map((one) => (one[end] === null ? 0 : Math.max(0, sign * (one[end] - one[2]))));
        trace.error_y = {type: "data", symmetric: false, array: far(4, 1), arrayminus: far(3, -1), thickness: 1, width: 3, color: pale ? `${color}59` : color};
      }
      found.push(trace);
      if (pale) found.push({x: trace.x, y: trace.y, mode: "markers", name: "invalid", legendgroup: series.label, showlegend: false, marker: {symbol: "x-thin-open", size: 6, color, line: {width: 1.5}}, hoverinfo: "skip"});
    }
  }
  if (chart.marks.length) {
    found.push({x: chart.marks.map((one) => one[0]), y: chart.marks.map((one) => one[1]), text: chart.marks.map((one) => one[2]), mode: "markers+text", name: "crossing", textposition: "top right", textfont: {size: 11}, marker: {symbol: "diamond-open", size: 11, color: colors.text, line: {width: 1.5}}, hovertemplate: "crossing at a context of %{text} tokens<extra></extra>"});
  }
  if (chart.best) {
    found.push({x: [chart.best[0]], y: [chart.best[1]], mode: "markers", name: "best within the limit", marker: {symbol: "circle-open", size: 20, color: colors.text, line: {width: 2}}, hoverinfo: "skip"});
  }
  return found;
}

// Plotly reads a few tags of HTML in its texts.
function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

// The ends of the y axis: from the points of the lines that are not hidden. The bar of a run with few passes can be a
// thousand times its value: no bar decides it, unless the chart is about the bars.
function yRange(grid, chart) {
  const points = chart.lines.filter((line) => !grid.series[line.series].hidden).flatMap((line) => line.points);
  const values = points.flatMap((one) => (chart.whole_bars ? one.slice(2, 5) : [one[2]])).filter(Boolean);
  if (!chart.logarithmic) return [0, 1.1 * Math.max(...values, 0) || 1];
  const [low, high] = [Math.min(...values), Math.max(...values)].map(Math.log10);
  const beyond = low < high ? 0.05 * (high - low) : 0.1;
  return values.length ? [low - beyond, high + beyond] : undefined;
}

function draw(place, grid, chart) {
  const colors = theme();
  const axis = {gridcolor: colors.grid, zerolinecolor: colors.grid, linecolor: colors.faint, ticks: "outside", tickcolor: colors.faint, automargin: true};
  const shapes = chart.limit === null ? [] : [{type: "line", xref: "x", yref: "paper", x0: chart.limit, x1: chart.limit, y0: 0, y1: 1, line: {color: colors.faint, dash: "dot", width: 1.5}}];
  const layout = {
    font: {family: "system-ui, sans-serif", size: 12, color: colors.text},
    paper_bgcolor: colors.back,
    plot_bgcolor: colors.back,
    margin: {l: 60, r: 12, t: 12, b: 44},
    xaxis: {...axis, type: "log", title: {text: escaped(chart.x)}, ...chart.ticks},
    yaxis: {...axis, type: chart.logarithmic ? "log" : "linear", title: {text: escaped(chart.y)}, range: yRange(grid, chart), tickformat: ",~r", ...(chart.logarithmic ? chart.y_ticks : {})},
    showlegend: false,
    hovermode: "closest",
    hoverlabel: {align: "left", bgcolor: colors.back, font: {color: colors.text, size: 12}},
    shapes,
  };
  const settings = {displaylogo: false, responsive: true, displayModeBar: "hover", modeBarButtons: [[...(FRAMED ? [] : ["toImage"]), "zoom2d", "pan2d", "resetScale2d"]], toImageButtonOptions: {format: "svg", filename: `${grid.kind}-${chart.name}`}};
  Plotly.react(place, traces(grid, chart, colors), layout, settings);
}

// One legend for all charts of a grid: a click hides a series in each of them.
function chartLegend(parent, grid, places) {
  const line = add(parent, "p", undefined, "legends");
  const shown = grid.series.filter((_, index) => grid.charts.some((chart) => chart.lines.some((one) => one.series === index)));
  for (const series of shown) {
    const color = data.looks.colors[series.look % data.looks.colors.length];
    const label = add(line, "label");
    label.style.cssText = "margin-right: 18px; white-space: nowrap; display: inline-block";
    const box = add(label, "input");
    box.type = "checkbox";
    box.checked = true;
    const key = add(label, "span", "");
    key.style.cssText = `display: inline-block; width: 24px; margin: 0 5px; border-top: 3px ${["solid", "dashed", "dotted", "double"][series.set % 4]} ${color}; vertical-align: 4px`;
    add(label, "span", `${data.looks.glyphs[series.look % data.looks.glyphs.length]} `).style.color = color;
    add(label, "span", series.label);
    box.addEventListener("change", () => {
      series.hidden = !box.checked;
      places.forEach((place, number) => draw(place, grid, grid.charts[number]));
    });
  }
  const states = new Set(grid.charts.flatMap((chart) => chart.lines).flatMap((one) => one.points).map((point) => point[5]));
  const signs = states.has("invalid") ? ["Crossed out, pale: invalid."] : [];
  if (grid.charts.some((chart) => chart.front.length)) signs.push("Gray steps: the Pareto front.");
  if (grid.kind !== "context") signs.push("Hollow: not judged. Bars: 95 % confidence interval, cut where the axis ends.");
  add(line, "span", signs.join(" "), "faint");
}

const grids = document.getElementById("grids");
const drawn = [];
for (const grid of data.grids) {
  add(grids, "h2", grid.kind === "decode" ? "Decode" : "Prefill");
  add(grids, "p", grid.shared, "faint");
  const [first, ...others] = grid.quantities;
  quantityTable(grids, grid, first);
  legend(grids, grid);
  if (grid.series.length > 1) speedTable(grids, grid);
  const place = add(grids, "div", undefined, "charts");
  const places = grid.charts.map((chart) => {
    const panel = add(place, "div", undefined, "panel");
    add(panel, "h3", chart.title);
    const one = add(panel, "div", undefined, "chart");
    one.dataset.chart = chart.name;
    drawn.push([one, grid, chart]);
    return one;
  });
  const legends = add(grids, "div");
  grids.insertBefore(legends, place);
  chartLegend(legends, grid, places);
  for (const quantity of others) quantityTable(grids, grid, quantity);
}
if (data.contexts) {
  const block = data.contexts;
  add(grids, "h2", "Over the context");
  for (const one of block.crossings) {
    add(grids, "h3", `Crossings, ${one.batch}`);
    const element = add(add(grids, "div", undefined, "wide"), "table", undefined, "results");
    const head = add(add(element, "thead"), "tr");
    for (const column of one.columns) add(head, "th", column);
    const body = add(element, "tbody");
    for (const cells of one.rows) {
      const row = add(body, "tr");
      cells.forEach((text, column) => add(row, column ? "td" : "th", text));
    }
    add(grids, "p", `${block.about}.`, "faint");
  }
  const legends = add(grids, "div");
  const place = add(grids, "div", undefined, "charts");
  const places = block.charts.map((chart) => {
    const panel = add(place, "div", undefined, "panel");
    add(panel, "h3", chart.title);
    const one = add(panel, "div", undefined, "chart");
    one.dataset.chart = chart.name;
    drawn.push([one, block, chart]);
    return one;
  });
  chartLegend(legends, block, places);
  if (block.charts.some((chart) => chart.name.startsWith("fits"))) {
    add(grids, "p", "Highest batch: filled, the next larger one that was tried does not fit; hollow, that was predicted; with a dot, no larger one was tried. The bar ends at the batch that does not fit.", "faint");
  }
}
function drawAll() {
  for (const one of drawn) draw(...one);
}
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

const best = document.getElementById("best");
if (data.best.length) best.className = "best";
for (const line of data.best) add(best, "p", line);
for (const line of data.notes) add(document.getElementById("notes"), "li", line);

// All runs, to search and to sort

const COLUMNS = [["name", "run"], ["id", "id"], ["date", "date"], ...(data.sets.length > 1 ? [["set", "set"]] : []), ["model", "model"], ["batch", "batch"], ...Object.entries(data.headings), ["state", "verdict"], ["reason", "why"], ["gpu", "GPU"], ["commit", "commit"]];
const NUMBERS = new Set(["batch", ...Object.keys(data.headings)]);
const texts = runs.map((run) => run.map((value) => String(value ?? "").toLowerCase()).join(" "));
const rows = new Map();
let order = runs.map((_, run) => run);
let sorting = null;

const list = document.getElementById("list");
const search = document.getElementById("search");
document.getElementById("about").textContent = FRAMED
  ? "No link leaves this frame: click a name or an id to select it for copying. results.md, beside this page, has links to all runs."
  : "A click on a heading sorts. A name leads to its run in MLflow where that is known.";

const head = add(list.tHead, "tr");
for (const [name, heading] of COLUMNS) {
  const cell = add(head, "th", heading, NUMBERS.has(name) ? "number" : "");
  cell.tabIndex = 0;
  const sort = () => sortBy(name, cell);
  cell.addEventListener("click", sort);
  cell.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}

function rowOf(run) {
  if (!rows.has(run)) {
    const row = document.createElement("tr");
    if (of(run, "state") === "invalid") row.className = "invalid";
    for (const [name] of COLUMNS) {
      const value = of(run, name);
      const cell = add(row, "td", undefined, NUMBERS.has(name) ? "number" : name);
      const link = of(run, "link");
      if (name === "name" && !FRAMED && /^https?:/.test(link)) leading(cell, value, run);
      else cell.textContent = value === null ? "" : typeof value !== "number" ? value : name === "batch" ? value.toLocaleString("en-US") : textOf(run, name);
    }
    rows.set(run, row);
  }
  return rows.get(run);
}

function listRuns() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = order.filter((run) => words.every((word) => texts[run].includes(word)));
  list.tBodies[0].replaceChildren(...found.map(rowOf));
  document.getElementById("count").textContent = found.length === runs.length ? `${runs.length.toLocaleString("en-US")} ${runs.length === 1 ? "run" : "runs"}` : `${found.length.toLocaleString("en-US")} of ${runs.length.toLocaleString("en-US")} runs`;
}

// Runs without the value come last in both directions.
function sortBy(name, cell) {
  const down = sorting === name ? cell.getAttribute("aria-sort") === "ascending" : NUMBERS.has(name) && name !== "batch";
  sorting = name;
  for (const other of head.cells) other.removeAttribute("aria-sort");
  cell.setAttribute("aria-sort", down ? "descending" : "ascending");
  const empty = (run) => of(run, name) === null || of(run, name) === "";
  order.sort((one, other) => {
    if (empty(one) || empty(other)) return empty(one) - empty(other);
    const [left, right] = [of(one, name), of(other, name)];
    const sign = typeof left === "number" ? left - right : left < right ? -1 : left > right ? 1 : 0;
    return down ? -sign : sign;
  });
  listRuns();
}

function show(run) {
  search.value = "";
  listRuns();
  for (const row of rows.values()) row.classList.remove("found");
  rowOf(run).classList.add("found");
  rowOf(run).scrollIntoView({block: "center"});
}

search.addEventListener("input", listRuns);
listRuns();
document.body.dataset.ready = "true";
