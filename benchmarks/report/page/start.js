// Brings the page to life: tables when there is time, figures when they come into sight, everything before it is printed.

const PREPARED = new Map(); // section -> what is known of it
const SEEN = new WeakSet();

function prepare(section) {
  if (!PREPARED.has(section)) {
    const data = JSON.parse(section.querySelector("script").textContent);
    const numbers = new Map(data.table.recipes.map((name, number) => [name, number]));
    const known = { ...data, numbers, view: data.table.views[0], shown: everything(data.table), hidden: new Set() };
    PREPARED.set(section, known);
    if (data.table.views.length > 1) section.querySelector(".views").append(chooser(section, known));
    fillGrids(section, known);
    const pictures = section.querySelector(".pictures");
    if (pictures) makePictures(pictures, data.pictures);
  }
  return PREPARED.get(section);
}

function everything(table) {
  return [...table.recipes.keys()].slice(0, MOST_RECIPES);
}

function chooser(section, known) {
  const select = element("select");
  select.append(...known.table.views.map((view, number) => element("option", { value: number, textContent: view.name })));
  select.addEventListener("change", () => {
    known.view = known.table.views[select.value];
    fillGrids(section, known);
    if (SEEN.has(section)) drawSpectrum(section, known);
  });
  return element("label", {}, "Show ", select);
}

function fillGrids(section, known) {
  const box = section.querySelector(".grids");
  box.replaceChildren();
  known.view.grids.forEach((grid, number) => makeTable(box, grid, number ? undefined : (rows) => follow(section, known, rows)));
}

// With too many recipes for one figure, it draws those on the page of the table, and individual networks.
function follow(section, known, rows) {
  const { table, numbers } = known;
  if (table.recipes.length <= MOST_RECIPES) return;
  const onPage = rows.map(([name]) => numbers.get(name)).filter((number) => number !== undefined);
  known.shown = [...new Set([...table.individual.slice(0, 1), ...onPage])];
  if (SEEN.has(section)) {
    drawSpectrum(section, known);
    drawLearning(section, known);
  }
}

function drawSpectrum(section, { table, view, shown, hidden }) {
  const plot = section.querySelector(".spectrum .plot");
  const redraw = () => draw(plot, spectrum(table, view, shown.filter((recipe) => !hidden.has(recipe))));
  redraw();
  const caption = section.querySelector(".spectrum figcaption");
  caption.replaceChildren(recipeLegend(table, view, shown, hidden, redraw), widthLegend(table), zoomControls(plot));
  const said = [];
  if (table.recipes.length > MOST_RECIPES)
    said.push(`${shown.length} of ${table.recipes.length.toLocaleString("en")} recipes are drawn: those on the page of the table below.`);
  caption.append(...said.map((text) => element("p", { className: "note", textContent: text })));
}

function drawLearning(section, { table, shown }) {
  const box = section.querySelector(".learning");
  if (!box) return;
  const { curves } = table;
  const wanted = new Set(shown);
  const panels = curves.panels.filter((panel) => wanted.has(panel.recipe)).slice(0, MOST_PANELS);
  const extra = [
    ...(curves.spread ? [`shaded: ${curves.spread} over seeds`] : []),
    ...(table.individual.length ? ["dashed: individual networks"] : []),
  ];
  box.querySelectorAll(".plot").forEach((plot) => {
    DRAWN.delete(plot);
    SIZES_SEEN.unobserve(plot);
    Plotly.purge(plot);
  });
  box.replaceChildren(element("p", { className: "subject", textContent: `Learning curves: ${curves.axis}` }), widthLegend(table, extra));
  const grid = element("div", { className: "panels" });
  box.append(grid);
  for (const panel of panels) {
    const plot = element("div", { className: "plot" });
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", `Learning curves of ${table.recipes[panel.recipe]}`);
    grid.append(element("div", { className: "panel" }, element("h5", { textContent: table.titles[panel.recipe] }), plot));
    draw(plot, learning(table, curves, panel));
  }
  const said = [];
  if (panels.length < curves.recipes)
    said.push(`Curves of ${panels.length} of ${curves.recipes.toLocaleString("en")} recipes are drawn; the page holds those of ${curves.panels.length.toLocaleString("en")}, records have all.`);
  if (curves.thinned) said.push("Long curves are thinned to what a screen can show.");
  box.append(...said.map((text) => element("p", { className: "note", textContent: text })));
}

function show(section) {
  if (SEEN.has(section)) return;
  SEEN.add(section);
  const known = prepare(section);
  drawSpectrum(section, known);
  drawLearning(section, known);
}

const SECTIONS = [...document.querySelectorAll(".result")];

function prepareInSpareTime() {
  const missing = SECTIONS.find((section) => !PREPARED.has(section));
  if (!missing) return;
  prepare(missing);
  setTimeout(prepareInSpareTime, 0);
}

function repaint() {
  for (const paint of DRAWN.values()) paint();
}

for (const list of document.querySelectorAll(".list")) {
  list.classList.add("words");
  makeTable(list, JSON.parse(document.getElementById(`${list.dataset.json}-json`).textContent));
}
const watcher = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    watcher.unobserve(entry.target);
    show(entry.target);
  }),
  { rootMargin: "300px" },
);
SECTIONS.forEach((section) => watcher.observe(section));
prepareInSpareTime();

if (matchMedia("(max-width: 64rem)").matches) document.querySelector(".menu")?.removeAttribute("open");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
addEventListener("beforeprint", () => {
  document.documentElement.dataset.printing = "";
  SECTIONS.forEach(show);
  repaint();
});
addEventListener("afterprint", () => {
  delete document.documentElement.dataset.printing;
  repaint();
});
