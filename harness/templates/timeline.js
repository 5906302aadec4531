"use strict";
// The timeline of a campaign: operations in typed arrays, of which plotly is given only what can be seen.

(async () => {
  const BARS_MAX = 2500; // more than so many bars would be slow, and too thin to be seen
  const CELL_PX = 3;
  const LEVELS = 4; // of how busy a cell was
  const SPAN_MIN = 20; // microseconds
  const CATEGORIES = [...data.timeline.kinds, "fail", "info", "bad"];
  const [FAIL, INFO, BAD] = [CATEGORIES.length - 3, CATEGORIES.length - 2, CATEGORIES.length - 1];
  const DID = { lock: "held the lock", repair: "finished what a dead process had begun," };
  const SAID = { ok: "took effect", fail: "had no effect", info: "not known whether it took effect" };
  const { lanes, kinds, states, outcomes, workloads, violating } = data.timeline; // the first kinds are no operations
  const plot = document.getElementById("plot"), details = document.getElementById("details");
  const range = document.getElementById("range");

  // Reading.

  async function inflated(id) {
    const text = document.getElementById(id).textContent;
    const packed = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  }

  function columnsOf(buffer, count, widths) {
    const bytes = new Uint8Array(buffer);
    let at = 0;
    return widths.map((width) => {
      const column = width === 1 ? new Uint8Array(count) : new Uint32Array(count);
      for (let plane = 0; plane < width; plane++, at += count) {
        for (let i = 0; i < count; i++) column[i] |= bytes[at + i] << (8 * plane);
      }
      return column;
    });
  }

  function operationsOf(buffer) {
    const count = data.timeline.count;
    const [deltas, durations, processes, gaps, codes, loads] = columnsOf(buffer, count, [4, 4, 4, 4, 1, 1]);
    const start = new Float64Array(count), end = new Float64Array(count);
    const lane = new Uint16Array(count), index = new Uint32Array(count);
    const sizes = new Uint32Array(lanes.length + 1), last = new Uint32Array(laneOf.length), present = new Uint8Array(kinds.length);
    for (let i = 0, now = data.timeline.first; i < count; i++) {
      now += deltas[i];
      start[i] = now;
      end[i] = now + durations[i];
      lane[i] = laneOf[processes[i]];
      sizes[lane[i] + 1]++;
      present[Math.floor(codes[i] / 3)] = 1;
      index[i] = last[processes[i]] += gaps[i] + (codes[i] < 3 * states ? 0 : 1);
    }
    // Of each lane the operations in their order: one ends before the next begins, so that both ends can be searched.
    for (let i = 0; i < lanes.length; i++) sizes[i + 1] += sizes[i];
    const inLane = new Uint32Array(count), next = sizes.slice();
    for (let i = 0; i < count; i++) inLane[next[lane[i]]++] = i;
    return { count, start, end, lane, index, process: processes, code: codes, workload: loads, inLane, first: sizes, present };
  }

  function heldOf(buffer) {
    // The same of locks and repairs: of each lane, one after the other, so in a row of its own for each of the two.
    const { count, first: begin, kinds: whats } = data.timeline.held;
    const [deltas, durations, processes, codes] = columnsOf(buffer, count, [4, 4, 4, 1]);
    const start = new Float64Array(count), end = new Float64Array(count), row = new Uint32Array(count);
    const first = new Uint32Array(lanes.length * whats.length + 1), present = new Uint8Array(whats.length);
    for (let i = 0, now = begin; i < count; i++) {
      now += deltas[i];
      start[i] = now;
      end[i] = now + durations[i];
      row[i] = laneOf[processes[i]] * whats.length + codes[i];
      first[row[i] + 1]++;
      present[codes[i]] = 1;
    }
    for (let i = 1; i < first.length; i++) first[i] += first[i - 1];
    const inLane = new Uint32Array(count), next = first.slice();
    for (let i = 0; i < count; i++) inLane[next[row[i]]++] = i;
    return { start, end, process: processes, inLane, first, whats, present };
  }

  plot.classList.add("waiting");
  const told = JSON.parse(new TextDecoder().decode(await inflated("told")));
  const lives = told.lives.map(([process, lane, born, died, role, end]) => ({ process, lane, born, died, role, end }));
  const lifeOf = new Map(lives.map((life) => [life.process, life]));
  const laneOf = new Uint16Array(1 + lives.reduce((most, life) => Math.max(most, life.process), 0));
  for (const life of lives) laneOf[life.process] = life.lane;
  const ops = operationsOf(await inflated("columns")), held = heldOf(await inflated("held"));
  const [FIRST, UNTIL] = [Math.min(data.timeline.first, 0), data.timeline.until];

  const name = (i) => `${ops.process[i]}.${ops.index[i]}`;
  const kindOf = (i) => Math.floor(ops.code[i] / 3);
  const outcomeOf = (i) => outcomes[ops.code[i] % 3];
  const bad = new Set(violating.map(find).filter((i) => i >= 0));
  const badInOrder = [...bad].sort((a, b) => ops.start[a] - ops.start[b]);
  const categoryOf = (i) => (bad.has(i) ? BAD : ops.code[i] % 3 === 2 ? INFO : ops.code[i] % 3 === 1 ? FAIL : kindOf(i));

  function firstInLane(lane, time, ends, of = ops) {
    // The place in `inLane` of the lane's first operation that ends (or begins) at `time` or later.
    let [low, high] = [of.first[lane], of.first[lane + 1]];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (ends[of.inLane[middle]] < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function find(text) {
    const [process, index] = text.split(".").map(Number);
    const life = lifeOf.get(process);
    if (!life) return -1;
    const stop = ops.first[life.lane + 1];
    for (let at = firstInLane(life.lane, life.born, ops.end); at < stop; at++) {
      const i = ops.inLane[at];
      if (ops.process[i] === process && ops.index[i] === index) return i;
      if (ops.start[i] > life.died) break;
    }
    return -1;
  }

  // What can be seen.

  let shown = [0, UNTIL]; // microseconds
  let chosen = -1;

  function visible(from, until) {
    return lanes.map((_, lane) => [firstInLane(lane, from, ops.end), firstInLane(lane, until, ops.start)]);
  }

  function bars(spans) {
    const base = [], x = [], y = [], colours = [], shapes = [], ids = [];
    const palette = CATEGORIES.map(colour);
    for (const [low, high] of spans) {
      for (let at = low; at < high; at++) {
        const i = ops.inLane[at], category = categoryOf(i);
        base.push(ops.start[i] / 1e6);
        x.push((ops.end[i] - ops.start[i]) / 1e6);
        y.push(ops.lane[i]);
        colours.push(palette[category === FAIL ? kindOf(i) : category]);
        shapes.push(category === FAIL ? "/" : "");
        ids.push(i);
      }
    }
    return {
      type: "bar", name: "bars", orientation: "h", base, x, y, width: 0.62, customdata: ids, text: ids.map(said), textposition: "none",
      marker: { color: colours, line: { color: colours, width: 0.8 }, pattern: { shape: shapes, fgcolor: colour("paper"), size: 5, solidity: 0.4 } },
      hovertemplate: "%{text}<extra></extra>",
    };
  }

  function density(spans, from, until) {
    const bins = Math.max(60, Math.floor(plot.clientWidth / CELL_PX)), width = (until - from) / bins, size = CATEGORIES.length;
    const busy = new Float32Array(lanes.length * bins * size), counts = new Uint32Array(lanes.length * bins * size);
    spans.forEach(([low, high], lane) => {
      for (let at = low; at < high; at++) {
        const i = ops.inLane[at], category = categoryOf(i), start = ops.start[i], end = ops.end[i];
        let bin = Math.max(0, Math.floor((start - from) / width));
        const last = Math.min(bins - 1, Math.floor((end - from) / width));
        counts[(lane * bins + Math.min(bin, bins - 1)) * size + category]++;
        for (; bin <= last; bin++) {
          const left = from + bin * width;
          busy[(lane * bins + bin) * size + category] += Math.max(Math.min(end, left + width) - Math.max(start, left), width / 1e4);
        }
      }
    });
    const z = [], text = [];
    for (let lane = 0; lane < lanes.length; lane++) {
      const row = [], words = [];
      for (let bin = 0; bin < bins; bin++) {
        const [value, label] = cell((lane * bins + bin) * size, busy, counts, width);
        row.push(value);
        words.push(label);
      }
      z.push(row);
      text.push(words);
    }
    return {
      type: "heatmap", name: "cells", z, text, x0: (from + width / 2) / 1e6, dx: width / 1e6, y0: 0, dy: 1, ygap: 5, showscale: false,
      zmin: 0, zmax: CATEGORIES.length * LEVELS, colorscale: scale(), hovertemplate: "%{text}<extra></extra>", hoverongaps: false,
    };
  }

  function cell(at, busy, counts, width) {
    // The worst that is in it decides, else what took most of the time; violating and unknown ones are never faint.
    let most = -1, total = 0, words = "";
    for (let category = 0; category < CATEGORIES.length; category++) {
      const time = busy[at + category];
      if (!time) continue;
      total += time;
      if (category >= INFO || most < 0 || (most < INFO && time > busy[at + most])) most = category;
      if (counts[at + category]) words += `<br>${counts[at + category]} ${called(CATEGORIES[category])}`;
    }
    if (most < 0) return [null, ""];
    const level = most >= INFO ? LEVELS - 1 : Math.min(LEVELS - 1, Math.floor((total / width) * LEVELS));
    return [most * LEVELS + level + 0.5, `busy ${Math.min(100, Math.round((total / width) * 100))} %${words}`];
  }

  function scale() {
    const steps = CATEGORIES.length * LEVELS;
    return CATEGORIES.flatMap((category, i) =>
      Array.from({ length: LEVELS }, (_, level) => {
        const shade = mixed(category, 0.4 + (0.6 * (level + 1)) / LEVELS), step = i * LEVELS + level;
        return [[step / steps, shade], [(step + 1) / steps, shade]];
      }).flat());
  }

  function marks(from, until) {
    const near = (until - from) / Math.max(60, plot.clientWidth / 6);
    const kills = { false: [], true: [] }, lastKill = new Map();
    for (const [lane, time, process, point, at, fault, held] of told.kills) {
      if (time < from || time > until) continue;
      const before = lastKill.get(`${lane} ${held}`);
      if (before && time - before.time < near) before.more++;
      else {
        const kill = { lane, time, more: 0, text: `process ${process} killed ${point ? `${at ? "at" : "after"} ${point}` : ""}<br>${fault}${held ? ", holding a lock" : ""}` };
        lastKill.set(`${lane} ${held}`, kill);
        kills[Boolean(held)].push(kill);
      }
    }
    const markers = (list, symbol, title, size) => ({
      type: "scatter", mode: "markers", name: title, x: list.map((one) => one.time / 1e6), y: list.map((one) => one.lane),
      text: list.map((one) => one.text + (one.more ? `<br>and ${one.more} more close by` : "")), hovertemplate: "%{text}<extra></extra>",
      customdata: list.map((one) => (one.id === undefined ? -1 : one.id)),
      marker: { symbol, size, color: colour(title === "violating" ? "bad" : "kill"), line: { width: title === "violating" ? 1.5 : 1.2, color: colour(title === "violating" ? "paper" : "kill") } },
    });
    const wrong = badInOrder.filter((i) => ops.end[i] >= from && ops.start[i] <= until)
      .map((i) => ({ lane: ops.lane[i], time: Math.max(from, (ops.start[i] + ops.end[i]) / 2), text: said(i), more: 0, id: i }));
    return [strips(from, until, near), markers(kills[false], "x-thin", "killed", 7), markers(kills[true], "hash-open", "killed holding a lock", 7),
      markers(wrong, "diamond", "violating", 13)];
  }

  function strips(from, until, near) {
    const base = [], x = [], y = [], colours = [], text = [], ends = new Map();
    for (const [lane, start, end, process, point, held] of told.pauses) {
      if (end < from || start > until || start - (ends.get(lane) ?? -Infinity) < near / 4) continue;
      ends.set(lane, end);
      base.push(start / 1e6);
      x.push((end - start) / 1e6);
      y.push(lane + 0.42);
      colours.push(colour(held ? "lost" : "pause"));
      text.push(`process ${process} stopped for ${took(end - start)}${point ? ` at ${point}` : ""}${held ? "<br>while it held a lock, or may have" : ""}`);
    }
    return { type: "bar", name: "stopped", orientation: "h", base, x, y, width: 0.12, text, textposition: "none", customdata: base.map(() => -1),
      marker: { color: colours, line: { color: colours, width: 1 } }, hovertemplate: "%{text}<extra></extra>" };
  }

  function spansIn(lane, from, until) {
    // Of a lane, when locks were held and the dead were repaired after: places in `held`, with what it is.
    return held.whats.flatMap((what, code) => {
      const row = lane * held.whats.length + code;
      const low = firstInLane(row, from, held.end, held), high = firstInLane(row, until, held.start, held);
      return Array.from(held.inLane.subarray(low, Math.max(low, high)), (i) => [what, i]);
    });
  }

  function holds(from, until) {
    const base = [], x = [], y = [], colours = [], text = [], palette = Object.fromEntries(held.whats.map((what) => [what, colour(what)]));
    lanes.forEach((_, lane) => {
      for (const [what, i] of spansIn(lane, from, until)) {
        base.push(held.start[i] / 1e6);
        x.push((held.end[i] - held.start[i]) / 1e6);
        y.push(lane - 0.4);
        colours.push(palette[what]);
        text.push(`process ${held.process[i]} ${DID[what]} for ${took(held.end[i] - held.start[i])}`);
      }
    });
    return { type: "bar", name: "held", orientation: "h", base, x, y, width: 0.13, text, textposition: "none", customdata: base.map(() => -1),
      marker: { color: colours, line: { color: colours, width: 0.8 } }, hovertemplate: "%{text}<extra></extra>" };
  }

  function shapes(from, until) {
    const band = (name) => ([start, end]) => ({ type: "rect", xref: "x", yref: "paper", x0: start / 1e6, x1: end / 1e6, y0: 0, y1: 1, line: { width: 0 }, fillcolor: colour(name), opacity: 0.14, layer: "below" });
    const out = [...told.lost.map(band("lost")), ...told.standstills.map(band("faint"))].filter(({ x0, x1 }) => x1 * 1e6 >= from && x0 * 1e6 <= until);
    if (chosen >= 0) {
      out.push({ type: "rect", x0: ops.start[chosen] / 1e6, x1: ops.end[chosen] / 1e6, y0: ops.lane[chosen] - 0.4, y1: ops.lane[chosen] + 0.4, line: { color: colour("focus"), width: 2 } });
    }
    return out;
  }

  let drawn = 0;

  async function show(from, until) {
    const span = Math.min(Math.max(until - from, SPAN_MIN), (UNTIL - FIRST) * 1.03);
    from = Math.min(Math.max(from, FIRST - span * 0.02), UNTIL + span * 0.02 - span);
    until = from + span;
    shown = [from, until];
    const spans = visible(from, until), count = spans.reduce((sum, [low, high]) => sum + high - low, 0);
    const few = count <= BARS_MAX;
    const traces = [...(few ? [bars(spans), holds(from, until)] : [density(spans, from, until)]), ...marks(from, until)];
    range.textContent = `${seconds(from)} to ${seconds(until)} s · ${count.toLocaleString("en")} operations${few ? "" : ", in cells"}`;
    await Plotly.react(plot, traces, themed({
      height: 60 + 30 * lanes.length, showlegend: false, dragmode: "zoom", hovermode: "closest", barmode: "overlay", margin: { t: 6, b: 36, l: 84 },
      xaxis: { range: [from / 1e6, until / 1e6], title: { text: "seconds since the start", standoff: 6 }, zeroline: false },
      yaxis: { tickvals: lanes.map((_, i) => i), ticktext: lanes, range: [lanes.length - 0.4, -0.6], fixedrange: true, showgrid: false, zeroline: false },
      shapes: shapes(from, until),
    }), { ...CONFIG, displayModeBar: false, doubleClick: false });
    plot.dataset.shown = few ? "bars" : "cells";
    plot.dataset.drawn = ++drawn;
  }

  // Words.

  const seconds = (us) => (us / 1e6).toFixed(Math.min(6, Math.max(1, Math.ceil(-Math.log10((shown[1] - shown[0]) / 1e6)) + 3)));
  const took = (us) => (us < 1e3 ? `${us} µs` : us < 1e6 ? `${(us / 1e3).toPrecision(3)} ms` : `${(us / 1e6).toPrecision(3)} s`);
  const called = (category) => ({ bad: "violating", info: "of unknown outcome", fail: "failed" })[category] ?? category;
  const real = (i) => kindOf(i) >= states;
  const title = (i) => `process ${ops.process[i]}${real(i) ? ` operation ${ops.index[i]}` : ""}`;
  const what = (i) => kinds[kindOf(i)] + (real(i) ? ` (${workloads[ops.workload[i]]}), ${outcomeOf(i)}` : outcomeOf(i) === "info" ? ", in which it died" : "");

  function said(i) {
    return `${title(i)}<br>${what(i)}, ${took(ops.end[i] - ops.start[i])}${bad.has(i) ? "<br><b>violating</b>" : ""}`;
  }

  // Details.

  function element(tag, content, properties) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...[content ?? ""].flat());
    return made;
  }

  function link(text, words) {
    return element("a", words ?? `process ${text.split(".")[0]} operation ${text.split(".")[1]}`, { className: "op", href: `#op=${text}` });
  }

  function table(headings, rows) {
    const head = element("thead", element("tr", headings.map((heading) => element("th", heading, { scope: "col" }))));
    const body = element("tbody", rows.map((row) => element("tr", row.map((value) => element("td", value)))));
    return element("div", element("table", [head, body]), { className: "scroll" });
  }

  function meanwhile(i) {
    const rows = [];
    lanes.forEach((lane, number) => {
      if (number === ops.lane[i]) return;
      const low = firstInLane(number, ops.start[i], ops.end), high = firstInLane(number, ops.end[i], ops.start), among = [];
      for (let at = low; at < Math.min(high, low + 4); at++) among.push(ops.inLane[at]);
      if (!among.length) return;
      const words = among.flatMap((j) => [link(name(j), `${name(j)} ${what(j)}`), "; "]).slice(0, -1);
      rows.push([lane, [...words, high - low > 4 ? ` and ${high - low - 4} more` : ""]]);
    });
    for (const [lane, time, process, point, at] of told.kills) {
      if (time >= ops.start[i] - 5e4 && time <= ops.end[i]) rows.push([lanes[lane], `process ${process} killed ${point ? `${at ? "at" : "after"} ${point}` : ""}, ${time < ops.start[i] ? `${took(ops.start[i] - time)} before` : "meanwhile"}`]);
    }
    return rows;
  }

  function tell(i) {
    const life = lifeOf.get(ops.process[i]), full = told.operations[name(i)], rows = [];
    const add = (heading, content) => rows.push(element("dt", heading), element("dd", content));
    const abouts = [...document.querySelectorAll(".failure")].filter((one) => one.querySelector(`.told a[href="#op=${name(i)}"], summary a[href="#op=${name(i)}"]`));
    if (abouts.length) add("at fault in", abouts.flatMap((one) => [element("a", one.querySelector(".property").textContent, { href: `#${one.id}` }), ", "]).slice(0, -1));
    add("when", `${(ops.start[i] / 1e6).toFixed(6)} s to ${(ops.end[i] / 1e6).toFixed(6)} s, ${took(ops.end[i] - ops.start[i])}`);
    if (real(i)) {
      add("outcome", `${outcomeOf(i)}: ${SAID[outcomeOf(i)]}`);
      add("history", element("code", `history/${ops.process[i]}.jsonl:${2 * ops.index[i] - 1}`));
    }
    if (life) add("process", `${life.role} in lane ${lanes[life.lane]}, from ${(life.born / 1e6).toFixed(3)} s to ${(life.died / 1e6).toFixed(3)} s${life.end ? `, ${life.end}` : ""}`);
    for (const [what, j] of spansIn(ops.lane[i], ops.start[i], ops.end[i])) {
      if (held.process[j] === ops.process[i]) add(what, `${DID[what]} for ${took(held.end[j] - held.start[j])}, from ${took(Math.max(0, held.start[j] - ops.start[i]))} after it began`);
    }
    const others = meanwhile(i);
    if (others.length) add("meanwhile", table(["lane", ""], others));
    if (full) {
      if (full.sequence !== null) add("sequence", `${kinds[kindOf(i)] === "write" ? "T" : "S"}=${full.sequence}`);
      if (full.resolves) add("resolves", link(full.resolves));
      if (full.writes) add("writes", full.writes.map(([item, value]) => item + (value && ` = ${value}`)).join(", "));
      if (full.deletes) add("deletes", full.deletes.join(", "));
      if (full.reads) add("reads", table(["item", "written by", "T", "value"], full.reads.map(([item, writer, T, value]) => [item, writer ? link(writer) : "absent", T ?? "", value])));
      if (full.more) add("", `and ${full.more} more, in the history`);
    } else if (real(i)) add("", "What it read and wrote is in the history: it is far from everything that was violated or killed.");
    details.replaceChildren(element("h3", `${title(i)}: ${what(i)}`), element("dl", rows));
    details.toggleAttribute("data-bad", bad.has(i));
  }

  async function choose(i, { follow = true } = {}) {
    if (i < 0) return;
    chosen = i;
    history.replaceState(null, "", `#op=${name(i)}`);
    tell(i);
    const [from, until] = shown, middle = (ops.start[i] + ops.end[i]) / 2;
    const lasted = ops.end[i] - ops.start[i];
    const plain = plot.dataset.shown === "bars" && ops.start[i] >= from && ops.end[i] <= until && lasted > (until - from) / 50;
    if (follow && !plain) {
      let span = Math.max(Math.min(until - from, Math.max(lasted * 30, 5000)), lasted * 1.1);
      const count = () => visible(middle - span / 2, middle + span / 2).reduce((sum, [low, high]) => sum + high - low, 0);
      while (count() > BARS_MAX / 5 && span > SPAN_MIN) span /= 2;
      await show(middle - span / 2, middle + span / 2);
    } else await show(from, until);
  }

  // Asked for.

  function zoom(factor, around = (shown[0] + shown[1]) / 2) {
    return show(around - (around - shown[0]) * factor, around + (shown[1] - around) * factor);
  }

  function step(direction) {
    // To the next violating operation; where nothing is violated, to the next kill.
    const now = chosen >= 0 ? ops.start[chosen] : direction > 0 ? -Infinity : Infinity;
    const stops = badInOrder.length ? badInOrder : told.kills.map(([lane, time]) => ops.inLane[firstInLane(lane, time, ops.start) - 1]).filter((i) => i !== undefined);
    const ahead = stops.filter((i) => i !== chosen && (direction > 0 ? ops.start[i] >= now : ops.start[i] <= now));
    const ordered = ahead.sort((a, b) => direction * (ops.start[a] - ops.start[b]));
    return choose(ordered[0] ?? (direction > 0 ? stops[0] : stops[stops.length - 1]) ?? -1);
  }

  function neighbour(direction) {
    if (chosen < 0) return step(1);
    const lane = ops.lane[chosen], at = ops.inLane.indexOf(chosen, ops.first[lane]) + direction;
    return at >= ops.first[lane] && at < ops.first[lane + 1] ? choose(ops.inLane[at]) : undefined;
  }

  const pan = (share) => show(shown[0] + (shown[1] - shown[0]) * share, shown[1] + (shown[1] - shown[0]) * share);
  const whole = () => show(-UNTIL / 200, UNTIL * 1.01);
  const ANYWHERE = { n: () => step(1), j: () => step(1), p: () => step(-1), k: () => step(-1) };
  const HERE = {
    ArrowLeft: () => pan(-0.25), ArrowRight: () => pan(0.25), "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: whole, Home: whole,
    "[": () => neighbour(-1), "]": () => neighbour(1), Enter: () => { details.focus(); details.scrollIntoView({ block: "nearest" }); },
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const here = event.target === plot || plot.contains(event.target);
    const act = ANYWHERE[event.key] ?? (here ? HERE[event.key] : undefined);
    if (act) {
      event.preventDefault();
      act();
    } else if (event.key === "Escape" && details.contains(event.target)) plot.focus();
  });
  plot.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const { left, width } = plot.querySelector(".nsewdrag").getBoundingClientRect();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, shown[0] + (shown[1] - shown[0]) * ((event.clientX - left) / width));
  }, { passive: false });
  const DO = { next: () => step(1), previous: () => step(-1), in: () => zoom(0.5), out: () => zoom(2), all: whole };
  for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", DO[button.dataset.do]);

  function followed(hash) {
    const found = /^#op=(\d+\.\d+)$/.exec(hash);
    if (!found) return false;
    const i = find(found[1]);
    if (i < 0) details.replaceChildren(element("p", `This run has no operation ${found[1]}.`, { className: "note" }));
    else choose(i);
    document.getElementById("timeline").scrollIntoView();
    plot.focus({ preventScroll: true });
    return true;
  }
  addEventListener("click", (event) => {
    const anchor = event.target.closest?.("a.op");
    if (anchor && followed(anchor.hash)) event.preventDefault();
  });
  addEventListener("hashchange", () => followed(location.hash));
  document.addEventListener("recolour", () => { legend(); show(...shown); });

  function legend() {
    const entries = [...kinds.filter((_, number) => ops.present[number]).map((kind) => [kind, kind, "■"]), ["fail", "failed", "▨"], ["info", "unknown", "■"], ["bad", "violating", "◆"],
      ["kill", "killed", "✕"], ["kill", "… holding a lock", "#"], ["pause", "stopped", "▬"], ["lost", "… holding a lock", "▬"]];
    held.whats.forEach((what, code) => { if (held.present[code]) entries.push([what, { lock: "lock held", repair: "repairing" }[what], "▬"]); });
    if (told.lost.length) entries.push(["lost", "index lost", "░"]);
    document.getElementById("legend").replaceChildren(...entries.map(([shade, words, sign]) => {
      const mark = element("b", sign, { ariaHidden: "true" });
      mark.style.color = `var(--${shade})`;
      return element("li", [mark, words]);
    }));
  }

  // Begin.

  plot.classList.remove("waiting");
  legend();
  await whole();
  plot.on("plotly_relayout", (change) => {
    const [from, until] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (from !== undefined) show(from * 1e6, until * 1e6);
  });
  plot.on("plotly_doubleclick", () => { whole(); });
  plot.on("plotly_click", ({ points: [point] }) => {
    const i = point.customdata;
    if (point.data.type === "heatmap") zoom(1 / 8, point.x * 1e6);
    else if (i >= 0) choose(i, { follow: false });
  });
  addEventListener("resize", () => show(...shown));
  followed(location.hash);
  const plainly = (i) => ({ name: name(i), kind: kinds[kindOf(i)], outcome: outcomeOf(i), start: ops.start[i], end: ops.end[i] });
  const around = (i) => spansIn(ops.lane[i], ops.start[i], ops.end[i]).map(([what, j]) => ({ what, process: held.process[j], start: held.start[j], end: held.end[j] }));
  window.timeline = { find, told: plainly, held: around, show, choose }; // for the console, and for tests
  document.body.dataset.timeline = "ready";
})();
