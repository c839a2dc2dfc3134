"use strict";

// What the page shows: chosen in the form, kept in the address so that a view can be sent, and drawn by whoever
// subscribes. All text of an entry goes into the page as text, never as markup.

function caution(text) {
  const note = document.createElement("p");
  note.className = "caveat";
  note.setAttribute("role", "alert");
  note.textContent = text;
  document.getElementById("main").prepend(note);
  return note;
}

// In a repository the site lies without the libraries, which are the code of others.
if (!window.DataTable || !window.Plotly)
  caution("Sorting, plots and the explorer need datatables.js and plotly.js in static/, which are not here; rdbench leaderboard writes them.");

const rdbench = (() => {
  const NARROW = "(max-width: 40rem)"; // as in style.css
  const boards = new Map();
  for (const section of document.querySelectorAll("section.ranking")) {
    const data = JSON.parse(section.querySelector("script.board-data").textContent);
    boards.set(section.id, { id: section.id, section, ...data });
  }
  const first = boards.keys().next().value;
  const defaults = { results: first, images: "clean", category: "", sort: "", find: "" };
  const state = {};

  // A place on the page, such as the skip link's, and not a state.
  const isPlace = () => /^#[^=]+$/.test(location.hash);

  // What the address does not say is as at first.
  function read() {
    for (const name of Object.keys(state)) delete state[name];
    Object.assign(state, defaults, isPlace() ? {} : Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
    if (!boards.has(state.results)) state.results = first;
  }
  read();

  const received = new Map();
  const waiting = new Map();
  const drawers = [];

  // A data file calls this with its name when it has been loaded.
  function receive(name, json) {
    const content = JSON.parse(json);
    received.set(name, content);
    waiting.get(name)?.(content);
  }

  function load(path, name) {
    if (received.has(name)) return Promise.resolve(received.get(name));
    return new Promise((resolve, reject) => {
      waiting.set(name, resolve);
      const script = document.createElement("script");
      script.src = path;
      script.onload = script.onerror = () => received.has(name) || reject(path);
      document.head.append(script);
    });
  }

  const board = () => boards.get(state.results);

  function remember() {
    const kept = Object.entries(state).filter(([name, value]) => value !== defaults[name] && value !== undefined);
    const hash = new URLSearchParams(kept).toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
  }

  let turn = 0;
  let lacking; // the note about a data file
  async function draw() {
    const mine = ++turn;
    lacking?.remove();
    const shown = board();
    if (!Object.hasOwn(shown.conditions, state.images)) state.images = "clean";
    if (shown.categories.length < 2 || !shown.categories.includes(state.category)) state.category = "";
    const name = `${shown.id}/${state.images}`;
    const [path, byCategory] = shown.conditions[state.images];
    let missing;
    const files = await Promise.all([
      load(path, name),
      load(shown.trends, `${shown.id}/trends`),
      state.category && load(byCategory, `${name}/categories`),
    ]).catch((file) => (missing = file));
    if (mine !== turn) return; // something newer was asked for meanwhile
    if (missing) {
      lacking = caution(`Table and plots cannot follow the choice without ${missing}, which is not here; rdbench leaderboard writes it.`);
      return;
    }
    const [data, trends, categories] = files;
    const rows = state.category ? categories[state.category] : data.rows; // of the table
    for (const drawer of drawers) drawer(shown, { ...data, rows, all: data.rows }, trends);
    document.documentElement.dataset.drawn = turn;
  }

  // Change the state, keep it in the address, and draw unless only the looks of one part changed.
  function set(changes, redraw = true) {
    Object.assign(state, changes);
    remember();
    if (redraw) draw();
  }

  function options(select, entries, value) {
    select.replaceChildren(...entries.map(([key, text]) => new Option(text, key, false, key === value)));
    select.value = value;
  }

  // Whether the search finds what is called so: by each of its words.
  function finds(name) {
    const lower = name.toLowerCase();
    return state.find.toLowerCase().split(/\s+/).every((word) => lower.includes(word));
  }

  // A method's name, which may break after its words and before its options. templates/figures.html makes the same.
  function breakable(name) {
    const [bare] = name.split("[");
    const parts = [...bare.split(/(?<=_)/), name.slice(bare.length)].filter(Boolean);
    return parts.flatMap((part) => [part, document.createElement("wbr")]).slice(0, -1);
  }

  addEventListener("DOMContentLoaded", draw);
  addEventListener("hashchange", () => {
    if (isPlace()) return remember();
    read();
    draw();
  });

  // Paper is light, has a width of its own, and nothing on it can be opened.
  let closed = [];
  const onPaper = (printing) => () => {
    document.documentElement.classList.toggle("printing", printing);
    if (printing) closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = printing;
    draw();
  };
  addEventListener("beforeprint", onPaper(true));
  addEventListener("afterprint", onPaper(false));
  for (const query of ["(prefers-color-scheme: dark)", NARROW]) matchMedia(query).addEventListener("change", draw);
  return { NARROW, boards, state, receive, draw, set, options, finds, breakable, onDraw: (drawer) => drawers.push(drawer) };
})();
