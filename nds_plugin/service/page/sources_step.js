// Step 1: which sources to choose from.

import { catalogue, chosen, sum } from "./catalogue.js";
import { announce, fill, h } from "./dom.js";
import { current, keep } from "./draft.js";
import { plural } from "./format.js";
import { sourceTable } from "./home.js";
import { stepper, title } from "./parts.js";

export async function sourcesView() {
  const { set, sources } = await catalogue();
  const draft = current(set.hash);
  const picked = new Set(chosen(sources, draft.sources).map(({ name }) => name));
  const total = h("p", { class: "total", role: "status" });
  const error = h("p", { class: "fielderror", id: "sources-error", role: "alert" });
  const boxes = new Map(sources.map(({ name }) => [name, box(name, picked, changed)]));

  function changed() {
    const found = sources.filter(({ name }) => picked.has(name));
    const clusters = new Set(found.flatMap((source) => source.clusters));
    fill(total, h("strong", {}, plural(sum(found.map(({ images }) => images)), "image")),
      ` of ${plural(found.length, "source")} in ${plural(clusters.size, "cluster")}`);
    if (found.length) error.textContent = "";
    const all = found.length === sources.length;
    keep({ ...current(set.hash), sources: all ? null : found.map(({ name }) => name) });
  }

  function all(on) {
    for (const [name, input] of boxes) {
      input.checked = on;
      if (on) picked.add(name);
      else picked.delete(name);
    }
    changed();
  }

  function next(event) {
    event.preventDefault();
    if (picked.size) {
      location.hash = "#/search/scores";
      return;
    }
    error.textContent = "Choose at least one source.";
    boxes.values().next().value.focus();
  }

  changed();
  const reached = ["scores", ...(draft.scores || draft.settings.selector === "uniform" ? ["selection"] : [])];
  return [
    stepper("sources", reached),
    title("Choose sources"),
    h("p", { class: "intro" }, "The images are drawn from the sources that you choose; their licences hold for you."),
    h("form", { novalidate: true, onsubmit: next },
      h("div", { class: "row small" },
        h("button", { type: "button", class: "small", onclick: () => { all(true); announce("All sources chosen."); } }, "All"),
        h("button", { type: "button", class: "small", onclick: () => { all(false); announce("No source chosen."); } }, "None"),
        total),
      error,
      h("section", { class: "flush" }, sourceTable(sources, ({ name }) => boxes.get(name))),
      h("p", { class: "row" }, h("button", { type: "submit" }, "Go on to the scores"))),
  ];
}

function box(name, picked, changed) {
  const input = h("input", { type: "checkbox", "aria-label": `Choose ${name}`, checked: picked.has(name), "aria-describedby": "sources-error" });
  input.addEventListener("change", () => {
    if (input.checked) picked.add(name);
    else picked.delete(name);
    changed();
  });
  return input;
}
