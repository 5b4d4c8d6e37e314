// Draws one frame: bars of time and memory per rank, TPOT over time. Knows nothing of runs.
// Frame, float32: [ranks, points], then per rank 5 shares, 5 parts of memory, capacity, leases
// (widgets/feed.py: RANK_FIELDS), then (seconds, ms, leases) per point.

const FIELDS = 12, MEMORY = 5, CAPACITY = 10, LEASES = 11;
const SVG = "http://www.w3.org/2000/svg";

function node(tag, name, parent, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

function shape(tag, attributes, parent) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (value >= 1000 && power < units.length - 1) { value /= 1024; power += 1; }
  return `${value >= 100 || power === 0 ? value.toFixed(0) : value.toFixed(1)} ${units[power]}`;
}

const ms = (value) => value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);

function isLight(hex) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 140;
}

function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value) * power;
}

function card(parent, title, unit) {
  const made = node("section", "fapool-card", parent);
  const head = node("header", "", made);
  node("b", "", head, title);
  const note = node("span", "fapool-note", head, unit);
  return { made, note };
}

function legend(parent, keys) {
  const made = node("div", "fapool-legend", parent);
  for (const [name, colour] of keys) {
    const entry = node("span", "", made);
    node("i", "", entry).style.background = colour;
    entry.append(name);
  }
  return made;
}

// One row a rank: label, stacked bar, figure at its end.
function bars(parent, ranks, keys) {
  const grid = node("div", "fapool-bars", parent);
  return ranks.map(({ role, device }, rank) => {
    const label = node("div", "fapool-label", grid);
    label.title = device;
    label.append(`${rank} `);
    node("span", `fapool-role fapool-${role}`, label, role);
    const bar = node("div", "fapool-bar", grid);
    bar.setAttribute("role", "img");
    const parts = keys.map(([, colour]) => {
      const part = node("div", "fapool-part", bar);
      part.style.background = colour;
      part.style.color = isLight(colour) ? "#000" : "#fff";
      return part;
    });
    return { bar, parts, figure: node("div", "fapool-figure", grid, "–") };
  });
}

function drawTime(rows, keys, numbers) {
  rows.forEach(({ bar, parts, figure }, rank) => {
    const shares = numbers.subarray(rank * FIELDS, rank * FIELDS + keys.length);
    const leases = numbers[rank * FIELDS + LEASES];
    const words = keys.map(([name], i) => `${name} ${(100 * shares[i]).toFixed(1)} %`);
    parts.forEach((part, i) => {
      part.style.width = `${100 * shares[i]}%`;
      part.textContent = shares[i] >= 0.09 ? `${Math.round(100 * shares[i])}` : "";
    });
    bar.setAttribute("aria-label", `rank ${rank}: ${words.join(", ")}`);
    bar.title = words.join("\n");
    figure.textContent = leases ? `${leases} leased` : "";
  });
}

function drawMemory(rows, note, keys, numbers) {
  const held = rows.map((_, rank) => numbers.subarray(rank * FIELDS + MEMORY, rank * FIELDS + CAPACITY));
  const totals = held.map((parts) => parts.reduce((sum, part) => sum + part, 0));
  const most = Math.max(...totals, 1);
  const capacity = Math.max(...rows.map((_, rank) => numbers[rank * FIELDS + CAPACITY]), 1);
  const zoomed = most < capacity / 8;
  const full = zoomed ? niceCeiling(most / 2 ** 20) * 2 ** 20 : capacity;
  note.textContent = zoomed
    ? `full bar ${bytes(full)}; capacity ${bytes(capacity)}`
    : `full bar: capacity, ${bytes(capacity)}`;
  rows.forEach(({ bar, parts, figure }, rank) => {
    const words = keys.map(([name], i) => `${name} ${bytes(held[rank][i])}`);
    parts.forEach((part, i) => { part.style.width = `${100 * held[rank][i] / full}%`; });
    const own = numbers[rank * FIELDS + CAPACITY];
    figure.textContent = bytes(totals[rank]);
    words.push(`${(100 * totals[rank] / own).toFixed(1)} % of ${bytes(own)}`);
    bar.title = words.join("\n");
    bar.setAttribute("aria-label", `rank ${rank}: ${words.join(", ")}`);
  });
}

function linePlot(parent) {
  const plot = shape("svg", { class: "fapool-plot", role: "img" }, parent);
  const grid = shape("g", { class: "fapool-grid" }, plot);
  const leases = shape("path", { class: "fapool-leases" }, plot);
  const line = shape("path", { class: "fapool-line" }, plot);
  return { plot, grid, leases, line };
}

