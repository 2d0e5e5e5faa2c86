"use strict";
// A table that sorts, filters and turns its pages. Whatever a cell says stays text.

const PAGE_ROWS = 20;
const SIZES = { k: 1e3, M: 1e6, G: 1e9 };

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// What "35.23 ± 0.21", "13.9 M" or "1,800" begins with; null for words and for nothing.
function numberOf(text) {
  const found = /^\s*([-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?: ([kMG]))?(?=$|[\s%([/])/.exec(text);
  return found ? Number(found[1].replaceAll(",", "")) * (SIZES[found[2]] ?? 1) : null;
}

// The order of the rows, as their numbers, by one column; a column of numbers goes by them, and what is empty goes last.
function sorted(rows, order, column, direction) {
  const keys = rows.map((row) => numberOf(row[column]));
  const numeric = order.every((row) => keys[row] !== null || !rows[row][column]);
  const words = new Intl.Collator("en", { numeric: true });
  return [...order].sort((a, b) => {
    const [left, right] = [rows[a][column], rows[b][column]];
    if (!left || !right) return Boolean(right) - Boolean(left);
    return direction * (numeric ? keys[a] - keys[b] : words.compare(left, right));
  });
}

// What a filter looks into: the name of a row, and cells that are more than a number.
function isText(text, column) {
  return column === 0 || /\p{L}{2}/u.test(text);
}

// Fills `box` with the table; `turned` is told the rows of each page that is shown.
function makeTable(box, data, turned = () => {}) {
  const all = data.rows.map((_, row) => row);
  const texts = data.rows.map((row) => row.filter(isText).join("\n").toLowerCase());
  const state = { column: -1, direction: 0, page: 0, words: [] };
  const count = element("span", { className: "count" });
  count.setAttribute("aria-live", "polite");
  const filter = element("input", { type: "search", placeholder: "words" });
  const page = element("input", { type: "number", min: 1, value: 1 });
  const [back, next] = ["Previous", "Next"].map((name) => element("button", { type: "button", textContent: name }));
  const controls = element("div", { className: "controls" }, element("label", {}, "Filter ", filter), count);
  if (data.rows.length > PAGE_ROWS) controls.append(back, element("label", {}, "Page ", page), next);
  const heads = data.head.map((head, column) => {
    const button = element("button", { type: "button", textContent: head });
    const cell = element("th", { scope: "col" }, button);
    cell.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(column));
    return cell;
  });
  const body = element("tbody");
  const pinned = data.pinned.map((row) => element("tr", { className: "pinned" }, ...cells(row)));
  const top = element("thead", {}, element("tr", {}, ...heads), ...pinned);
  const table = element("table", {}, element("caption", { textContent: data.title }), top, body);
  const scroll = element("div", { className: "scroll", tabIndex: 0 }, table);
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", data.title);

  function cells(row, link) {
    const [first, ...others] = row;
    const name = link ? element("a", { href: link, textContent: first }) : first;
    return [element("th", { scope: "row" }, name), ...others.map(cell)];
  }

  function sortBy(column) {
    const again = state.column === column;
    state.direction = again ? { 1: -1, "-1": 0, 0: 1 }[state.direction] : 1;
    Object.assign(state, { column, page: 0 });
    const named = { 1: "ascending", "-1": "descending", 0: "none" };
    heads.forEach((head, n) => head.setAttribute("aria-sort", n === column ? named[state.direction] : "none"));
    show();
  }

  function show() {
    let order = all.filter((row) => state.words.every((word) => texts[row].includes(word)));
    if (state.direction) order = sorted(data.rows, order, state.column, state.direction);
    const pages = Math.max(1, Math.ceil(order.length / PAGE_ROWS));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const first = state.page * PAGE_ROWS;
    const shown = order.slice(first, first + PAGE_ROWS);
    body.replaceChildren(...shown.map((row) => element("tr", {}, ...cells(data.rows[row], data.links?.[row]))));
    count.textContent = told(first, shown.length, order.length, data.rows.length);
    Object.assign(page, { value: state.page + 1, max: pages });
    back.disabled = state.page === 0;
    next.disabled = state.page === pages - 1;
    turned(shown.map((row) => data.rows[row]));
  }

  function turn(to) {
    state.page = to;
    show();
  }

  filter.addEventListener("input", () => {
    state.words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    turn(0);
  });
  back.addEventListener("click", () => turn(state.page - 1));
  next.addEventListener("click", () => turn(state.page + 1));
  page.addEventListener("change", () => turn((Number(page.value) || 1) - 1));
  box.append(controls, scroll);
  show();
}

function cell(text) {
  return element("td", { textContent: text, className: text.length > 30 ? "long" : "" });
}

function told(first, shown, matching, all) {
  const number = (n) => n.toLocaleString("en");
  const of = matching === all ? "" : ` (of ${number(all)})`;
  if (shown === matching) return `${number(matching)} ${matching === 1 ? "row" : "rows"}${of}`;
  return `rows ${number(first + 1)} to ${number(first + shown)} of ${number(matching)}${of}`;
}
