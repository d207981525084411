"use strict";
const form = document.querySelector(".filters"), tip = document.getElementById("tip");
const sections = [...document.querySelectorAll("section")];
const { dataset, task, metric, cost, search, theme } = form.elements;

let current = null;  // the section that is shown

function fill(select, options, keep = true) {
  const old = keep ? select.value : "";
  select.replaceChildren(...[...options].map(([value, text]) => new Option(text, value)));
  if (options.has(old)) select.value = old;
  select.disabled = options.size < 2;
}

function update() {
  fill(task, new Map(sections.filter((one) => one.dataset.dataset === dataset.value)
    .map((one) => [one.dataset.task, one.dataset.task])));
  for (const section of sections) {
    const shown = section.dataset.dataset === dataset.value && section.dataset.task === task.value;
    section.hidden = !shown;
    if (!shown) continue;
    const figures = [...section.querySelectorAll("figure")];
    fill(metric, new Map(figures.map((one) => [one.dataset.metric, one.dataset.metric])), section === current);
    current = section;
    const fitting = figures.filter((one) => one.dataset.metric === metric.value);
    fill(cost, new Map(fitting.map((one) => [one.dataset.cost, one.dataset.costTitle])));
    for (const figure of figures) {
      figure.hidden = !(figure.dataset.metric === metric.value && figure.dataset.cost === cost.value);
    }
    const off = new Set([...section.querySelectorAll("input[data-series]")].filter((one) => !one.checked)
      .map((one) => one.dataset.series));
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const hidden = new Set();
    for (const row of section.querySelectorAll("tbody tr")) {
      const text = (row.dataset.model + " " + row.textContent).toLowerCase();
      row.hidden = off.has(row.dataset.series) || !words.every((word) => text.includes(word));
      if (row.hidden) hidden.add(row.dataset.model);
    }
    for (const line of section.querySelectorAll(".line")) {
      line.classList.toggle("faint", off.has(line.dataset.series) || hidden.size > 0 && words.length > 0);
    }
    for (const point of section.querySelectorAll(".point[data-model]")) {
      const out = hidden.has(point.dataset.model);
      point.classList.toggle("faint", out);
      if (out) point.setAttribute("tabindex", "-1"); else point.removeAttribute("tabindex");
    }
  }
}

function show(point) {
  tip.textContent = point.dataset.tip;
  tip.hidden = false;
  const place = point.querySelector("path").getBoundingClientRect();
  const left = Math.min(place.right + 10, innerWidth - tip.offsetWidth - 10);
  const below = place.bottom + 10 + tip.offsetHeight < innerHeight;
  tip.style.left = Math.max(left, 10) + "px";
  tip.style.top = Math.max(below ? place.bottom + 10 : place.top - tip.offsetHeight - 10, 10) + "px";
}

function sort(header) {
  const row = header.parentElement, body = row.closest("table").tBodies[0];
  const column = [...row.cells].indexOf(header);
  const up = header.getAttribute("aria-sort") === "descending";
  for (const cell of row.cells) cell.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const numeric = [...body.rows].some((one) => one.cells[column].dataset.value !== undefined);
  const key = (one) => numeric ? Number(one.cells[column].dataset.value ?? NaN) : one.cells[column].textContent;
  const compare = (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (numeric && (isNaN(a) || isNaN(b))) return isNaN(a) - isNaN(b);
    const order = numeric ? a - b : a.localeCompare(b);
    return up ? order : -order;
  };
  body.append(...[...body.rows].sort(compare));
}

for (const point of document.querySelectorAll(".point[data-model]")) {
  const title = point.querySelector("title");
  point.dataset.tip = title.textContent;
  point.setAttribute("aria-label", title.textContent);
  title.remove();
  for (const event of ["pointerenter", "focus"]) point.addEventListener(event, () => show(point));
  for (const event of ["pointerleave", "blur"]) point.addEventListener(event, () => { tip.hidden = true; });
  point.addEventListener("click", () => {
    for (const row of document.querySelectorAll("tr.marked")) row.classList.remove("marked");
    const row = document.getElementById(point.getAttribute("href").slice(1));
    row.classList.add("marked");
    row.focus({ preventScroll: true });
  });
}
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sort(button.parentElement));
}
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", update);
document.querySelector("main").addEventListener("change", update);
fill(dataset, new Map(sections.map((one) => [one.dataset.dataset, one.dataset.dataset])));
form.hidden = false;
update();
