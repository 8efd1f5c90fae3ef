// Step 4: what was drawn, and how to take it home.

import * as api from "./api.js";
import { chosen, mainSources, sum } from "./catalogue.js";
import { h } from "./dom.js";
import { fromSearch } from "./draft.js";
import { downloads } from "./downloads.js";
import { count, number, plural, time } from "./format.js";
import { imageList } from "./image_list.js";
import { mosaic } from "./mosaic.js";
import { deleted, facts, stepper, title } from "./parts.js";
import { clusterShares, shareLegend, sourceChart } from "./shares.js";

export async function resultView(id) {
  const search = await api.search(id).catch((error) => {
    if (error.status === 401 || error.status === 404) throw new api.Problem(404, "This search is not among those of this browser's token");
    throw error;
  });
  const [{ expert_set: now, sources }, { expert_sets: sets }] = await Promise.all([api.sources(), api.expertSets()]);
  const { request, result } = search;
  const stale = now !== search.expert_set;
  const hash = sets.find(({ id: set }) => set === now).hash;
  const again = sets.find(({ id: set }) => set === search.expert_set)?.hash === hash ? hash : null;
  const names = stale ? [] : mainSources(chosen(sources, request.sources), result.w.length);
  const bySource = sourceChart("Share of each source, drawn and in a uniform draw", stale ? [] : sources);
  bySource.update(result.share_by_source);
  return [
    stepper("result", stale ? [] : ["sources", "scores", "selection"]),
    title(request.title || `${plural(result.images, "image")} found`),
    stale ? h("p", { class: "notice" }, `This search is of the earlier set ${search.expert_set}; its images are as they were, but the sources may have changed since.`) : null,
    h("section", { class: "summary" }, summary(search), actions(search, again)),
    h("div", { class: "halves" },
      h("section", { "aria-labelledby": "by-source" }, h("h2", { id: "by-source" }, "Share of each source"), shareLegend(), bySource.element),
      h("section", { "aria-labelledby": "by-cluster" }, h("h2", { id: "by-cluster" }, "Share of each cluster"), shareLegend(), clusterShares("Share of each cluster, drawn and in a uniform draw", result, names))),
    downloads(search),
    mosaic(search, names),
    imageList(search),
  ];
}

function summary({ id, created, expert_set: set, request, result }) {
  const nds = request.selector === "nds";
  return facts([
    ["Images", `${count(result.images)} of ${count(sum(result.cluster_images))}`],
    ["Selector", nds ? "NDS" : "uniform"],
    nds ? ["Temperature", String(request.temperature)] : null,
    nds ? ["Normalisation", request.normalisation === "minmax" ? "min-max" : "none"] : null,
    ["Seed", String(request.seed)],
    ["Effective clusters", `${number(result.effective_clusters)} of ${count(result.cluster_images.filter((n) => n > 0).length)}`],
    ["Effective sample size", count(Math.round(result.effective_sample_size))],
    ["Made", time(created)],
    ["Search", h("code", {}, id)],
    ["Expert set", h("code", {}, set)],
  ].filter(Boolean));
}

/** What can be done with a search; `again` is the hash of its experts where they still serve. */
function actions(search, again) {
  const note = h("div");
  const remove = async () => {
    if (await deleted(search.id, "Delete this search?", note)) location.hash = "#/searches";
  };
  return [h("p", { class: "row" },
    again && h("a", { class: "button small", href: "#/search/selection", onclick: () => fromSearch(search, again) }, "Change and search again"),
    h("button", { type: "button", class: "plain", onclick: remove }, "Delete this search")), note];
}
