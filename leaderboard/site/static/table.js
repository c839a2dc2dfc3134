"use strict";

// The tables: rows of the chosen condition and category, sorted by DataTables.

(() => {
  const { boards, state, set, options, finds, breakable, onDraw } = rdbench;
  const form = document.getElementById("tools");

  const PAGE = 30; // rows at once: laying out hundreds takes a browser longer than sorting them

  // Numbers, with undefined ones at the end whichever way the column is sorted.
  const number = (text) => (text === "" ? null : Number(text));
  const order = (sign) => (a, b) =>
    a === null || b === null ? (a === null) - (b === null) : sign * (a - b);
  DataTable.type("figure", { order: { pre: number, asc: order(1), desc: order(-1) } });

  function element(tag, className, ...content) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...content);
    return node;
  }

  function track(band) {
    const node = element("i", "track");
    ["--low", "--at", "--high"].forEach((name, i) => node.style.setProperty(name, band[i]));
    return node;
  }

  // templates/figures.html makes the same.
  function figureCell([value, text, interval, band, note, mark]) {
    const cell = element("td", mark ?? "");
    cell.dataset.order = value ?? "";
    if (value === null) {
      cell.append(element("span", "why", text));
      return cell;
    }
    const shown = element("span", "value", text);
    if (note) {
      const star = element("abbr", "partial", "*");
      star.title = note;
      shown.append(star);
    }
    if (mark) shown.append(element("span", "hidden", ` ${mark}`));
    cell.append(shown);
    if (interval) cell.append(element("span", "interval", interval));
    if (band) cell.append(track(band));
    return cell;
  }

  const nameOf = (board, method) => (method < 0 ? board.controls[-1 - method] : board.methods[method][0]);

  function tableRow(board, [method, note, figures]) {
    const row = element("tr", method < 0 ? "control" : "");
    const head = element("th");
    head.scope = "row";
    const name = nameOf(board, method);
    head.dataset.order = name;
    if (method < 0) head.append(name);
    else {
      const link = element("a", "", ...breakable(name));
      link.href = board.methods[method][1];
      head.append(link);
    }
    if (note) head.append(element("span", "note", note));
    row.append(head, ...figures.map(figureCell));
    return row;
  }

  function enliven(board) {
    const lead = Math.max(board.columns.findIndex((column) => column.name === "augrc"), 0) + 1;
    const table = new DataTable(board.section.querySelector("table.board"), {
      paging: board.methods.length > PAGE,
      pageLength: PAGE,
      lengthChange: false,
      searching: false, // its search takes names for markup
      language: { emptyTable: "No method is found." },
      info: false,
      layout: { topStart: null, topEnd: null, bottomStart: board.methods.length > PAGE ? "paging" : null, bottomEnd: null },
      order: [[lead, "asc"]],
      autoWidth: false,
      columnDefs: [
        { targets: 0, type: "string" },
        ...board.columns.map((column, i) => ({
          targets: i + 1,
          type: "figure",
          orderSequence: column.direction === "higher" ? ["desc", "asc"] : ["asc", "desc"],
        })),
      ],
    });
    table.on("order", () => {
      if (board.id !== state.results) return;
      const [column, direction] = table.order()[0] ?? [];
      if (column === undefined) return;
      const name = column === 0 ? "method" : board.columns[column - 1].name;
      const sort = column === lead && direction === "asc" ? "" : `${name}:${direction}`;
      if (sort !== state.sort) set({ sort }, false);
    });
    return { table, lead };
  }

  function wantedOrder(board, lead) {
    const [name, direction] = state.sort.split(":");
    const column = name === "method" ? 0 : board.columns.findIndex((c) => c.name === name) + 1;
    if (!state.sort || (column === 0 && name !== "method")) return [[lead, "asc"]];
    return [[column, direction === "desc" ? "desc" : "asc"]];
  }

  // "noise:" for the severities of a shift, the name itself for the clean set and real lightings
  const kindOf = (name) => (name.includes(":") ? `${name.split(":")[0]}:` : name);

  function showForm(board) {
    const names = Object.keys(board.conditions);
    const kinds = [...new Set(names.map(kindOf))];
    const kind = kindOf(state.images);
    const words = (k) => (k === "shifts:" ? "all shifts" : k.endsWith(":") ? `shift: ${k.slice(0, -1)}` : board.conditions[k][2]);
    options(form.elements.images, kinds.map((k) => [k, words(k)]), kind);
    const severities = names.filter((name) => kind.endsWith(":") && kindOf(name) === kind).reverse();
    options(form.elements.severity, severities.map((name) => [name, name.split(":")[1]]), state.images);
    form.elements.severity.closest("label").hidden = severities.length === 0;
    form.elements.category.closest("label").hidden = board.categories.length < 2;
    options(form.elements.category, [["", "all"], ...board.categories.map((c) => [c, c])], state.category);
    form.elements.results.value = board.id;
    if (form.elements.find.value !== state.find) form.elements.find.value = state.find;
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", ({ target }) => {
    if (target.name === "results") set({ results: target.value });
    if (target.name === "category") set({ category: target.value });
    if (target.name === "severity") set({ images: target.value });
    if (target.name === "images") {
      // a shift is first shown as the mean over its severities, if it has more than one
      const names = Object.keys(boards.get(state.results).conditions);
      set({ images: names.findLast((name) => kindOf(name) === target.value) });
    }
  });
  form.elements.find.addEventListener("input", ({ target }) => set({ find: target.value }));

  const tables = new Map();
  let shown = "";
  onDraw((board, data) => {
    for (const other of boards.values()) other.section.hidden = other !== board;
    showForm(board);
    if (!tables.has(board.id)) tables.set(board.id, enliven(board));
    const { table, lead } = tables.get(board.id);
    const view = [board.id, state.images, state.category, state.find].join("/");
    const changed = view !== shown;
    if (changed) {
      table.clear();
      table.rows.add(data.rows.filter(([method]) => finds(nameOf(board, method))).map((row) => tableRow(board, row)));
      board.section.querySelector(".sureness").textContent = state.category ? "" : data.sureness;
      shown = view;
    }
    table.order(wantedOrder(board, lead)).draw(changed ? "full-reset" : "full-hold");
  });

  // Paper has all rows, and the screen afterwards the page of them that it had.
  let page = 0;
  addEventListener("beforeprint", () => {
    const table = tables.get(state.results)?.table;
    page = table?.page();
    table?.page.len(-1).draw("full-hold");
  });
  addEventListener("afterprint", () => tables.get(state.results)?.table.page.len(PAGE).page(page).draw("full-hold"));
})();
