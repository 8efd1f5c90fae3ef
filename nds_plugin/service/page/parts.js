// Pieces that several views share.

import { announce, fill, freshId, h } from "./dom.js";
import { SERVER, deleteSearch } from "./api.js";
import { plural } from "./format.js";

/** A text to copy, with its button. */
export function copyBlock(text, what) {
  const label = `Copy ${what}`;
  const code = h("pre", { tabindex: "0", role: "group", "aria-label": what }, h("code", {}, text));
  return h("div", { class: "copyblock" }, code, copyButton(() => text, label));
}

/** A button that copies; `label` names what. */
export function copyButton(text, label, shown = "Copy") {
  const button = h("button", { type: "button", class: "small", "aria-label": label }, shown);
  button.addEventListener("click", async () => {
    const done = await copy(text());
    button.textContent = done ? "Copied" : "Select and copy by hand";
    announce(done ? "Copied." : "The browser does not let the page copy.");
    setTimeout(() => { button.textContent = shown; }, 2000);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyOldWay(text);
  }
}

// The clipboard of today's browsers is there on https and localhost only; labs serve plain http.
function copyOldWay(text) {
  const area = h("textarea", { class: "unseen", "aria-hidden": "true", readonly: true });
  area.value = text;
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

/** An error as one sentence, with something to do about it. */
export function errorNotice(error, ...actions) {
  return h("div", { class: "notice error", role: "alert" }, h("p", {}, error.message), actions);
}

/** A description list of facts: `[name, value]` pairs. */
export function facts(pairs, name = "facts") {
  return h("dl", { class: name }, pairs.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/**
 * A labelled control with a hint and a place for its error.
 * @returns {{element: HTMLElement, fail: (message: string|null) => void, control: HTMLElement}}
 */
export function field(label, control, { hint = null, beside = null } = {}) {
  const id = control.id || freshId("field");
  const [hintId, errorId] = [`${id}-hint`, `${id}-error`];
  control.id = id;
  const error = h("p", { class: "fielderror", id: errorId, hidden: true });
  if (hint) control.setAttribute("aria-describedby", hintId);
  const element = h("div", { class: "field" },
    h("label", { for: id }, label),
    h("div", { class: "controls" }, control, beside),
    error,
    hint ? h("p", { class: "hint", id: hintId }, hint) : null);
  const fail = (message) => {
    error.hidden = !message;
    error.textContent = message ?? "";
    control.toggleAttribute("aria-invalid", false);
    if (message) control.setAttribute("aria-invalid", "true");
    const described = [message ? errorId : null, hint ? hintId : null].filter(Boolean).join(" ");
    if (described) control.setAttribute("aria-describedby", described);
    else control.removeAttribute("aria-describedby");
  };
  return { element, fail, control };
}

/** Radio buttons as a group; `choices` are `[value, title, hint]`. */
export function radios(legend, name, choices, value, onchange) {
  const inputs = choices.map(([choice, title, hint, disabled]) => {
    const id = freshId(name);
    const input = h("input", {
      type: "radio", name, id, value: choice, checked: choice === value, disabled,
      "aria-describedby": hint ? `${id}-hint` : null, onchange: () => onchange(choice),
    });
    return h("div", { class: "choice" }, input,
      h("div", {}, h("label", { for: id }, title), hint ? h("p", { class: "hint", id: `${id}-hint` }, hint) : null));
  });
  return h("fieldset", { class: "choices" }, h("legend", {}, legend), inputs);
}

const STEPS = [["sources", "Sources"], ["scores", "Scores"], ["selection", "Selection"], ["result", "Result"]];

/** Where in the search one is; `reached` steps are links. */
export function stepper(current, reached = []) {
  const items = STEPS.map(([step, text], i) => {
    const inside = [h("span", { class: "number", "aria-hidden": "true" }, i + 1), h("span", {}, text)];
    if (step === current) return h("li", { class: "now" }, h("span", { "aria-current": "step" }, inside));
    if (reached.includes(step)) return h("li", { class: "past" }, h("a", { href: `#/search/${step}` }, inside));
    return h("li", {}, h("span", {}, inside));
  });
  return h("nav", { class: "steps", "aria-label": "Steps of the search" }, h("ol", {}, items));
}

/** Ask before something that cannot be undone; resolves to whether it was confirmed. */
export function confirmed(question, consequence, verb) {
  const [head, body] = [freshId("ask"), freshId("ask")];
  const dialog = h("dialog", { "aria-labelledby": head, "aria-describedby": body },
    h("h2", { id: head }, question), h("p", { id: body }, consequence),
    h("div", { class: "row" },
      h("button", { type: "button", class: "plain", autofocus: true, onclick: () => dialog.close("no") }, "Keep"),
      h("button", { type: "button", class: "danger", onclick: () => dialog.close("yes") }, verb)));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

/** Ask, then delete a search; resolves to whether it is gone. What goes wrong is shown in `note`. */
export async function deleted(id, question, note) {
  if (!(await confirmed(question, "Its scores and settings are deleted on the server. Files that you downloaded stay.", "Delete"))) return false;
  try {
    await deleteSearch(id);
  } catch (error) {
    if (error.status !== 404) {
      fill(note, errorNotice(error));
      return false;
    }
  }
  announce("Deleted.");
  return true;
}

/** A heading that takes the focus when a view opens. */
export const title = (text) => h("h1", { tabindex: "-1" }, text);

/** Save bytes or text under a name. */
export function save(content, name) {
  const blob = content instanceof Blob ? content : new Blob([content]);
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A command of the client with this server's address. */
export const command = (verb, ...options) => [`nds-client --server ${SERVER} ${verb}`, ...options].join(" \\\n    ");

/** Replace a place's content while something loads; it is said only when it takes long. */
export async function loading(place, work, show, explain = () => null) {
  const timer = setTimeout(() => fill(place, h("p", { class: "hint" }, "Loading…")), 300);
  try {
    const found = await work();
    clearTimeout(timer);
    fill(place, show(found));
  } catch (error) {
    clearTimeout(timer);
    const again = h("button", { type: "button", class: "small", onclick: () => loading(place, work, show, explain) }, "Try again");
    const known = explain(error);
    fill(place, known ? h("p", { class: "notice error" }, known) : errorNotice(error, again));
  }
}

/** What a client downloads: "50 experts", or "1 network with 50 experts" where all stand on one. */
export function expertsOf({ kind, num_experts: k }) {
  return kind === "head" ? `1 network with ${plural(k, "expert")}` : plural(k, "expert");
}
