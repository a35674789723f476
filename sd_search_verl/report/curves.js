// Plots as SVG. A line may have gaps (null) and, over several seeds, a band from the lowest to the highest.

const curves = (() => {
  const WIDTH = 360, HEIGHT = 190, LEFT = 42, RIGHT = 8, TOP = 8, BOTTOM = 20;
  const DASHES = ["", "6 3", "2 3"];
  const { series, sections, warmup, absent, first, last } = DATA.curves;
  const hidden = new Set();
  let smoothing = 0;

  function start() {
    showLegend();
    if (absent.length) byId("absent").textContent = `No values in these runs: ${absent.join(", ")}.`;
    draw();
  }

  function draw() {
    byId("panels").replaceChildren(...sections.flatMap((section) => [
      el("h2", {}, section.title),
      el("div", { className: "grid" }, ...section.panels.map(figure)),
    ]));
  }

  function showLegend() {
    const buttons = series.map((one, index) => {
      const seeds = one.seeds > 1 ? ` (${one.seeds} seeds: mean, lowest to highest)` : "";
      const button = el("button", { "aria-pressed": "true", title: "Show or hide" }, swatch(`--s${index % 8}`), one.name + seeds);
      button.onclick = () => {
        if (!hidden.delete(index)) hidden.add(index);
        button.setAttribute("aria-pressed", !hidden.has(index));
        draw();
      };
      return button;
    });
    const slider = el("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: 0 });
    slider.oninput = () => { smoothing = Number(slider.value); draw(); };
    byId("legend").append(...(series.length > 1 ? buttons : []), el("label", {}, "Smoothing", slider));
    if (warmup.length) byId("legend").append(el("label", {}, swatch("--line"), "α is 0 (warm-up)"));
  }

  function swatch(color) {
    return el("span", { className: "swatch", style: `background: var(${color})` });
  }

  function figure(panel) {
    const labels = Object.keys(panel.metrics);
    const lines = panel.lines.filter((line) => !hidden.has(line.series)).map((line) => ({
      ...line,
      shown: smooth(line.mean),
      // With one series the colours are free to tell a panel's metrics apart; with more, dashes do.
      color: `--s${(series.length > 1 ? line.series : labels.indexOf(line.label)) % 8}`,
      dash: series.length > 1 ? DASHES[labels.indexOf(line.label) % 3] : "",
    }));
    const caption = el("figcaption", { title: Object.values(panel.metrics).join("\n") }, panel.title, el("small", {}, panel.help));
    const node = el("figure", {}, caption);
    if (labels.length > 1) node.append(el("div", { className: "keys" }, ...labels.map((label, index) => key(label, index))));
    if (lines.length) node.append(plot(lines, node));
    return node;
  }

  function key(label, index) {
    const svg = shape("svg", { width: 22, height: 6, style: "width: 22px" });
    svg.append(shape("path", {
      d: "M0 3H22", "class": "line", style: `stroke: var(${series.length > 1 ? "--dim" : `--s${index % 8}`})`,
      "stroke-dasharray": series.length > 1 ? DASHES[index % 3] : "",
    }));
    return el("span", {}, svg, label);
  }

  function plot(lines, node) {
    const values = lines.flatMap((line) => [...line.mean, ...(line.low || []), ...(line.high || [])]).filter((v) => v !== null);
    const ticks = niceTicks(...extremes(values));
    const [low, high] = [ticks[0], ticks.at(-1)];
    const x = (step) => LEFT + (WIDTH - LEFT - RIGHT) * (last > first ? (step - first) / (last - first) : 0.5);
    const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low);
    const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": node.textContent });

    for (const [from, to] of warmup) {
      const [a, b] = [Math.max(from - 0.5, first), Math.min(to + 0.5, last)];
      if (b > a) svg.append(shape("rect", { "class": "warmup", x: x(a), y: TOP, width: x(b) - x(a), height: HEIGHT - TOP - BOTTOM }));
    }
    for (const tick of ticks) {
      svg.append(shape("line", { "class": "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }));
      svg.append(label(LEFT - 5, y(tick) + 3.5, brief(tick), "end"));
    }
    for (const step of new Set([first, Math.round((first + last) / 2), last])) {
      svg.append(label(x(step), HEIGHT - 5, step, step === last && last > first ? "end" : "middle"));
    }
    for (const line of lines.toReversed()) {
      const at = (values) => values.map((value, i) => value === null ? null : [x(line.first + i), y(value)]);
      const style = `stroke: var(${line.color})`;
      if (line.low) svg.append(shape("path", { d: band(at(line.low), at(line.high)), "class": "band", style: `fill: var(${line.color})` }));
      if (smoothing) svg.append(shape("path", { d: path(at(line.mean)), "class": "line raw", style }));
      svg.append(shape("path", { d: path(at(line.shown)), "class": "line", style, "stroke-dasharray": line.dash, "stroke-linecap": line.dash ? "butt" : "round" }));
    }
    hover(svg, node, lines, x);
    return svg;
  }

  function hover(svg, node, lines, x) {
    const cursor = shape("line", { "class": "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    const tip = el("div", { className: "tip", hidden: true });
    svg.append(cursor);
    node.append(tip);
    const move = (event) => {
      const box = svg.getBoundingClientRect();
      const share = ((event.clientX - box.left) / box.width * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
      const step = Math.round(first + Math.min(1, Math.max(0, share)) * (last - first));
      cursor.setAttribute("x1", x(step));
      cursor.setAttribute("x2", x(step));
      cursor.setAttribute("visibility", "visible");
      tip.replaceChildren(el("b", {}, `step ${step}`), ...lines.map((line) => el("div", {}, swatch(line.color), reading(line, step - line.first))));
      tip.hidden = false;
      tip.style.left = share < 0.5 ? "auto" : "10px";
      tip.style.right = share < 0.5 ? "10px" : "auto";
    };
    const leave = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerdown", move);
    svg.addEventListener("pointerleave", leave);
  }

  function reading(line, index) {
    const name = series.length > 1 ? `${series[line.series].name} ${line.label}` : line.label;
    const value = line.mean[index] ?? null;
    if (value === null) return `${name}: –`;
    if (!line.low) return `${name}: ${exact(value)}`;
    const seeds = `${line.seeds[index]} of ${series[line.series].seeds} seeds`;
    return `${name}: ${exact(value)} [${exact(line.low[index])}, ${exact(line.high[index])}], ${seeds}`;
  }

  /** Exponential moving average without start-up bias; gaps stay gaps. */
  function smooth(values) {
    let sum = 0, weight = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = smoothing * sum + (1 - smoothing) * value;
      weight = smoothing * weight + (1 - smoothing);
      return sum / weight;
    });
  }

  function runs(points) {
    const found = [[]];
    for (const [index, point] of points.entries()) {
      if (point) found.at(-1).push([index, point]);
      else if (found.at(-1).length) found.push([]);
    }
    return found.filter((run) => run.length);
  }

  // A point without neighbours, as of what is measured every 50 steps, becomes a dot.
  const dot = "m-1.2 0a1.2 1.2 0 1 0 2.4 0a1.2 1.2 0 1 0-2.4 0";
  const path = (points) => runs(points).map((run) =>
    "M" + run.map(([, [x, y]]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L") + (run.length === 1 ? dot : "")).join("");
  const band = (low, high) => runs(low).map((run) =>
    "M" + [...run.map(([i]) => high[i]), ...run.map(([, point]) => point).reverse()]
      .map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L") + "Z").join("");

  const extremes = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);

  /** Three to six round numbers around a range; from 0 where the values come near it. */
  function niceTicks(low, high) {
    if (low >= 0 && low <= high / 2) low = 0;
    if (low === high) [low, high] = [low - Math.abs(low) / 2, high + (Math.abs(high) / 2 || 1)];
    const rough = (high - low) / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const size = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const from = Math.floor(low / size + 1e-9), to = Math.ceil(high / size - 1e-9);
    return Array.from({ length: to - from + 1 }, (_, i) => Number(((from + i) * size).toPrecision(12)));
  }

  const exact = (value) => Number(value.toPrecision(4)).toString();
  const brief = (value) => Math.abs(value) >= 10000 ? `${Number((value / 1000).toPrecision(3))}k` : exact(value);

  function shape(name, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  function label(x, y, text, anchor) {
    const node = shape("text", { x, y, "text-anchor": anchor });
    node.textContent = text;
    return node;
  }

  return { start };
})();
