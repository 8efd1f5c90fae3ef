// Number fields with a slider beside them, which check themselves.

import { freshId, h } from "./dom.js";
import { count, percent } from "./format.js";
import { field } from "./parts.js";

const STEPS = 200;

/**
 * A number field; `check` returns a sentence where a value will not do.
 * @returns {{element, fail, valid: () => boolean, control}}
 */
function numberField(label, input, { hint, beside, check, change }) {
  const made = field(label, input, { hint, beside });
  const wrong = () => (input.value.trim() === "" || input.validity.badInput ? "Give a number." : check(Number(input.value)));
  input.addEventListener("input", () => {
    made.fail(wrong());
    if (!wrong()) change(Number(input.value));
  });
  return { ...made, valid: () => wrong() === null };
}

/** A slider for people who would rather see than type; the number beside it says the same to screen readers. */
function slider(label, { toSlider, fromSlider, input }) {
  const range = h("input", { type: "range", min: 0, max: STEPS, step: 1, "aria-label": `${label}, slider`, id: freshId("range") });
  let leading = false;
  const follow = () => {
    const value = Number(input.value);
    // A slider that followed its own rounded number could never be moved by an arrow key.
    if (value > 0 && !leading) range.value = String(toSlider(value));
    range.setAttribute("aria-valuetext", input.value);
  };
  range.addEventListener("input", () => {
    input.value = String(fromSlider(Number(range.value)));
    leading = true;
    input.dispatchEvent(new Event("input"));
    leading = false;
  });
  input.addEventListener("input", follow);
  return { range, follow };
}

const twoDigits = (value) => Number(value.toPrecision(2));

/** How many images; the slider is logarithmic from 1 to `most`, all of the chosen sources. */
export function budgetControl(value, most, change) {
  const input = h("input", { type: "number", id: "budget", min: 1, max: most, step: 1, value, inputmode: "numeric", required: true });
  const toSlider = (number) => Math.round((STEPS * Math.log(number)) / Math.log(Math.max(2, most)));
  const fromSlider = (place) => (place === STEPS ? most : Math.max(1, twoDigits(Math.round(most ** (place / STEPS)))));
  const { range, follow } = slider("Budget", { toSlider, fromSlider, input });
  const share = h("span", { class: "unit" });
  const say = () => {
    const number = Number(input.value);
    share.textContent = number >= 1 && number <= most ? `images, ${percent(number / most)}` : "images";
  };
  const check = (number) => {
    if (!Number.isInteger(number) || number < 1) return "The budget is a whole number of images, 1 or more.";
    return number > most ? `The chosen sources have only ${count(most)} images.` : null;
  };
  const made = numberField("Budget", input, { hint: "How many images to draw, each at most once.", beside: [share, range], check, change });
  input.addEventListener("input", say);
  follow();
  say();
  return made;
}

const [COLDEST, HOTTEST] = [0.01, 10];

/** The temperature; the slider is logarithmic. */
export function temperatureControl(value, change) {
  const input = h("input", { type: "number", id: "temperature", min: 0.001, max: 1e6, step: "any", value, inputmode: "decimal", required: true });
  const span = Math.log(HOTTEST / COLDEST);
  const toSlider = (number) => Math.round((STEPS * Math.log(Math.min(Math.max(number, COLDEST), HOTTEST) / COLDEST)) / span);
  const fromSlider = (place) => twoDigits(COLDEST * Math.exp((span * place) / STEPS));
  const { range, follow } = slider("Temperature", { toSlider, fromSlider, input });
  const check = (number) => (number >= 0.001 && number <= 1e6 ? null : "The temperature is a number from 0.001 to 1,000,000.");
  const hint = "w = softmax(z / T). Low: only the best clusters. High: all alike. The paper has 0.1.";
  const ends = h("span", { class: "ends", "aria-hidden": "true" }, h("span", {}, "sharper"), h("span", {}, "more even"));
  const made = numberField("Temperature T", input, { hint, beside: [h("div", { class: "track" }, range, ends)], check, change });
  follow();
  return made;
}

/** The seed of the draw. */
export function seedControl(value, change) {
  const input = h("input", { type: "number", id: "seed", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, value, inputmode: "numeric", required: true });
  const check = (number) => (Number.isSafeInteger(number) && number >= 0 ? null : "The seed is a whole number, 0 or more.");
  return numberField("Seed", input, { hint: "Same settings and seed, same images.", check, change });
}
