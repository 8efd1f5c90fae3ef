// Step 3: budget, temperature and the like, with what they do beside them.

import * as api from "./api.js";
import { catalogue, chosen, clusterImages, mainSources, sum } from "./catalogue.js";
import { fill, h } from "./dom.js";
import { current, keep, requestOf } from "./draft.js";
import { errorNotice, field, radios, stepper, title } from "./parts.js";
import { livePreview } from "./preview.js";
import { budgetControl, seedControl, temperatureControl } from "./controls.js";

export async function selectionView() {
  const { set, sources } = await catalogue();
  const picked = chosen(sources, current(set.hash).sources);
  const images = clusterImages(picked, set.num_clusters);
  prepare(set, sum(images));

  const draft = () => current(set.hash);
  const change = (settings) => keep({ ...draft(), settings: { ...draft().settings, ...settings } });
  const fields = controls(draft(), sum(images), change);
  const note = h("div");
  const preview = livePreview({
    sources: picked,
    names: mainSources(picked, set.num_clusters),
    request: () => (valid(fields) ? requestOf(draft()) : null),
    failed: (error) => show(error, fields, note),
  });
  const form = h("form", { novalidate: true, onsubmit: (event) => submit(event, { fields, note, draft }) },
    fields.selector, fields.budget.element, fields.softmax,
    h("div", { class: "pairs" }, fields.seed.element, fields.title.element), note,
    h("p", { class: "row" }, h("button", { type: "submit", id: "create" }, "Run the search")), preview.glance);
  form.addEventListener("input", (event) => {
    if (event.target !== fields.title.control) preview.refresh();
  });
  preview.refresh();
  return [
    stepper("selection", ["sources", "scores"]),
    title("Set the selection"),
    draft().stale ? staleNotice() : null,
    h("div", { class: "columns" }, form, preview.element),
  ];
}

const staleNotice = () => h("p", { class: "notice" }, "The experts were replaced since you scored your images; ",
  h("a", { href: "#/search/scores" }, "score them again"), " to use NDS.");

/** A first budget, and a selector that can work. */
function prepare(set, drawable) {
  const draft = current(set.hash);
  const { budget } = draft.settings;
  const settings = { ...draft.settings };
  if (budget === null || budget > drawable) settings.budget = Math.max(1, Math.round(drawable / 5));
  if (draft.scores === null) settings.selector = "uniform";
  keep({ ...draft, settings });
}

function controls({ settings, scores }, drawable, change) {
  const name = h("input", { type: "text", maxlength: 200, value: settings.title, id: "title", autocomplete: "off" });
  name.addEventListener("input", () => change({ title: name.value.trim() }));
  const temperature = temperatureControl(settings.temperature, (value) => change({ temperature: value }));
  const normalisation = radios("Normalisation of the scores", "normalisation", [
    ["minmax", "Min-max", "Onto 0 to 1 first, so that T means the same for any scores."],
    ["none", "None", "The scores as they are."],
  ], settings.normalisation, (value) => change({ normalisation: value }));
  const softmax = h("div", { class: "softmax", hidden: settings.selector === "uniform" }, temperature.element, normalisation);
  const selector = radios("Selector", "selector", [
    ["nds", "NDS", scores ? "Clusters whose experts do well on your data are drawn more often." : "Needs scores: go back one step.", !scores],
    ["uniform", "Uniform", "Every image alike: the baseline."],
  ], settings.selector, (value) => {
    softmax.hidden = value === "uniform";
    change({ selector: value });
  });
  return {
    selector, softmax, temperature,
    budget: budgetControl(settings.budget, drawable, (budget) => change({ budget })),
    seed: seedControl(settings.seed, (seed) => change({ seed })),
    title: field("Title", name, { hint: "For your own list, kept on the server. May stay empty." }),
  };
}

const valid = ({ budget, temperature, seed, softmax }) =>
  budget.valid() && seed.valid() && (softmax.hidden || temperature.valid());

/** A server's error goes to the field that it speaks of, or above the button. */
function show(error, fields, note) {
  fill(note);
  for (const name of ["budget", "temperature", "seed", "title"]) if (fields[name].valid?.() ?? true) fields[name].fail(null);
  if (error === null) return;
  if (error.field in fields && fields[error.field].fail) fields[error.field].fail(error.message);
  else fill(note, errorNotice(error, remedy(error)));
}

function remedy(error) {
  if (error.status === 409 || error.status === 404) return h("a", { class: "button small", href: "#/search/scores" }, "Score again");
  if (error.status === 401) return h("button", { type: "submit", class: "small", onclick: () => api.keepToken(null) }, "Search under a new token");
  return null;
}

const keys = new Map();

/** The same key for repeats of the same request; another request, another key. */
function keyOf(request) {
  const text = JSON.stringify(request);
  if (!keys.has(text)) keys.set(text, [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join(""));
  return { key: keys.get(text), done: () => keys.delete(text) };
}

async function submit(event, { fields, note, draft }) {
  event.preventDefault();
  if (!valid(fields)) {
    event.target.querySelector("[aria-invalid]")?.focus();
    return;
  }
  const button = document.getElementById("create");
  button.disabled = true;
  const request = requestOf(draft());
  const { key, done } = keyOf(request);
  try {
    const search = await api.createSearch(request, key);
    done();
    location.hash = `#/searches/${search.id}`;
  } catch (error) {
    show(error, fields, note);
  } finally {
    button.disabled = false;
  }
}
