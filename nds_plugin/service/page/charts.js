// Bar charts as SVG in real pixels: text keeps its size, the chart follows the width of its place.

import { fill, freshId, h } from "./dom.js";

const HEAD = 22;
const VALUE = 56;  // room for a number right of its bar
const GAP = 14;
const MOST_ROWS = 40;
const MANY = 16;  // more rows than this stand closer together

/**
 * Rows of bars with a table of the same numbers behind a button.
 *
 * A column is `{title, kind, values, text, reference?, paired?}`: `kind` names its colour ("z", "w" or "share"),
 * `text` writes a value, `reference` are the values of a uniform draw, shown as a mark or, where `paired`, as a
 * second bar.
 *
 * @param {{title: string, rowTitle: string}} options
 * @returns {{element: HTMLElement, update: Function}} `update({labels, columns, summary})`, labels `{main, sub?, full?}`.
 */
export function barChart({ title, rowTitle }) {
  const place = h("div", { class: "chart" });
  const rest = h("p", { class: "hint" });
  const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, table` });
  const details = h("details", {}, h("summary", {}, "The numbers as a table"), table);
  const element = h("div", {}, place, rest, details);
  let data = null;
  let width = 0;

  const draw = () => {
    if (data === null || width === 0) return;
    fill(place, picture(title, data, width));
  };
  // The table is long and mostly closed: it is made when it is looked at.
  const write = () => {
    if (data !== null && details.open) fill(table, numbers(title, rowTitle, data));
  };
  details.addEventListener("toggle", write);
  new ResizeObserver((entries) => {
    const now = Math.floor(entries[0].contentRect.width);
    if (now !== width) {
      width = now;
      draw();
    }
  }).observe(place);

  return {
    element,
    update(next) {
      data = next;
      const hidden = data.labels.length - MOST_ROWS;
      rest.hidden = hidden <= 0;
      rest.textContent = hidden > 0 ? `The first ${MOST_ROWS} of ${data.labels.length}; the table holds all.` : "";
      draw();
      write();
    },
  };
}

function picture(title, { labels, columns, summary }, width) {
  const rows = labels.slice(0, MOST_ROWS);
  const paired = columns.some((column) => column.paired);
  const step = (paired ? 26 : 24) - (rows.length > MANY ? 6 : 0);
  const narrow = width < 480;
  const label = narrow ? (columns.length > 1 ? 84 : 120) : Math.min(230, Math.round(width * (columns.length > 1 ? 0.26 : 0.34)));
  const each = Math.floor((width - label - GAP * columns.length) / columns.length);
  const ids = [freshId("chart"), freshId("chart")];
  const svg = h(
    "svg:svg",
    { width, height: HEAD + rows.length * step + 4, role: "img", "aria-labelledby": ids.join(" "), class: "bars" },
    h("svg:title", { id: ids[0] }, title),
    h("svg:desc", { id: ids[1] }, summary),
  );
  rows.forEach((row, i) => svg.append(...rowLabel(row, HEAD + i * step, step, label, narrow)));
  columns.forEach((column, c) => {
    const x = label + GAP + c * (each + GAP);
    svg.append(...drawColumn(column, rows.length, { x, width: each - VALUE, step }));
  });
  return svg;
}

function rowLabel({ main, sub }, y, step, width, narrow) {
  const middle = y + step / 2;
  const room = Math.floor((width - 4) / 7) - main.length - 1;
  const parts = [h("svg:tspan", { class: "main" }, clip(main, Math.floor(width / 8)))];
  if (sub && room > (narrow ? 4 : 3)) parts.push(h("svg:tspan", { class: "sub", dx: 6 }, clip(sub, room)));
  return [h("svg:text", { x: 0, y: middle, "dominant-baseline": "central" }, ...parts)];
}

const clip = (text, most) => (text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text);

function drawColumn({ title, kind, values, text, reference, paired }, count, { x, width, step }) {
  const shown = [...values, ...(reference ?? [])];
  const low = Math.min(0, ...shown);
  const high = Math.max(kind === "z" && Math.max(...shown) <= 1 ? 1 : 0, ...shown, low + 1e-12);
  const at = (value) => x + ((value - low) / (high - low)) * width;
  const parts = [h("svg:text", { x, y: 11, class: "head", "dominant-baseline": "central" }, title)];
  for (let i = 0; i < count; i += 1) {
    const top = HEAD + i * step;
    const tall = paired ? Math.round(step * 0.42) : step - 8;
    const y = top + (paired ? 3 : 4);
    parts.push(bar(`${kind} bar`, at(0), at(values[i]), y, tall));
    if (reference && paired) parts.push(bar("uniform bar", at(0), at(reference[i]), y + tall + 1, Math.round(step * 0.22)));
    if (reference && !paired) {
      parts.push(h("svg:line", { class: "mark", x1: at(reference[i]), x2: at(reference[i]), y1: top + 2, y2: top + step - 2 }));
    }
    const right = Math.max(at(values[i]), at(0), reference ? at(reference[i]) : 0) + 6;
    parts.push(h("svg:text", { x: right, y: y + tall / 2, class: "value", "dominant-baseline": "central" }, text(values[i])));
  }
  parts.push(h("svg:line", { class: "axis", x1: at(0), x2: at(0), y1: HEAD, y2: HEAD + count * step }));
  return parts;
}

function bar(name, from, to, y, height) {
  const width = Math.abs(to - from);
  return h("svg:rect", { class: name, x: Math.min(from, to), y, width, height, rx: Math.min(2, width / 2) });
}

function numbers(title, rowTitle, { labels, columns }) {
  const heads = columns.flatMap((column) => [column.title, ...(column.reference ? ["uniform"] : [])]);
  const rows = labels.map(({ main, sub, full = main }, i) =>
    h("tr", {},
      h("th", { scope: "row" }, full, sub ? h("span", { class: "sub" }, ` ${sub}`) : null),
      columns.flatMap(({ values, text, reference }) => [
        h("td", {}, text(values[i])),
        reference ? h("td", {}, text(reference[i])) : null,
      ])));
  return h("table", {},
    h("caption", { class: "unseen" }, title),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, rowTitle), heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows));
}

/** What the colours mean; entries are `[kind, text]`. */
export function legend(...entries) {
  return h("ul", { class: "legend" }, entries.map(([kind, text]) => h("li", {}, h("span", { class: `key ${kind}` }), text)));
}
