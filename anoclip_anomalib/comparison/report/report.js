"use strict";
// Sortable tables: a click on a header sorts by data-value; rows of class mean and quoted keep the end.
document.querySelectorAll("table.sortable").forEach(table => {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const fixed = row => row.classList.contains("mean") ? 1 : row.classList.contains("quoted") ? 2 : 0;
      const value = row => row.cells[column].dataset.value;
      [...body.rows].sort((a, b) => {
        if (fixed(a) !== fixed(b)) return fixed(a) - fixed(b);
        const x = value(a), y = value(b);
        if (x === undefined || y === undefined || x === "" || y === "") return (x ? 0 : 1) - (y ? 0 : 1);
        const n = Number(x) - Number(y);
        const order = Number.isNaN(n) ? String(x).localeCompare(String(y)) : n;
        return down === (column > 0) ? -order : order;
      }).forEach(row => body.append(row));
    });
  });
});

const COLOURS = ["#3b82f6", "#ef7d0a", "#16a34a", "#d946ef", "#e11d48", "#0ea5a4", "#a16207", "#7c5cff", "#64748b", "#b45309"];
const SVG = "http://www.w3.org/2000/svg";
function node(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
function frame(title, xTitle, yTitle, xTicks, yTicks, xAt, yAt) {
  const box = document.createElement("div");
  box.className = "chart";
  const head = document.createElement("h4");
  head.textContent = title;
  const svg = node("svg", {viewBox: "0 0 372 260", role: "img", "aria-label": title});
  for (const [value, label] of xTicks) {
    svg.append(node("line", {class: "gridline", x1: xAt(value), x2: xAt(value), y1: 10, y2: 215}));
    svg.append(node("text", {x: xAt(value), y: 230, "text-anchor": "middle"}, label));
  }
  for (const [value, label] of yTicks) {
    svg.append(node("line", {class: "gridline", x1: 45, x2: 350, y1: yAt(value), y2: yAt(value)}));
    svg.append(node("text", {x: 40, y: yAt(value) + 4, "text-anchor": "end"}, label));
  }
  svg.append(node("path", {class: "axis", fill: "none", d: "M45 10V215H350"}));
  svg.append(node("text", {x: 197, y: 250, "text-anchor": "middle"}, xTitle));
  svg.append(node("text", {x: 0, y: 0, "text-anchor": "middle", transform: "translate(11 112) rotate(-90)"}, yTitle));
  box.append(head, svg);
  return [box, svg];
}
const linear = (low, high, from, to) => value => from + (value - low) / ((high - low) || 1) * (to - from);
function ticks(low, high, count, digits) {
  return Array.from({length: count + 1}, (_, i) => low + (high - low) * i / count).map(v => [v, v.toFixed(digits)]);
}
function curveChart(title, xTitle, yTitle, name, entries, models, limit) {
  const xAt = linear(0, limit, 45, 350), yAt = linear(0, 1, 215, 10);
  const [box, svg] = frame(title, xTitle, yTitle, ticks(0, limit, limit < 1 ? 3 : 5, 1), ticks(0, 1, 5, 1), xAt, yAt);
  let any = false;
  models.forEach((model, i) => {
    const curve = entries[model] && entries[model][name];
    if (!curve) return;
    any = true;
    let d = "";
    curve.x.forEach((x, k) => { if (x <= limit * 1.0001) d += (d ? "L" : "M") + xAt(x).toFixed(1) + " " + yAt(curve.y[k]).toFixed(1); });
    const path = node("path", {d, fill: "none", stroke: COLOURS[i % COLOURS.length], "stroke-width": 2, "stroke-dasharray": i < COLOURS.length ? "" : "5 3"});
    path.append(node("title", {}, model));
    svg.append(path);
  });
  return any ? box : null;
}
function histogramChart(model, histogram, colour) {
  const bins = histogram.normal.length;
  if (!bins) return null;
  const [low, high] = histogram.edges;
  const share = list => { const sum = list.reduce((a, b) => a + b, 0) || 1; return list.map(v => v / sum); };
  const normal = share(histogram.normal), anomalous = share(histogram.anomalous);
  const top = Math.max(...normal, ...anomalous);
  const xAt = linear(low, high, 45, 350), yAt = linear(0, top, 215, 10);
  const digits = Math.max(1, Math.min(6, Math.ceil(-Math.log10((high - low) || 1)) + 2));
  const [box, svg] = frame(model, "image score", "share of images", ticks(low, high, 4, digits), ticks(0, top, 4, 2), xAt, yAt);
  const width = (350 - 45) / bins;
  normal.forEach((value, k) => svg.append(node("rect", {x: 45 + k * width, width, y: yAt(value), height: 215 - yAt(value), fill: "#8a94a0", "fill-opacity": .65})));
  anomalous.forEach((value, k) => svg.append(node("rect", {x: 45 + k * width, width, y: yAt(value), height: 215 - yAt(value), fill: colour, "fill-opacity": .6})));
  return box;
}
// Where a name of this width covers no point and no other name: right of its point, left of it, else above or below, ever further away.
function freePlace(x, y, width, taken) {
  const free = (left, baseline) => left >= 47 && left + width <= 370 && baseline >= 12 && baseline <= 212
    && !taken.some(([x0, y0, x1, y1]) => left < x1 && left + width > x0 && baseline - 10 < y1 && baseline + 3 > y0);
  const middle = Math.max(47, Math.min(x - width / 2, 370 - width));
  for (let away = 0; away < 200; away += 4) {
    for (const baseline of [y + 4 + away, y + 4 - away]) {
      for (const left of [x + 8, x - 8 - width, middle]) if (free(left, baseline)) return [left, baseline];
    }
  }
  return [middle, y + 18];
}
function speedChart(chart, metric, title) {
  const points = chart.models.map((model, i) => [model, chart.speed[model].median_s, chart.speed[model].metrics[metric], i])
    .filter(point => point[1] > 0 && point[2] !== null && point[2] !== undefined);
  if (!points.length) return null;
  const times = points.map(p => Math.log10(p[1] * 1000)), values = points.map(p => 100 * p[2]);
  const low = Math.floor(Math.min(...times)), high = Math.max(Math.ceil(Math.max(...times)), low + 1);
  const step = Math.max(...values) - Math.min(...values) > 35 ? 20 : 10;
  const bottom = Math.max(0, Math.floor((Math.min(...values) - 2 - step) / step) * step), top = Math.min(100, Math.ceil((Math.max(...values) + 2) / step) * step);
  const xAt = linear(low, high, 55, 340), yAt = linear(bottom, top, 215, 10);
  const xTicks = Array.from({length: high - low + 1}, (_, i) => [low + i, String(+(10 ** (low + i)).toPrecision(2))]);
  const [box, svg] = frame("Speed against accuracy", "milliseconds per image (median, logarithmic)", title, xTicks, ticks(bottom, top, Math.max(1, Math.round((top - bottom) / step)), 0), xAt, yAt);
  const places = points.map(([model,, , i], k) => ({model, i, x: xAt(times[k]), y: yAt(values[k])}));
  const taken = places.map(({x, y}) => [x - 6, y - 6, x + 6, y + 6]);
  places.forEach(({model, i, x, y}) => {
    svg.append(node("circle", {cx: x, cy: y, r: 5, fill: COLOURS[i % COLOURS.length]}));
    const width = 6.3 * model.length, [left, baseline] = freePlace(x, y, width, taken);
    taken.push([left, baseline - 10, left + width, baseline + 3]);
    svg.append(node("text", {x: left, y: baseline}, model));
  });
  return box;
}
const charts = JSON.parse(document.getElementById("charts-data").textContent);
document.querySelectorAll("section.drawings").forEach((section, index) => {
  const chart = charts[index], select = section.querySelector("select.category"), metric = section.querySelector("select.metric");
  const draw = () => {
    const entries = select.value === "" ? chart.mean : chart.categories[select.value.slice(1)];
    // Scores of different categories share no scale: without a choice the histograms show the first category.
    const category = select.value === "" ? Object.keys(chart.categories)[0] : select.value.slice(1);
    const scored = chart.categories[category] || {};
    section.querySelector(".scored").textContent = category === undefined ? "" : ": " + category;
    const fill = (name, boxes) => {
      const place = section.querySelector(name), kept = boxes.filter(Boolean);
      place.replaceChildren(...kept);
      if (!kept.length) place.textContent = "Nothing to draw here.";
    };
    fill(".curves", [
      curveChart("Image ROC", "false positive rate", "true positive rate", "image_roc", entries, chart.models, 1),
      curveChart("Pixel ROC", "false positive rate", "true positive rate", "pixel_roc", entries, chart.models, 1),
      curveChart("PRO up to a false positive rate of 0.3", "false positive rate", "mean region overlap", "pro", entries, chart.models, .3),
      metric && metric.value ? speedChart(chart, metric.value, metric.selectedOptions[0].textContent) : null]);
    fill(".histograms", chart.models.map((model, i) => scored[model] && scored[model].histogram
      ? histogramChart(model, scored[model].histogram, COLOURS[i % COLOURS.length]) : null));
  };
  section.querySelectorAll(".legend span").forEach((span, i) => span.style.setProperty("--c", COLOURS[i % COLOURS.length]));
  select.addEventListener("change", draw);
  if (metric) metric.addEventListener("change", draw);
  draw();
});
document.querySelectorAll("section.per-category").forEach(section => {
  const select = section.querySelector("select");
  const show = () => section.querySelectorAll("[data-metric]").forEach(part => { part.hidden = part.dataset.metric !== select.value; });
  select.addEventListener("change", show);
  show();
});
