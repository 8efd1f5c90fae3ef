// Elements from code: text is always text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element.
 * @param {string} tag - its name; "svg:rect" for SVG.
 * @param {Object} [attributes] - `onclick` and the like are listeners, `false` and `null` leave an attribute out.
 * @param {...(Node|string|number|null|Array)} children - null is left out.
 */
export function h(tag, attributes = {}, ...children) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS(SVG, tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** Replace everything inside an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** A link to a provider: opens beside the page, and only http and https are followed. */
export function outside(url, text) {
  if (!/^https?:\/\//i.test(url)) return h("span", {}, text);
  return h("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, text);
}

/** Say something to screen readers without moving the focus. */
export function announce(text) {
  const place = document.getElementById("announce");
  place.textContent = "";
  // A changed text is read, an unchanged one is not.
  setTimeout(() => { place.textContent = text; }, 50);
}

let last = 0;

/** An id that no other element has. */
export function freshId(stem) {
  last += 1;
  return `${stem}-${last}`;
}

/** Call `work` once nothing has happened for a while. */
export function debounce(work, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}
