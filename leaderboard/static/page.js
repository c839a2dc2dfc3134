"use strict";

// Sorting and the choice of test images. All text goes in as text; nothing of an entry is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function track(band) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of [["class", "track"], ["viewBox", "0 0 100 6"], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]])
    svg.setAttribute(name, value);
  for (const [name, d] of [["band", `M${band[0]} 3H${band[2]}`], ["dot", `M${band[1]} 3h0`]]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

function figureCell([value, text, interval, band, note], title) {
  const cell = element("td");
  cell.dataset.label = title;
  if (value === null) {
    cell.className = "undefined";
    cell.append(element("span", "why", text));
    return cell;
  }
  cell.dataset.value = value;
  const shown = element("span", "value", text);
  if (note) {
    const star = element("abbr", "partial", "*");
    star.title = note;
    shown.append(star);
  }
  cell.append(shown);
  if (interval) cell.append(element("span", "interval", interval));
  if (band) cell.append(track(band));
  return cell;
}

function tableRow(section, titles, { name, method, note, figures }) {
  const row = element("tr", method === null ? "control" : "");
  const head = element("th");
  head.scope = "row";
  if (method === null) head.append(name);
  else {
    const link = element("a", "", name);
    link.href = `#${section.id}-m${method}`;
    head.append(link);
  }
  if (note) head.append(element("span", "note", note));
  row.append(head, ...figures.map((figure, i) => figureCell(figure, titles[i])));
  return row;
}

// Undefined figures stay at the end whichever way the column is sorted.
function sortBy(table, column, ascending) {
  const body = table.tBodies[0];
  const key = (row) => (column === 0 ? row.cells[0].textContent : row.cells[column].dataset.value);
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const order = column === 0 ? x.localeCompare(y) : Number(x) - Number(y);
    return ascending ? order : -order;
  });
  body.append(...rows);
  for (const [i, head] of [...table.tHead.rows[0].cells].entries()) {
    if (i === column) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
}

function enliven(section) {
  const table = section.querySelector("table.board");
  const heads = [...table.tHead.rows[0].cells];
  const titles = heads.slice(1).map((head) => head.querySelector("button").firstChild.textContent);
  const views = JSON.parse(section.querySelector("script.views").textContent);
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sortBy(table, column, now ? now === "descending" : button.dataset.best !== "higher");
    });
  });
  section.querySelector(".condition")?.addEventListener("change", (event) => {
    const rows = views[event.target.value].map((row) => tableRow(section, titles, row));
    table.tBodies[0].replaceChildren(...rows);
    const column = heads.findIndex((head) => head.hasAttribute("aria-sort"));
    if (column >= 0) sortBy(table, column, heads[column].getAttribute("aria-sort") === "ascending");
  });
}

document.querySelectorAll("section.ranking").forEach(enliven);

// A link to a method opens its details.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();