function drawLine({ plot, grid, leases, line }, note, points) {
  const width = plot.clientWidth || 300, height = plot.clientHeight || 120;
  const left = 38, right = 6, top = 6, bottom = 16;
  const count = points.length / 3;
  grid.replaceChildren();
  if (!count) { note.textContent = "ms per token"; line.setAttribute("d", ""); leases.setAttribute("d", ""); return; }
  const last = points.length - 3;
  let high = 0, held = 1;
  for (let i = 0; i < count; i += 1) {
    high = Math.max(high, points[3 * i + 1]);
    held = Math.max(held, points[3 * i + 2]);
  }
  const ceiling = niceCeiling(high || 1), start = points[0], span = Math.max(points[last] - start, 0.1);
  const x = (s) => left + (width - left - right) * (s - start) / span;
  const y = (value) => top + (height - top - bottom) * (1 - value / ceiling);
  for (const value of [0, ceiling / 2, ceiling]) {
    shape("line", { x1: left, x2: width - right, y1: y(value), y2: y(value) }, grid);
    shape("text", { x: left - 5, y: y(value) + 3.5, "text-anchor": "end" }, grid).textContent =
      String(Number(value.toPrecision(3)));
  }
  for (const [s, anchor] of [[start, "start"], [start + span, "end"]]) {
    shape("text", { x: x(s), y: height - 3, "text-anchor": anchor }, grid).textContent = `${s.toFixed(span < 10 ? 1 : 0)} s`;
  }
  let path = "", area = "";
  for (let i = 0; i < count; i += 1) {
    const px = x(points[3 * i]).toFixed(1);
    path += `${i ? "L" : "M"}${px} ${y(points[3 * i + 1]).toFixed(1)}`;
    const py = y(0.45 * ceiling * points[3 * i + 2] / held).toFixed(1);
    area += i ? `H${px}V${py}` : `M${px} ${y(0)}V${py}`;
  }
  line.setAttribute("d", path);
  leases.setAttribute("d", `${area}V${y(0)}Z`);
  const now = points[last + 2];
  note.textContent = `${ms(points[last + 1])} ms per token${now ? ` · ${now} leased` : ""}`;
  plot.setAttribute("aria-label", `TPOT ${note.textContent}`);
}

function render({ model, el }) {
  el.classList.add("fapool-live");
  let view, waiting = 0;
  const build = () => {
    el.replaceChildren();
    const ranks = model.get("ranks"), times = model.get("time_keys"), owners = model.get("memory_keys");
    const time = card(el, "Time by rank", ""), memory = card(el, "Memory by rank", ""), tpot = card(el, "TPOT", "ms per token");
    tpot.made.classList.add("fapool-wide");
    view = {
      ranks, times, owners, time, memory, tpot,
      timeRows: bars(time.made, ranks, times), memoryRows: bars(memory.made, ranks, owners),
      line: linePlot(tpot.made),
    };
    legend(time.made, times);
    legend(memory.made, owners);
    const key = legend(tpot.made, [["TPOT", "var(--fapool-line)"], ["requests leased", "var(--fapool-lease)"]]);
    key.classList.add("fapool-tpot-legend");
    draw();
  };
  const draw = () => {
    waiting = 0;
    const raw = model.get("frame"), stage = model.get("stage");
    el.dataset.stage = stage;
    const size = raw?.byteLength ?? 0;
    el.dataset.empty = size ? "no" : "yes";
    view.time.note.textContent = size ? "% of the last 1.5 s; waits are in communication" : stage;
    if (!size) { drawLine(view.line, view.tpot.note, new Float32Array()); return; }
    const all = new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + size));
    const told = all[0], numbers = all.subarray(2, 2 + told * FIELDS);
    if (told < view.ranks.length) return;
    drawTime(view.timeRows, view.times, numbers);
    drawMemory(view.memoryRows, view.memory.note, view.owners, numbers);
    drawLine(view.line, view.tpot.note, all.subarray(2 + told * FIELDS));
  };
  const soon = () => { waiting ||= requestAnimationFrame(draw); };
  const events = { "change:frame": soon, "change:stage": soon, "change:ranks": build };
  for (const [event, react] of Object.entries(events)) model.on(event, react);
  const resized = new ResizeObserver(soon);
  resized.observe(el);
  build();
  return () => {
    cancelAnimationFrame(waiting);
    resized.disconnect();
    for (const [event, react] of Object.entries(events)) model.off(event, react);
  };
}

export default { render };
