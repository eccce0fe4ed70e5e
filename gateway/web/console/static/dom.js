// Elements without markup: every text becomes a text node, so what a caller says can never become a tag.

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(tag, attributes, ...children) {
  return build(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

// Sets the text only if it changed: a selection and a screen reader's place survive the update.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// One child per item, kept by key, in the items' order: what has the focus stays where it is.
export function keyed(parent, items, keyOf, make, update) {
  const had = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = had.get(key);
    if (!child) {
      child = make(item);
      child.dataset.key = key;
    }
    had.delete(key);
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
    update(child, item);
  }
  for (const child of had.values()) child.remove();
}

// A cell that keeps its column's name, for widths on which the table becomes a list of cards.
export function cell(name, ...children) {
  return h("td", { "data-name": name, role: "cell" }, ...children);
}

export function table(caption, columns, body) {
  return h("table", { role: "table" },
    h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
      columns.map(([name, kind]) => h("th", { scope: "col", role: "columnheader", class: kind }, name)))),
    body);
}

export function body() {
  return h("tbody", { role: "rowgroup" });
}

export function row(attributes, ...children) {
  return h("tr", { role: "row", ...attributes }, ...children);
}
