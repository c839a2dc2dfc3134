"use strict";

// The plots, drawn by plotly from the same figures as the table.

rdbench.plots = (() => {
  const { state, options, onDraw, set, finds, NARROW } = rdbench;
  const COLOURS = {
    light: ["#0072b2", "#d55e00", "#009e73", "#b0538f", "#a87900", "#7a4a1e", "#1d2125"],
    dark: ["#56b4e9", "#ff8a4c", "#2fc79a", "#e59ac6", "#f0c040", "#c9956b", "#f4f1ea"],
  }; // after Okabe and Ito, told apart by colour-blind readers; dashes and symbols go on where colours repeat
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "pentagon", "star"];
  const MOST = 12; // lines in one plot
  const SHOWN = 6; // of them at first; the others wait in the legend

  const onPaper = () => document.documentElement.classList.contains("printing");
  const dark = () => !onPaper() && matchMedia("(prefers-color-scheme: dark)").matches;
  const narrow = () => matchMedia(NARROW).matches;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // By the place among these test images, so that the first lines of every plot have colours of their own.
  function looks(data, method) {
    const colours = COLOURS[dark() ? "dark" : "light"];
    const at = data.all.map(([m]) => m).filter((m) => m >= 0).indexOf(method);
    const [colour, round] = [colours[at % colours.length], Math.floor(at / colours.length)];
    return {
      line: { color: colour, width: 2, dash: DASHES[round % DASHES.length] },
      marker: { color: colour, size: 7, symbol: SYMBOLS[(at + round) % SYMBOLS.length] },
    };
  }

  const soft = (dash = "dash") => ({ color: css("--soft"), width: 1.5, dash });

  function clear(colour, alpha) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return `rgba(${r},${g},${b},${alpha})`;
  }

  const short = (name, most = 28) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);

  function axis(title, more = {}) {
    const line = css("--line");
    return { title: { text: title, standoff: 8 }, gridcolor: line, zeroline: false, linecolor: line, automargin: true, ...more };
  }

  // Height of the legend below a plot: plotly sets it in columns as wide as the longest name.
  function legendHeight(plot, traces) {
    const names = traces.filter((trace) => trace.name && trace.showlegend !== false).map((trace) => trace.name);
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = `12px ${css("--sans")}`;
    const widest = Math.max(...names.map((name) => pen.measureText(name).width));
    const columns = Math.max(1, Math.floor((plot.clientWidth - 66) / (43 + widest)));
    return 19 * Math.ceil(names.length / columns);
  }

  // Plotly takes text for markup, in which a name could be a link. Its templates are our own.
  const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
  const escaped = (key, value) =>
    typeof value === "string" && key !== "hovertemplate" ? value.replace(/[&<>]/g, (sign) => ENTITIES[sign]) : value;
  const plain = (content) => JSON.parse(JSON.stringify(content, escaped));

  const AREA = 250; // height of what is drawn in, without axis title and legend

  // `room` is for what the words below the horizontal axis need beyond one line.
  function place(id, traces, layout, words, room = 0) {
    const node = document.querySelector(id);
    const plot = node.matches(".plot") ? node : node.querySelector(".plot");
    const nothing = traces.length === 0;
    plot.classList.toggle("nothing", nothing);
    if (nothing) {
      Plotly.purge(plot);
      plot.replaceChildren(words);
      plot.style.height = "";
      plot.removeAttribute("role");
      plot.removeAttribute("aria-label");
      return;
    }
    if (!plot.querySelector(".plotly")) plot.replaceChildren();
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", words);
    const base = {
      autosize: true,
      height: AREA + 66 + room + legendHeight(plot, traces),
      margin: { l: 56, r: 12, t: 10, b: 44 + room },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css("--sans"), size: 12, color: css("--soft") },
      legend: { orientation: "h", traceorder: "normal", y: -(54 + room) / AREA, x: 0, font: { size: 12 } },
      hoverlabel: { font: { family: css("--sans") } },
      dragmode: false,
    };
    const whole = { ...base, ...layout };
    plot.style.height = `${whole.height}px`;
    Plotly.react(plot, plain(traces), plain(whole), { displayModeBar: false, responsive: true }).then(() => stretch(plot, whole.height));
  }

  // Give back what a legend took that is longer than was reckoned; plotly cuts it at half the height, hence in steps.
  function stretch(plot, height, steps = 4) {
    const area = plot.querySelector(".nsewdrag");
    const lacking = area && plot.clientWidth ? AREA - 15 - area.getBBox().height : 0; // nothing has a size while hidden
    if (lacking < 10 || steps === 0) return;
    plot.style.height = `${height + lacking}px`;
    Plotly.relayout(plot, { height: height + lacking }).then(() => stretch(plot, height + lacking, steps - 1));
  }

  // Methods in the table's order, best first, narrowed by the search box.
  function chosen(board, data) {
    return data.all.map(([method]) => method).filter((method) => method >= 0 && finds(board.methods[method][0]));
  }

  // Why a plot is empty.
  const lacking = (board, data, reason) => (chosen(board, data).length ? reason : "No method is found.");

  // One line per method that `make` has one for, the reference always among them; the legend says how many are left out.
  function lines(board, data, make, order = chosen(board, data)) {
    const made = order.map((m) => [m, make(m)]).filter(([, line]) => line);
    const kept = made.filter(([method], i) => i < MOST || method === board.reference);
    const count = { x: [null], y: [null], mode: "markers", marker: { opacity: 0 }, hoverinfo: "skip", name: `${kept.length} of ${made.length} methods` };
    const traces = kept.flatMap(([method, made], i) =>
      [made].flat().map((trace) => ({
        name: short(board.methods[method][0]),
        legendgroup: `m${method}`,
        ...looks(data, method),
        ...trace,
        visible: i < SHOWN || method === board.reference ? true : "legendonly",
      })),
    );
    return kept.length < made.length ? [...traces, count] : traces;
  }

  // Room for the lines, and for their bands unless these are so wide that the lines would be flat.
  function room(traces) {
    const [inner, outer] = [true, false].map((line) => traces.filter((t) => (t.fill === undefined) === line).flatMap((t) => t.y).filter((y) => y !== null));
    const [low, high] = [Math.min(...inner), Math.max(...inner)];
    const [least, most] = [Math.min(low, ...outer), Math.max(high, ...outer)];
    const [little, much] = [Math.max(0.1 * (high - low), 0.01), Math.max(2 * (high - low), 0.1)];
    return [Math.max(low - much, least - little), Math.min(high + much, most + little)];
  }

  // The 95 % band of a method: of the first one and the reference only, more would hide each other.
  function band(board, data, m, x, low, high) {
    if (m !== chosen(board, data)[0] && m !== board.reference) return [];
    return [{ x: [...x, ...[...x].reverse()], y: [...high, ...[...low].reverse()], fill: "toself",
      fillcolor: clear(looks(data, m).line.color, 0.14), mode: "none", showlegend: false, hoverinfo: "skip" }];
  }

  const percent = { tickformat: ".0%" };

  // Cost against benefit: a method is on the front if none is at least as good in both and better in one.
  const COSTS = ["inference_ratio", "train_ratio", "memory_ratio"];
  const BENEFITS = ["augrc", "augrc_saved", "aurc", "failure_auroc", "errors_caught_10", "image_auroc", "aupro_30", "ece"];

  function pareto(board, data) {
    const figure = document.getElementById("plot-pareto");
    const column = (name) => board.columns.findIndex((c) => c.name === name);
    for (const [name, all] of [["x", COSTS], ["y", BENEFITS]]) {
      const there = all.filter((metric) => column(metric) >= 0);
      const now = there.includes(state[name]) ? state[name] : there[0];
      options(figure.querySelector(`[name=${name}]`), there.map((m) => [m, board.columns[column(m)].title]), now);
      state[name] = now;
    }
    const [x, y] = [column(state.x), column(state.y)];
    if (x < 0 || y < 0) return place("#plot-pareto", [], {}, "No cost relative to the deterministic detector is known.");
    const { rows } = data;
    const wanted = new Set(chosen(board, data));
    const points = rows
      .filter(([method]) => wanted.has(method))
      .map(([method, , figures]) => ({ method, name: board.methods[method][0], x: figures[x], y: figures[y] }))
      .filter((p) => p.x[0] !== null && p.y[0] !== null);
    if (!points.length) return place("#plot-pareto", [], {}, lacking(board, data, "Nothing to draw: no method has both figures here."));
    const up = board.columns[y].direction === "higher" ? 1 : -1;
    const front = [];
    for (const p of [...points].sort((a, b) => a.x[0] - b.x[0] || up * (b.y[0] - a.y[0])))
      if (!front.length || up * (p.y[0] - front.at(-1).y[0]) > 0) front.push(p);
    const named = new Set(points.length <= 14 ? points : front);
    const margin = rows.find(([method]) => method === -2)?.[2][y];
    const least = Math.min(...points.map((p) => p.x[0]));
    const last = Math.max(...points.map((p) => p.x[0]));
    const traces = [
      { x: [...front.map((p) => p.x[0]), last], y: [...front.map((p) => p.y[0]), front.at(-1).y[0]], mode: "lines",
        line: { ...soft("solid"), shape: "hv" }, hoverinfo: "skip", showlegend: false },
      ...points.map((p) => ({ x: [p.x[0]], y: [p.y[0]], name: short(p.name), mode: "markers", cliponaxis: false,
        marker: { ...looks(data, p.method).marker, size: 10 }, showlegend: named.has(p),
        customdata: [[p.x[1], p.y[1], p.y[2] ?? ""]], hovertemplate: "%{customdata[0]}, %{customdata[1]} (%{customdata[2]})" })),
    ];
    if (margin && margin[0] !== null)
      traces.push({ x: [least, last], y: [margin[0], margin[0]], name: "threshold margin", mode: "lines", line: soft("dot"), hoverinfo: "skip" });
    const title = (c) => board.columns[c].title + (c === y ? (up > 0 ? " (higher is better)" : " (lower is better)") : "");
    const wide = last > 3 * least;
    const pad = 0.06 * (last - least || 1);
    const room = wide ? [Math.log10(least) - 0.08, Math.log10(last) + 0.08] : [least - pad, last + pad];
    const ratio = { ticksuffix: "×", range: room, ...(wide ? { type: "log", tickvals: [1, 2, 5, 10, 20, 50, 100, 200] } : {}) };
    place("#plot-pareto", traces, { showlegend: true, xaxis: axis(title(x), ratio), yaxis: axis(title(y)) },
      `${points.length} methods; on the front: ${front.map((p) => `${p.name} (${p.x[1]}, ${p.y[1]})`).join("; ")}.`);
  }

  const NEEDS = "Needs stored predictions with at least one wrong decision; these results came without.";

  function risk(board, data) {
    const covered = data.reviewed.map((share) => 1 - share);
    const traces = lines(board, data, (m) => {
      const curve = data.curves[m];
      if (!curve) return null;
      const coverage = covered.slice(0, curve.risk.length);
      return [...band(board, data, m, coverage, curve.risk_low, curve.risk_high), { x: coverage, y: curve.risk, mode: "lines" }];
    });
    const controls = data.curves[board.reference];
    if (traces.length && controls) {
      const coverage = covered.slice(0, controls.risk.length);
      const all = controls.risk[0];
      for (const [name, y, dash] of [["threshold margin", controls.risk_margin, "dash"], ["oracle", controls.risk_oracle, "dot"], ["chance", coverage.map(() => all), "longdash"]])
        traces.push({ x: coverage, y, name, mode: "lines", line: soft(dash) });
    }
    const top = Math.max(0.01, ...traces.filter((trace) => trace.fill === undefined).flatMap((trace) => trace.y));
    place("#plot-risk", traces, { xaxis: axis("Coverage", { ...percent, range: [0.08, 1.02] }), yaxis: axis("Error rate", { ...percent, range: [0, 1.35 * top] }) },
      traces.length ? "Risk-coverage curves; the area under them is AURC in the table." : lacking(board, data, NEEDS));
  }

  // Against the severity of one kind of shift, or over the real lightings, which have names instead.
  function severity(board, data, trends, id, metric, kind, half) {
    const points = Object.hasOwn(trends.kinds, kind ?? "") ? trends.points[metric]?.[kind] : undefined;
    const severities = trends.kinds[kind];
    const traces = !points ? [] : lines(board, data, (m) => {
      const there = severities.map((s, i) => [s, ...points[m][i]]).filter(([, value]) => value !== null);
      if (!there.length) return null;
      const x = there.map((p) => p[0]);
      const ends = [2, 3].map((end) => there.map((p) => p[end] ?? p[1]));
      return [...band(board, data, m, x, ...ends), { x, y: there.map((p) => p[1]), mode: "lines+markers" }];
    });
    if (traces.length && half)
      traces.push({ x: [severities[1] - 0.2, severities.at(-1) + 0.2], y: [0.5, 0.5], mode: "lines", line: soft("dot"), name: "blind", hoverinfo: "skip" });
    const yaxis = axis(trends.titles[metric] ?? "", { range: traces.length ? room(traces) : undefined });
    const title = isNamed(severities) ? "Lighting" : `Severity of ${kind}`;
    const slanted = isNamed(severities) && narrow();
    const xaxis = axis(slanted ? "" : title, isNamed(severities) ? { type: "category", tickangle: slanted ? 40 : 0 } : { dtick: 1 });
    const words = traces.length ? `${trends.titles[metric]} by ${title.toLowerCase()}.` : lacking(board, data, "No method has this figure here.");
    place(id, traces, { xaxis, yaxis }, words, slanted ? 36 : 0);
  }

  const isNamed = (severities) => typeof severities[0] === "string";

  function trend(board, data, trends) {
    const figure = document.getElementById("plot-trend");
    const metrics = Object.keys(trends.titles).filter((name) => name !== "shift_auroc");
    const kinds = Object.keys(trends.kinds);
    if (!metrics.includes(state.trend)) state.trend = metrics[0];
    if (!kinds.includes(state.kind)) state.kind = kinds[0];
    options(figure.querySelector("[name=trend]"), metrics.map((m) => [m, trends.titles[m]]), state.trend);
    options(figure.querySelector("[name=kind]"), kinds.map((k) => [k, k]), state.kind);
    const response = document.getElementById("plot-response");
    figure.hidden = kinds.length === 0;
    figure.querySelector("[name=kind]").closest("label").hidden = kinds.length < 2;
    response.hidden = figure.hidden || isNamed(trends.kinds[state.kind]);
    if (figure.hidden) return;
    figure.querySelector(".start").textContent = response.hidden
      ? "The first lighting is that of the training images." : "Severity 0 is the clean test set.";
    severity(board, data, trends, "#plot-trend", state.trend, state.kind, false);
    if (!response.hidden) severity(board, data, trends, "#plot-response", "shift_auroc", state.kind, true);
  }

  function reliability(board, data) {
    const traces = lines(board, data, (m) => {
      const curve = data.curves[m]?.reliability;
      return curve && { x: curve[0], y: curve[1], mode: "lines+markers", customdata: curve[2],
        hovertemplate: "says %{x:.2f}, is %{y:.2f}, %{customdata} images" };
    });
    if (traces.length) traces.push({ x: [0, 1], y: [0, 1], mode: "lines", line: soft("dot"), name: "says what is", hoverinfo: "skip" });
    place("#plot-reliability", traces, { xaxis: axis("Probability of a defect", { range: [-0.02, 1.02] }), yaxis: axis("Frequency", { range: [-0.02, 1.02] }) },
      traces.length ? "Reliability curves; the distance to the diagonal is ECE in the table." : lacking(board, data, NEEDS));
  }

  function critical(board, data) {
    const found = data.critical;
    const extent = document.querySelector("#plot-critical .extent");
    extent.textContent = "";
    if (!found) return place("#plot-critical", [], {}, "Needs two methods with AUGRC in at least two cells.");
    const names = found.methods.map((m) => board.methods[m][0]);
    if (found.cells < 6)
      return place("#plot-critical", [], {}, `With ${found.cells} cells (category and seed) the test can tell no two methods apart; it takes six.`);
    const ranked = data.all.filter(([method, , [rank]]) => method >= 0 && rank[0] !== null).length;
    if (names.length < ranked) extent.textContent = `; the best ${names.length} of ${ranked} methods are drawn`;
    const rows = names.map((_, i) => -i);
    const marks = found.methods.map((m) => looks(data, m).marker);
    const traces = found.groups.map(([first, last], i) => ({
      x: [found.ranks[first], found.ranks[last]], y: [0.7 + 0.5 * i, 0.7 + 0.5 * i], mode: "lines",
      line: { color: css("--ink"), width: 5 }, hoverinfo: "skip",
    }));
    traces.push({ x: found.ranks, y: rows, mode: "markers", text: names, cliponaxis: false,
      marker: { size: 9, color: marks.map((mark) => mark.color), symbol: marks.map((mark) => mark.symbol) },
      hovertemplate: "%{text}: mean rank %{x:.2f}<extra></extra>" });
    const [least, most] = [found.ranks[0], found.ranks.at(-1)];
    const room = Math.max(most - least, 0.5);
    place("#plot-critical", traces, {
      showlegend: false,
      height: Math.max(300, 106 + 26 * names.length),
      xaxis: axis(`Mean rank, ${found.cells} cells`, { range: [least - 0.1 * room, most + 0.1 * room], tickangle: 0, nticks: narrow() ? 4 : 8 }),
      yaxis: { tickvals: rows, ticktext: names.map((name) => short(name, narrow() ? 18 : 28)), showgrid: false, zeroline: false, automargin: true },
      shapes: names.map((_, i) => ({ type: "line", layer: "below", x0: found.ranks[i], x1: found.ranks[i], y0: -i, y1: 0.4, line: { color: css("--line"), width: 1 } })),
    }, `Mean ranks${extent.textContent}: ${names.map((name, i) => `${name} ${found.ranks[i].toFixed(2)}`).join(", ")}.`);
  }

  for (const name of ["x", "y", "trend", "kind"])
    document.querySelector(`.choices [name=${name}]`).addEventListener("change", ({ target }) => set({ [name]: target.value }));

  onDraw((board, data, trends) => {
    pareto(board, data);
    risk(board, data);
    trend(board, data, trends);
    reliability(board, data);
    critical(board, data);
  });

  return { place, lines, lacking, axis, soft, percent, NEEDS };
})();
