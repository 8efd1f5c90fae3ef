// Step 4: what was drawn, and how to take it home.

import * as api from "./api.js";
import { mainSources, order, sum } from "./catalogue.js";
import { barChart, legend } from "./charts.js";
import { h } from "./dom.js";
import { fromSearch } from "./draft.js";
import { downloads } from "./downloads.js";
import { count, number, percent, plural, time } from "./format.js";
import { imageList } from "./image_list.js";
import { mosaic } from "./mosaic.js";
import { confirmed, facts, stepper, title } from "./parts.js";

export async function resultView(id) {
  const search = await api.search(id).catch((error) => {
    if (error.status === 401 || error.status === 404) throw new api.Problem(404, "This search is not among those of this browser's token");
    throw error;
  });
  const { expert_set: current, sources } = await api.sources();
  const { request, result } = search;
  const stale = current !== search.expert_set;
  const names = stale ? [] : mainSources(sources, result.w.length);
  return [
    stepper("result", stale ? [] : ["sources", "scores", "selection"]),
    title(request.title || `${plural(result.images, "image")} found`),
    stale ? h("p", { class: "notice" }, `This search is of the earlier expert set ${search.expert_set}; the sources may have changed since.`) : null,
    h("section", { class: "summary" }, summary(search), actions(search, stale)),
    downloads(search),
    h("div", { class: "halves" },
      h("section", { "aria-labelledby": "by-source" }, h("h2", { id: "by-source" }, "Share of each source"), key(), bySource(result, stale ? null : sources)),
      h("section", { "aria-labelledby": "by-cluster" }, h("h2", { id: "by-cluster" }, "Share of each cluster"), key(), byCluster(result, names))),
    mosaic(search, names),
    imageList(search),
  ];
}

function summary({ id, created, expert_set: set, request, result }) {
  const nds = request.selector === "nds";
  return facts([
    ["Images", count(result.images)],
    ["Selector", nds ? "NDS" : "uniform"],
    nds ? ["Temperature", number(request.temperature)] : null,
    nds ? ["Normalisation", request.normalisation === "minmax" ? "min-max" : "none"] : null,
    ["Seed", String(request.seed)],
    ["Effective clusters", number(result.effective_clusters)],
    ["Effective sample size", count(Math.round(result.effective_sample_size))],
    ["Made", time(created)],
    ["Search", h("code", {}, id)],
    ["Expert set", h("code", {}, set)],
  ].filter(Boolean));
}

function actions(search, stale) {
  const remove = async () => {
    const sure = await confirmed("Delete this search?", "Its scores and settings are deleted on the server. Files that you downloaded stay.", "Delete");
    if (!sure) return;
    await api.deleteSearch(search.id);
    location.hash = "#/searches";
  };
  return h("p", { class: "row" },
    stale ? null : h("a", { class: "button small", href: "#/search/selection", onclick: () => fromSearch(search) }, "Change and search again"),
    h("button", { type: "button", class: "plain", onclick: remove }, "Delete this search"));
}

const key = () => legend(["share", "drawn"], ["uniform", "in a uniform draw"]);

function bySource(result, sources) {
  const names = Object.keys(result.share_by_source).sort((a, b) => result.share_by_source[b] - result.share_by_source[a]);
  const chart = barChart({ title: "Share of each source, drawn and in a uniform draw", rowTitle: "Source" });
  const images = names.map((name) => sources?.find((source) => source.name === name)?.images ?? 0);
  const known = sources !== null && images.every((n) => n > 0);
  const column = { title: "share of the images", kind: "share", paired: true, text: percent };
  chart.update({
    labels: names.map((name) => ({ main: name })),
    columns: [{
      ...column, values: names.map((name) => result.share_by_source[name]),
      reference: known ? images.map((n) => n / sum(images)) : null,
    }],
    summary: `Most images, ${percent(result.share_by_source[names[0]])}, are of ${names[0]}.`,
  });
  return chart.element;
}

function byCluster(result, names) {
  const all = sum(result.cluster_images);
  const places = order(result.z, result.w.length).filter((k) => result.cluster_images[k] > 0);
  const chart = barChart({ title: "Share of each cluster, drawn and in a uniform draw", rowTitle: "Cluster" });
  const most = places.reduce((best, k) => (result.share_by_cluster[k] > result.share_by_cluster[best] ? k : best), places[0]);
  chart.update({
    labels: places.map((k) => ({ main: String(k), sub: names[k] })),
    columns: [{
      title: "share of the images", kind: "share", paired: true, text: percent,
      values: places.map((k) => result.share_by_cluster[k]), reference: places.map((k) => result.cluster_images[k] / all),
    }],
    summary: `Most images, ${percent(result.share_by_cluster[most])}, are of cluster ${most}; a uniform draw would have ${percent(result.cluster_images[most] / all)} of it.`,
  });
  return chart.element;
}
