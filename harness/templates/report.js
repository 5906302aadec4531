"use strict";
// Light and dark, copying, and the charts of the page of a run. Nothing here knows what a chart shows.

const data = JSON.parse(document.getElementById("data").textContent);

// Colours: a figure names those of the style sheet, "var(--ok)", because plotly knows no style sheets.

const probe = document.body.appendChild(document.createElement("i"));
probe.hidden = true;

function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

function coloured(value) {
  if (typeof value === "string") return value.startsWith("var(--") ? colour(value.slice(6, -1)) : value;
  if (Array.isArray(value)) return value.map(coloured);
  if (value && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, coloured(part)]));
  }
  return value;
}

function mixed(name, share) {
  // The colour laid over the paper so thinly that `share` of it is left.
  const [over, under] = [colour(name), colour("paper")].map((text) => text.match(/[\d.]+/g).map(Number));
  return `rgb(${over.slice(0, 3).map((part, i) => Math.round(part * share + under[i] * (1 - share))).join(",")})`;
}

function themed(layout) {
  const ink = colour("ink"), faint = colour("faint"), line = colour("line");
  const own = coloured(layout);
  const out = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, ...own,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: faint, ...own.font },
    margin: { l: 56, r: 12, t: 8, b: 40, ...own.margin },
    hoverlabel: { bgcolor: colour("panel"), bordercolor: line, font: { color: ink, size: 12 }, align: "left", ...own.hoverlabel },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", ...own.legend },
  };
  for (const axis of new Set(["xaxis", "yaxis", ...Object.keys(own).filter((key) => /^[xy]axis\d*$/.test(key))])) {
    const { title, ...rest } = own[axis] ?? {};
    out[axis] = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, ...rest };
    if (title) out[axis].title = { font: { size: 12 }, standoff: 8, ...title };
  }
  return out;
}

const CONFIG = { displaylogo: false, responsive: true, showTips: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

// Charts are drawn when they come into sight: a page opens at its verdict.

function draw(place) {
  place.drawn = true;
  const { data: traces, layout } = data.charts[Number(place.dataset.chart)];
  const height = place.clientHeight;
  return Plotly.react(place, coloured(traces), themed({ ...layout, height }), CONFIG);
}

const places = [...document.querySelectorAll("[data-chart]")];
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting && !target.drawn) draw(target);
}, { rootMargin: "300px" });
places.forEach((place) => seen.observe(place));
addEventListener("beforeprint", () => places.filter((place) => !place.drawn).forEach(draw));

// Light and dark.

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function recolour() {
  places.filter((place) => place.drawn).forEach(draw);
  document.dispatchEvent(new Event("recolour"));
}

function remembered(theme) {
  // A page that was opened as a file may be refused its storage.
  try {
    if (theme) localStorage.setItem("harness-theme", theme);
    return localStorage.getItem("harness-theme");
  } catch {
    return null;
  }
}

function turnLight() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  remembered(document.documentElement.dataset.theme);
  recolour();
}

if (remembered()) document.documentElement.dataset.theme = remembered();
document.getElementById("theme").addEventListener("click", turnLight);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
addEventListener("keydown", (event) => {
  if (event.key === "t" && !event.ctrlKey && !event.metaKey && !event.altKey) turnLight();
});

// Copying. A page that was opened as a file may be refused the clipboard; then the old way, and then the selection.

async function copy(text, beside) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(beside);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return document.execCommand("copy");
  }
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const copied = await copy(button.dataset.copy, button.parentElement.querySelector("code"));
    button.textContent = copied ? "Copied" : "Press Ctrl-C";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}

// A link to a failure unfolds it.

function unfold() {
  const target = location.hash.startsWith("#failure-") && document.getElementById(location.hash.slice(1));
  if (target) target.open = true;
}

addEventListener("hashchange", unfold);
unfold();
