"use strict";

// The decision explorer: expected cost per part when the most uncertain parts go to a person who finds the truth.
//
// For each share of the test images sent to review, a method's curves say which share of the defective and of the
// normal images is reviewed, and which share of each is decided wrongly without review. With the reader's share of
// defective parts these give budget and cost in production.

(() => {
  const { state, set, finds, breakable, onDraw } = rdbench;
  const { place, lines, lacking, axis, soft, percent, NEEDS } = rdbench.plots;
  const form = document.querySelector(".sliders");
  const inputs = [...form.querySelectorAll("input")];

  const money = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

  // A share that is not quite none or all is not written as if it were: the explorer would give two prices for it.
  function shareOf(budget) {
    const whole = (100 * budget).toFixed(0);
    const rounded = (whole === "0" && budget > 0) || (whole === "100" && budget < 1);
    return rounded ? (budget < 0.5 ? "under 1 %" : "over 99 %") : `${whole} %`;
  }

  // Each budget with its cost, and half the 95 % interval of that for as many parts as there were in the test. Parts
  // of both classes are binomial, with one more right and one more wrong, since none in few is not never.
  function costs(curve, suffix, price) {
    const [misses, alarms, anomalous, normal] = ["misses", "alarms", "reviewed_anomalous", "reviewed_normal"].map((name) => curve[name + suffix]);
    const mix = (defective, good) => price.defective * defective + (1 - price.defective) * good;
    const variance = (share, parts) => {
      const p = (share * parts + 1) / (parts + 2);
      return (p * (1 - p)) / parts;
    };
    return misses.map((miss, i) => {
      const budget = mix(anomalous[i], normal[i]);
      const [defective, good] = [price.defective * price.miss, (1 - price.defective) * price.alarm];
      const spread = Math.sqrt(defective ** 2 * variance(miss, curve.parts[0]) + good ** 2 * variance(alarms[i], curve.parts[1]));
      return { budget, cost: mix(price.miss * miss, price.alarm * alarms[i]) + price.review * budget, chance: budget < 1 ? 1.96 * spread : 0 };
    });
  }

  const equal = (a, b) => Math.abs(a.cost - b.cost) <= 1e-9 * Math.max(a.cost, b.cost);
  const within = (a, b) => Math.abs(a.cost - b.cost) <= Math.hypot(a.chance, b.chance);

  function list(names) {
    const some = names.length > 4 ? [...names.slice(0, 3), `${names.length - 3} more`] : names;
    return some.length > 1 ? `${some.slice(0, -1).join(", ")} and ${some.at(-1)}` : some[0];
  }

  const cheapest = (points) => points.reduce((a, b) => (b.cost < a.cost ? b : a));

  function write(name, best, first, mark = "") {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.append(...breakable(name));
    const saved = first.cost > 0 ? 1 - best.cost / first.cost : 0;
    row.append(head, ...[shareOf(best.budget), money(best.cost), `${(100 * saved).toFixed(0)} %`].map((text) => {
      const cell = document.createElement("td");
      const value = document.createElement("span");
      value.className = "value";
      value.append(text);
      cell.append(value);
      return cell;
    }));
    if (mark) row.cells[2].className = mark;
    return row;
  }

  function against(free, best, reference) {
    const words = `threshold margin of ${reference}`;
    if (equal(free, best)) return ` The ${words}, which is free, costs as much.`;
    if (free.cost < best.cost) return ` The ${words}, which is free, costs less: ${money(free.cost)}.`;
    return ` The ${words}, which is free, costs ${money(free.cost)}${within(free, best) ? ", within chance too" : ""}.`;
  }

  function explore(board, data) {
    for (const input of inputs) {
      const wanted = state[input.name] ?? "";
      input.value = wanted === "" || isNaN(wanted) ? input.defaultValue : wanted; // the browser keeps it in its range
      if (input.name in state) state[input.name] = input.value;
      const shown = input.value + input.dataset.unit;
      form.elements[`${input.name}-value`].value = shown;
      input.setAttribute("aria-valuetext", shown);
    }
    const price = Object.fromEntries(inputs.map((input) => [input.name, Number(input.value)]));
    price.defective /= 100;
    const body = document.querySelector(".costs tbody");
    const verdict = document.querySelector(".verdict");
    const usable = (m) => data.curves[m] && data.curves[m].misses.every((v) => v !== null) && data.curves[m].alarms.every((v) => v !== null);
    const found = board.methods.map(([name], m) => [m, name]).filter(([m]) => usable(m)).map(([m, name]) => {
      const points = costs(data.curves[m], "", price);
      return { m, name, points, best: cheapest(points), first: points[0] };
    }).sort((a, b) => a.best.cost - b.best.cost);
    if (!found.length) {
      body.replaceChildren();
      verdict.textContent = "";
      return place("#plot-cost", [], {}, NEEDS);
    }
    const [top] = found;
    const bests = found.filter(({ best }) => equal(best, top.best));
    const close = found.filter(({ best }) => !equal(best, top.best) && within(best, top.best));
    const mark = (method) => (bests.includes(method) ? "best" : close.includes(method) ? "tied" : "");
    const rows = found.map((method) => write(method.name, method.best, method.first, mark(method)));
    const free = usable(board.reference) ? costs(data.curves[board.reference], "_margin", price) : null;
    if (free) {
      const row = write(`threshold margin of ${board.methods[board.reference][0]}`, cheapest(free), free[0]);
      row.className = "control";
      const at = found.findIndex(({ best }) => best.cost > cheapest(free).cost);
      rows.splice(at < 0 ? rows.length : at, 0, row);
    }
    body.replaceChildren(...rows.filter((row) => finds(row.cells[0].textContent)));

    const { budget } = top.best;
    const plan = budget === 0 ? "reviewing nothing" : budget === 1 ? "reviewing every part" : `reviewing ${shareOf(budget)} of the parts, the most uncertain first`;
    const best = `${bests.length > 1 ? "Best methods, equal" : "Best method"}: ${list(bests.map(({ name }) => name))}, ${plan}, at ${money(top.best.cost)} per part`;
    const plain = `without review ${money(top.first.cost)}, with review of everything ${money(price.review)}`;
    const others = close.length ? ` Within chance of it, for so few parts: ${list(close.map(({ name }) => name))}.`
      : bests.length < found.length ? " The others cost more by more than chance." : "";
    verdict.textContent = `${best}; ${plain}.${others}${free ? against(cheapest(free), top.best, board.methods[board.reference][0]) : ""}`;

    const traces = lines(board, data, (m) => {
      const method = found.find((f) => f.m === m);
      if (!method) return null;
      return [
        { x: method.points.map((p) => p.budget), y: method.points.map((p) => p.cost), mode: "lines" },
        { x: [method.best.budget], y: [method.best.cost], mode: "markers", showlegend: false, hoverinfo: "skip" },
      ];
    }, found.filter(({ name }) => finds(name)).map(({ m }) => m));
    if (traces.length && free) traces.push({ x: free.map((p) => p.budget), y: free.map((p) => p.cost), name: "threshold margin", mode: "lines", line: soft() });
    place("#plot-cost", traces, { xaxis: axis("Parts sent to review", { ...percent, range: [-0.02, 1.02] }), yaxis: axis("Cost per part") },
      traces.length ? verdict.textContent : lacking(board, data, NEEDS));
  }

  let last = null;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", ({ target }) => {
    set({ [target.name]: target.value }, false);
    if (last) explore(...last);
  });
  onDraw((board, data) => {
    last = [board, data];
    explore(board, data);
  });
})();
