// The figures: a metric over multiply-adds, and learning curves.

const PALETTE = JSON.parse(document.getElementById("palette-json").textContent);
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "x", "star"];
const SIGNS = ["●", "■", "◆", "▲", "▼", "⬟", "✖", "★"]; // the same, in a legend
const MOST_RECIPES = 24; // a figure with more would be no figure: it draws those on the page of its table
const MOST_PANELS = 12;
const CROWDED = 6; // a panel with more operating points than these shows no spread
const CONFIG = { displayModeBar: false };
const PAPER_WIDTH = 640;
const DRAWN = new Map(); // plot -> what draws it anew

// Text of a record as plotly shows it: it reads tags.
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

// A width's colour, the same in every figure.
function widthColour(width) {
  const place = Math.min(Math.max(width, 0), 1) * (PALETTE.widths.length - 1);
  const [low, high] = [Math.floor(place), Math.ceil(place)].map((stop) => PALETTE.widths[stop]);
  return `rgb(${low.map((part, n) => Math.round(part + (high[n] - part) * (place - Math.floor(place)))).join(",")})`;
}

// The colour of an operating point: that of its width, or one of its own.
function pointColour(table, point) {
  if (point.width !== null) return widthColour(point.width);
  const others = table.points.filter((other) => other.width === null);
  return PALETTE.others[others.indexOf(point) % PALETTE.others.length];
}

function short(number) {
  const [letter, size] = Object.entries(SIZES).findLast(([, size]) => number >= size) ?? ["", 1];
  return `${Number((number / size).toPrecision(3))} ${letter}`.trim();
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ink", "quiet", "line", "card"].map((n) => [n, style.getPropertyValue(`--${n}`).trim()]));
}

function widthOf(plot) {
  return "printing" in document.documentElement.dataset ? Math.min(plot.clientWidth, PAPER_WIDTH) : plot.clientWidth;
}

// Keeps a figure as wide as its place, where it is zoomed to.
const SIZES_SEEN = new ResizeObserver((changes) => {
  for (const { target } of changes)
    if (DRAWN.has(target) && target._fullLayout.width !== widthOf(target)) Plotly.relayout(target, { width: widthOf(target) });
});

function draw(plot, figure) {
  const paint = () => {
    const { traces, layout } = figure(theme());
    Plotly.react(plot, traces, { ...layout, width: widthOf(plot) }, CONFIG);
  };
  DRAWN.set(plot, paint);
  SIZES_SEEN.observe(plot);
  paint();
}

function axes(colours, x, y) {
  const touch = matchMedia("(pointer: coarse)").matches; // there a finger that drags wants to scroll
  const common = { gridcolor: colours.line, linecolor: colours.quiet, zeroline: false, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colours.ink, size: 12, family: "system-ui, sans-serif" },
    hovermode: "closest",
    hoverlabel: { bgcolor: colours.card, bordercolor: colours.quiet, font: { color: colours.ink }, align: "left" },
    dragmode: touch ? false : "zoom",
    showlegend: false,
    xaxis: { ...common, ...x },
    yaxis: { ...common, ...y },
  };
}

function band(x, low, high, colour, opacity) {
  const style = { fill: "toself", fillcolor: colour, opacity, line: { width: 0 }, mode: "lines" };
  const place = { x: [...x, ...[...x].reverse()], y: [...high, ...[...low].reverse()] };
  return { type: "scatter", ...style, ...place, hoverinfo: "skip" };
}

function recipeColour(table, recipe, colours) {
  return table.individual.includes(recipe) ? colours.ink : PALETTE.lines[recipe % PALETTE.lines.length];
}

// What an input costs, and how many run at which width where each has its own.
function spent(cost) {
  const time = cost.milliseconds === undefined ? "" : `, ${Number(cost.milliseconds.toPrecision(3))} ms`;
  const shares = Object.entries(cost.shares ?? {}).map(([name, share]) => `${plain(name)}: ${Math.round(100 * share)} %`);
  return `${short(cost.macs)} multiply-adds${time}${shares.length ? `<br>inputs at width ${shares.join(", ")}` : ""}`;
}

