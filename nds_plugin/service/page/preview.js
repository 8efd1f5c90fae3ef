// What the settings do, before anything is drawn.

import * as api from "./api.js";
import { order, sum } from "./catalogue.js";
import { barChart, legend } from "./charts.js";
import { debounce, fill, h } from "./dom.js";
import { count, number, percent, plural } from "./format.js";
import { shareLegend, sourceChart } from "./shares.js";
import { facts } from "./parts.js";

const WAIT = 200;  // milliseconds without a change before the server is asked

/**
 * The preview beside the settings.
 * @param {Object} options
 * @param {Object[]} options.sources - the chosen sources.
 * @param {string[]} options.names - main source of each cluster.
 * @param {() => Object|null} options.request - the request, or null where a field is wrong.
 * @param {(error: Error|null) => void} options.failed - shows an error, or takes it away.
 */
export function livePreview({ sources, names, request, failed }) {
  const tiles = h("div");
  const spoken = h("p", { class: "unseen", role: "status" });
  const chart = barChart({ title: "Score z and weight w of each cluster", rowTitle: "Cluster" });
  const shares = sourceChart("Expected share of each source", sources);
  const key = h("div");
  // On a phone the preview is below the settings: its gist stays in sight. Screen readers have `spoken`.
  const glance = h("p", { class: "glance", "aria-hidden": "true" });
  const element = h("section", { class: "preview", "aria-labelledby": "preview-title" },
    h("h2", { id: "preview-title" }, "Preview"),
    h("p", { class: "hint outdated" }, "Still of the settings before the error."), tiles, spoken,
    h("h3", {}, "Clusters"), key, chart.element,
    h("h3", {}, "Expected share of each source"), shareLegend(), shares.element);
  let running = null;

  async function ask() {
    const body = request();
    element.classList.toggle("old", body === null);
    if (body === null) return;
    running?.abort();
    running = new AbortController();
    const { signal } = running;
    element.setAttribute("aria-busy", "true");
    try {
      const found = await api.preview({ ...body, title: "" }, signal);
      failed(null);
      show(found);
    } catch (error) {
      if (error.name === "AbortError") return;
      failed(error);
      element.classList.add("old");
      if (error.status === 429) setTimeout(() => element.isConnected && refresh(), 1000 * (error.members.seconds || 5));
    }
    element.removeAttribute("aria-busy");
  }

  function show(found) {
    fill(tiles, previewFacts(found));
    spoken.textContent = sentenceOf(found);
    glance.textContent = `${plural(found.budget, "image")}, ${number(found.effective_clusters)} effective clusters`;
    fill(key, legend(...(found.z ? [["z", "z, how well the expert does"]] : []), ["w", "w, weight in the draw"], ["mark", "weight in a uniform draw"]));
    chart.update(clusterChart(found, names));
    shares.update(found.expected_share_by_source);
  }

  const refresh = debounce(ask, WAIT);
  return { element, glance, refresh };
}

function previewFacts(found) {
  const total = found.cluster_images.filter((n) => n > 0).length;
  const all = sum(found.cluster_images);
  return facts([
    ["Images drawn", [h("b", {}, count(found.budget)), `of ${count(all)}`]],
    ["Effective clusters", [h("b", {}, number(found.effective_clusters)), `of ${count(total)}`]],
    ["Effective sample size", [h("b", {}, count(Math.round(found.effective_sample_size))), `of ${count(all)}`]],
  ], "tiles");
}

function sentenceOf(found) {
  const best = found.w.indexOf(Math.max(...found.w));
  return `${plural(found.budget, "image")} would be drawn. The weight lies on ${number(found.effective_clusters)} effective clusters; `
    + `cluster ${best} has most, ${percent(found.w[best])}. The effective sample size is ${count(Math.round(found.effective_sample_size))}.`;
}

/** Chart data of z and w, the best cluster first; shared by preview and result. */
export function clusterChart(found, names) {
  const all = sum(found.cluster_images);
  const places = order(found.z, found.w.length).filter((k) => found.cluster_images[k] > 0);
  const pick = (values) => places.map((k) => values[k]);
  const columns = [];
  if (found.z) columns.push({ title: "z", kind: "z", values: pick(found.z), text: number });
  columns.push({ title: "w", kind: "w", values: pick(found.w), text: percent, reference: pick(found.cluster_images).map((n) => n / all) });
  return { labels: places.map((k) => ({ main: String(k), sub: names[k] })), columns, summary: sentenceOf(found) };
}
