// What is indexed here, and by which experts.

import { catalogue, sum } from "./catalogue.js";
import { h, outside } from "./dom.js";
import { bytes, count, plural, short, time } from "./format.js";
import { copyButton, errorNotice, expertsOf, facts, title } from "./parts.js";

const EXPERT = {
  network: "Each cluster has a small expert network.",
  head: "Each cluster has an expert: a small classifier on one network that all of them share.",
};

export async function homeView() {
  let found;
  try {
    found = await catalogue();
  } catch (error) {
    if (error.status !== 503) throw error;
    return [title("Nothing is published here yet"), errorNotice(error), publishing()];
  }
  const { set, sets, sources } = found;
  return [
    h("div", { class: "lead" },
      title("Find the pretraining images that suit your data"),
      h("p", {}, `${plural(sum(sources.map(({ images }) => images)), "image")} of ${plural(sources.length, "source")} are `
        + `indexed here in ${plural(set.num_clusters, "cluster")} of similar images. ${EXPERT[set.kind]} `
        + "The experts of clusters that resemble your data do well on it, and more images are drawn from there."),
      howItGoes(set),
      h("p", { class: "row" }, h("a", { class: "button", href: "#/search/sources" }, "Start a search"))),
    h("section", { "aria-labelledby": "indexed" }, h("h2", { id: "indexed" }, "Indexed sources"), sourceTable(sources)),
    h("section", { "aria-labelledby": "experts" }, h("h2", { id: "experts" }, "Experts"), expertFacts(set), olderSets(sets)),
  ];
}

function publishing() {
  return h("p", {}, "Whoever runs this server publishes a store by ", h("code", {}, "nds-serve publish"), ".");
}

function howItGoes(set) {
  const steps = [
    ["Experts come to you", `A command downloads ${expertsOf(set)} (${bytes(set.bytes)}) and tries them on your images, on your machine.`],
    [`${plural(set.num_experts, "number")} ${set.num_experts === 1 ? "goes" : "go"} back`, "One score for each expert. No image, no file name, no label."],
    ["Links come out", "A list of images at their providers, which a command downloads and Detectron2 trains on."],
  ];
  return h("ol", { class: "flow" }, steps.map(([head, text]) => h("li", {}, h("strong", {}, head), h("span", {}, text))));
}

/** A table of sources; `first` makes a further first cell of a row, such as a checkbox. */
export function sourceTable(sources, first = null) {
  const heads = ["Source", "Images", "Clusters", "Licence", "Classes", "Thumbnails"];
  const number = { class: "number" };
  return h("table", { class: "stacked" },
    h("caption", { class: "unseen" }, "Sources"),
    h("thead", {}, h("tr", {}, first ? h("td", {}) : null,
      heads.map((head, i) => h("th", { scope: "col", ...(i === 1 || i === 2 ? number : {}) }, head)))),
    h("tbody", {}, sources.map((source) => h("tr", {},
      first ? h("td", { class: "tick" }, first(source)) : null,
      h("th", { scope: "row" }, provider(source)),
      h("td", { ...number, "data-head": "Images" }, count(source.images), missingLinks(source)),
      h("td", { ...number, "data-head": "Clusters" }, count(source.clusters.length)),
      h("td", { "data-head": "Licence" }, source.licenses.join(", ") || h("span", { class: "quiet" }, "not stated")),
      h("td", { class: "wide", "data-head": "Classes" }, classes(source.classes)),
      h("td", { "data-head": "Thumbnails" }, source.thumbnails_allowed ? "allowed" : h("span", { class: "quiet" }, "links only"))))));
}

function provider({ name, homepage }) {
  return [h("span", {}, breakable(name)), homepage ? [" ", h("small", {}, outside(homepage, host(homepage)))] : null];
}

/** Long names of datasets break after an underscore rather than anywhere. */
const breakable = (name) => name.split(/(?<=_)/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));

function host(url) {
  try {
    return new URL(url).host;
  } catch {
    return "provider";
  }
}

function missingLinks({ images, linked_images: linked }) {
  if (linked === images) return null;
  return h("span", { class: "quiet" }, ` (${count(images - linked)} without a link)`);
}

const FEW = 4;

function classes(names) {
  if (names.length === 0) return h("span", { class: "quiet" }, "none");
  if (names.length <= FEW) return names.join(", ");
  return h("details", { class: "inline" }, h("summary", {}, `${names.slice(0, 2).join(", ")} and ${names.length - 2} more`),
    h("p", {}, names.join(", ")));
}

/** What identifies a set of experts. */
export function expertFacts(set) {
  return facts([
    ["Set", h("code", {}, set.id)],
    ["Hash of the experts", h("span", { class: "pair" }, h("code", { title: set.hash }, short(set.hash)), copyButton(() => set.hash, "Copy the hash of the experts"))],
    ["Published", time(set.created)],
    ["Experts", `${count(set.num_experts)}, ${set.num_experts === set.num_clusters ? "one for each cluster" : "of other sources"}${set.kind === "head" ? `, on one ${set.manifest.arch}` : ""}`],
    ["Proxy task", set.task],
    ["Input", `${set.crop_size} × ${set.crop_size} pixels`],
    ["Download", bytes(set.bytes)],
  ]);
}

function olderSets(sets) {
  const older = sets.filter(({ current }) => !current);
  if (older.length === 0) return null;
  return h("details", {}, h("summary", {}, `${plural(older.length, "earlier set")}`),
    h("ul", {}, older.map(({ id, created, images, num_clusters: k }) =>
      h("li", {}, h("code", {}, id), ` published ${time(created)}, ${plural(images, "image")}, ${plural(k, "cluster")}`))),
    h("p", { class: "hint" }, "Searches need scores of the current set; results of earlier sets stay readable."));
}