// The traces of one view for the recipes whose numbers are in `shown`.
function spectrum(table, view, shown) {
  const costsOf = (recipe) => table.costs[table.costs.length > 1 ? recipe : 0];
  const seeds = table.seeds.length > 8 ? `${table.seeds.length} seeds` : `seed${table.seeds.length > 1 ? "s" : ""} ${table.seeds.join(", ")}`;
  const fixed = (value) => value.toFixed(view.decimals);

  function value(middle, below, above) {
    if (!below && !above) return `${fixed(middle)} ${view.unit}`;
    if (view.interval) return `${fixed(middle)} [${fixed(middle - below)}, ${fixed(middle + above)}] ${view.unit}`;
    return `${fixed(middle)} ± ${fixed(above)} ${view.unit}`;
  }

  function recipeTraces(recipe, colours) {
    const [middles, belows, aboves] = view.series[recipe];
    const costs = costsOf(recipe);
    const there = table.points.map((_, n) => n).filter((n) => middles[n] !== null && costs[n] !== null);
    there.sort((a, b) => costs[a].macs - costs[b].macs);
    if (!there.length) return [];
    const individual = table.individual.includes(recipe);
    const colour = recipeColour(table, recipe, colours);
    const name = plain(table.titles[recipe]);
    const complete = table.titles[recipe] === table.recipes[recipe]; // else the title tells how many seeds there are
    const [x, y] = [there.map((n) => costs[n].macs), there.map((n) => middles[n])];
    const spread = (ends, n) => (ends ? ends[n] : 0);
    const hover = there.map((n) => {
      const measured = plain(value(middles[n], spread(belows, n), spread(aboves, n)));
      return `<b>${name}</b><br>${plain(table.points[n].label)}, ${spent(costs[n])}<br>${measured}${complete ? `<br>${seeds}` : ""}`;
    });
    const marker = {
      color: there.map((n) => pointColour(table, table.points[n])),
      size: there.length > 12 ? 6 : 9,
      symbol: SYMBOLS[recipe % SYMBOLS.length],
      line: { color: colour, width: 1.5 },
    };
    const line = { color: colour, width: 2, dash: individual ? "dash" : "solid" };
    const points = { type: "scatter", mode: "lines+markers", x, y, line, marker, hoverinfo: "text", hovertext: hover };
    if (!belows) return [points];
    const [low, high] = [there.map((n) => middles[n] - belows[n]), there.map((n) => middles[n] + aboves[n])];
    return [points, band(x, low, high, colour, 0.16)];
  }

  function baselineTraces(x, colours) {
    const near = view.baselines.filter(([, , near]) => near);
    return near.map(([name, value]) => {
      const style = { mode: "lines", line: { color: colours.quiet, dash: "dot", width: 1.5 } };
      const hovertext = plain(`${name}: ${fixed(value)} ${view.unit}`);
      return { type: "scatter", ...style, x, y: x.map(() => value), hoverinfo: "text", hovertext };
    });
  }

  return (colours) => {
    const recipes = shown.flatMap((recipe) => recipeTraces(recipe, colours));
    recipes.sort((a, b) => Boolean(b.fill) - Boolean(a.fill)); // bands lie below all points
    const costs = recipes.flatMap((trace) => trace.x);
    const all = costs.length ? costs : table.costs.flat().filter((cost) => cost !== null).map((cost) => cost.macs);
    const ends = all.length ? [Math.min(...all), Math.max(...all)] : [];
    const scale = table.logarithmic ? { type: "log", dtick: "D2" } : {};
    const alone = ends[0] === ends[1] ? { autorangeoptions: { include: [ends[0] / 2, ends[0] * 2] } } : {};
    const x = { title: { text: "multiply-adds" }, tickformat: "~s", ...scale, ...alone };
    const layout = {
      ...axes(colours, x, { title: { text: plain(view.axis) } }),
      margin: { l: 10, r: 12, t: 10, b: 10 },
      uirevision: view.name,
    };
    return { traces: [...baselineTraces(ends, colours), ...recipes], layout };
  };
}

// One panel of learning curves.
function learning(table, curves, panel) {
  const points = new Set(panel.lines.map(([point]) => point));
  const individual = table.individual.includes(panel.recipe);
  const beside = curves.panels.find((other) => table.individual.includes(other.recipe));
  const few = points.size <= CROWDED;

  function line([number, steps, values], style, name) {
    const [x, point] = [curves.steps[steps], table.points[number]];
    const hovertext = values.map((value, n) => `<b>${name}</b><br>${plain(point.label)}<br>${short(x[n])} ${plain(curves.stepUnit)}: ${value}`);
    const own = { type: "scatter", mode: "lines", x, y: values, hoverinfo: "text", hovertext };
    return { ...own, line: { color: pointColour(table, point), width: 2, ...style } };
  }

  return (colours) => {
    const dash = individual ? { dash: "dash" } : {};
    const traces = panel.lines.map((one) => line(one, dash, plain(table.recipes[panel.recipe])));
    if (few) {
      for (const [number, steps, , low, high] of panel.lines)
        if (low) traces.unshift(band(curves.steps[steps], low, high, pointColour(table, table.points[number]), 0.12));
      if (beside && !individual)
        for (const one of beside.lines)
          if (points.has(one[0])) traces.push(line(one, { dash: "dash", width: 1 }, plain(table.recipes[beside.recipe])));
    }
    const layout = {
      ...axes(colours, { tickformat: "~s", title: { text: plain(curves.stepUnit) } }, { range: rangeOf(curves) }),
      margin: { l: 10, r: 8, t: 8, b: 10 },
    };
    return { traces, layout };
  };
}

