// Step 2: get the experts, score at home, hand in the numbers.

import * as api from "./api.js";
import { catalogue } from "./catalogue.js";
import { fill, h } from "./dom.js";
import { current, keep, sentScores } from "./draft.js";
import { bytes, number, plural } from "./format.js";
import { command, copyBlock, expertsOf, field, stepper, title } from "./parts.js";
import { ScoresError, readFile, readScores } from "./scores.js";

export async function scoresView() {
  const { set } = await catalogue();
  const draft = current(set.hash);
  const outcome = h("div", { role: "status" });
  const show = () => fill(outcome, given(set, current(set.hash).scores, show));
  show();
  return [
    stepper("scores", ["sources", ...(draft.scores || draft.settings.selector === "uniform" ? ["selection"] : [])]),
    title("Score your images"),
    draft.stale ? h("p", { class: "notice" }, "The experts were replaced since you scored your images: score them again below.") : null,
    h("section", { "aria-labelledby": "run" },
      h("h2", { id: "run" }, "Run this where your images are"),
      copyBlock(command("score", "--images my_photos", "--output scores.json"), "the command"),
      h("p", { class: "hint" }, `It downloads ${expertsOf(set)} (${bytes(set.bytes)}, once), checks their hashes, tries them on the `
        + `images of the folder my_photos, and writes scores.json. nds-client comes with nds_plugin and needs PyTorch (the extra experts); a GPU helps, but is not needed.`),
      byHand(set), set.kind === "network" ? authors() : null),
    h("section", { "aria-labelledby": "hand-in" },
      h("h2", { id: "hand-in" }, "Hand in the scores"),
      h("p", { class: "hint" }, `The file is read in this browser. Only its ${plural(set.num_experts, "number")}, the name of their metric and the hash of the experts are sent to the server.`),
      inputs(set, show), outcome),
    withoutScores(set),
  ];
}

function inputs(set, show) {
  const file = h("input", { type: "file", accept: ".json,.pickle,.pkl,application/json", id: "scores-file" });
  const chosen = field("Scores file", file, { hint: "scores.json, or the z.pickle of the paper authors' client. Choose it, or drop it here." });
  file.addEventListener("change", () => {
    if (file.files.length) take(chosen, set, show, () => readFile(file.files[0], set, api.fromFastAdapt));
  });
  // A file that was corrected and is chosen again is a change, too.
  file.addEventListener("click", () => { file.value = ""; });
  dropping(chosen.element, file);
  const area = h("textarea", { rows: 5, spellcheck: "false", autocomplete: "off", id: "scores-text" });
  const use = h("button", { type: "button", class: "small" }, "Use the pasted scores");
  const pasted = field("Content of scores.json", area);
  use.addEventListener("click", () => take(pasted, set, show, async () => readScores(area.value, set)));
  return h("div", {}, chosen.element,
    h("details", {}, h("summary", {}, "Paste it instead"), pasted.element, h("p", { class: "row" }, use)));
}

async function take(into, set, show, read) {
  into.fail(null);
  try {
    const scores = await read();
    const draft = current(set.hash);
    keep({ ...draft, scores, stale: false, settings: { ...draft.settings, selector: "nds" } });
  } catch (error) {
    if (!(error instanceof ScoresError || error instanceof api.Problem)) throw error;
    into.fail(error.message);
    into.control.focus();
    return;
  }
  show();
}

function dropping(element, file) {
  const mark = (on) => (event) => {
    event.preventDefault();
    element.classList.toggle("over", on);
  };
  element.classList.add("drop");
  element.addEventListener("dragover", mark(true));
  element.addEventListener("dragleave", mark(false));
  element.addEventListener("drop", (event) => {
    mark(false)(event);
    if (!event.dataTransfer.files.length) return;
    file.files = event.dataTransfer.files;
    file.dispatchEvent(new Event("change"));
  });
}

function given(set, scores, show) {
  if (scores === null) return null;
  const best = scores.z.indexOf(Math.max(...scores.z));
  const of = [scores.metric.replaceAll("_", " "), scores.images ? `on ${plural(scores.images, "image")}` : ""].filter(Boolean).join(" ");
  const forget = () => {
    keep({ ...current(set.hash), scores: null });
    show();
    document.getElementById("scores-file").focus();
  };
  return h("div", { class: "notice good" },
    h("p", {}, h("strong", {}, `Scores of ${plural(set.num_experts, "expert")} are here`), of ? ` (${of})` : "",
      `: ${number(Math.min(...scores.z))} to ${number(Math.max(...scores.z))}, best by expert ${best}.`),
    sending(set),
    h("p", { class: "row" },
      h("a", { class: "button", href: "#/search/selection" }, "Go on to the selection"),
      h("button", { type: "button", class: "plain", onclick: forget }, "Remove the scores")));
}

/** Exactly what the server will get of the scores, and the choice to round it. */
function sending(set) {
  const sent = h("div");
  const show = () => {
    const draft = current(set.hash);
    fill(sent, copyBlock(JSON.stringify({ expert_set: draft.set, scores: sentScores(draft) }), "what will be sent"));
  };
  const round = h("select", { id: "round" }, ROUNDING.map(([value, text]) => h("option", { value }, text)));
  round.value = String(current(set.hash).scores.digits ?? "");
  round.addEventListener("change", () => {
    const draft = current(set.hash);
    keep({ ...draft, scores: { ...draft.scores, digits: round.value === "" ? null : Number(round.value) } });
    show();
  });
  show();
  return h("details", {}, h("summary", {}, "What will be sent"), sent,
    field("Rounding", round, { hint: "Scores say a little about your images; rounded ones say less. The preview shows what rounding changes." }).element);
}

const ROUNDING = [["", "as they are"], ["3", "3 digits after the point"], ["2", "2 digits after the point"], ["1", "1 digit after the point"]];

function withoutScores(set) {
  const uniform = () => {
    const draft = current(set.hash);
    keep({ ...draft, settings: { ...draft.settings, selector: "uniform" } });
  };
  return h("p", { class: "quiet" }, "No scores? ", h("a", { href: "#/search/selection", onclick: uniform }, "Draw uniformly"),
    ", the baseline that every selection should be compared with.");
}

function byHand(set) {
  const rows = set.files.map((file) => h("tr", {},
    h("th", { scope: "row" }, h("a", { href: api.expertFile(set.id, file.name), download: file.name }, file.name)),
    h("td", { class: "number" }, bytes(file.bytes)),
    h("td", { class: "hash" }, h("code", {}, file.sha256))));
  return h("details", {}, h("summary", {}, `The ${plural(set.files.length, "file")} of the experts`),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Files of the experts" },
      h("table", {}, h("caption", { class: "unseen" }, "Files of the experts"),
        h("thead", {}, h("tr", {}, ["File", "Size", "SHA-256"].map((head, i) => h("th", { scope: "col", class: i === 1 ? "number" : null }, head)))),
        h("tbody", {}, rows))));
}

function authors() {
  return h("details", {}, h("summary", {}, "With the paper authors' client (NeuralDataServer-FastAdapt)"),
    h("p", {}, "Get the experts in that client's form:"),
    copyBlock(command("experts", "--fastadapt fastadapt"), "the command for experts in the authors' form"),
    h("p", {}, "Then, in the authors' repository:"),
    copyBlock("python main.py --imagedir my_photos --experts_dir fastadapt", "the command of the authors' client"),
    h("p", {}, "It writes z.pickle; hand that in below. It is read as data, and nothing in it is executed."));
}