// One range for all panels, so that they can be compared.
function rangeOf(curves) {
  let [low, high] = [Infinity, -Infinity];
  for (const panel of curves.panels)
    for (const [, , ...parts] of panel.lines)
      for (const part of parts) for (const value of part) [low, high] = [Math.min(low, value), Math.max(high, value)];
  const room = 0.05 * (high - low || 1);
  return [low - room, high + room];
}

// Which colour is which width, a dot for each of a few, a scale for many; and which is a plan or a rule.
function widthLegend(table, extra = []) {
  const widths = table.points.map((point) => point.width).filter((width) => width !== null);
  const list = element("ul", { className: "widths" });
  if (widths.length) list.append(element("li", { textContent: "width" }));
  if (widths.length <= 8) {
    for (const width of widths) list.append(element("li", {}, dot(widthColour(width)), String(width)));
  } else {
    const scale = element("i", { className: "scale" });
    const [low, high] = [Math.min(...widths), Math.max(...widths)];
    const stops = [...Array(9).keys()].map((n) => widthColour(low + ((high - low) * n) / 8));
    scale.style.background = `linear-gradient(to right, ${stops.join(",")})`;
    list.append(element("li", {}, String(low), scale, String(high)));
  }
  for (const point of table.points)
    if (point.width === null) list.append(element("li", {}, dot(pointColour(table, point)), point.label));
  list.append(...extra.map((text) => element("li", { textContent: text })));
  return list;
}

// Which line is which recipe; each is a button that hides it or brings it back.
function recipeLegend(table, view, shown, hidden, changed) {
  const list = element("ul", { className: "legend" });
  for (const recipe of shown.filter((one) => view.series[one][0].some((middle) => middle !== null))) {
    const individual = table.individual.includes(recipe);
    const sign = element("i", { textContent: `${individual ? "╌" : ""}${SIGNS[recipe % SIGNS.length]}` });
    sign.style.color = recipeColour(table, recipe, { ink: "inherit" });
    const button = element("button", { type: "button" }, sign, ` ${table.titles[recipe]}`);
    button.setAttribute("aria-pressed", String(!hidden.has(recipe)));
    button.addEventListener("click", () => {
      if (!hidden.delete(recipe)) hidden.add(recipe);
      button.setAttribute("aria-pressed", String(!hidden.has(recipe)));
      changed();
    });
    list.append(element("li", {}, button));
  }
  for (const [name, value, near] of view.baselines) {
    const far = near ? "" : `, outside of the figure: ${value.toFixed(view.decimals)} ${view.unit}`;
    list.append(element("li", {}, element("i", { textContent: "┄" }), ` ${name}${far}`));
  }
  return list;
}

// Buttons for those who have no mouse, or a finger that scrolls.
function zoomControls(plot) {
  const scale = (factor) => () => {
    const changes = { dragmode: "pan" };
    for (const name of ["xaxis", "yaxis"]) {
      const [low, high] = plot._fullLayout[name].range;
      const [middle, half] = [(low + high) / 2, ((high - low) / 2) * factor];
      changes[`${name}.range`] = [middle - half, middle + half];
    }
    Plotly.relayout(plot, changes);
  };
  const whole = () => {
    const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
    Plotly.relayout(plot, { "xaxis.autorange": true, "yaxis.autorange": true, dragmode });
  };
  const buttons = [["Zoom in", scale(0.5)], ["Zoom out", scale(2)], ["Reset zoom", whole]].map(([name, act]) => {
    const button = element("button", { type: "button", textContent: name });
    button.addEventListener("click", act);
    return button;
  });
  return element("div", { className: "controls zoom" }, ...buttons);
}

function dot(colour) {
  const made = element("i");
  made.style.background = colour;
  return made;
}
