"""Style and scripts of the pages that tools write."""

from freqfusion.tools._page_style import BASE_STYLE

STYLE = (
    BASE_STYLE
    + """
header { position: sticky; top: 0; z-index: 1; padding: 14px 0 10px; background: var(--paper);
  border-bottom: 1px solid var(--line); }
.notes { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 2px 0 10px; padding: 0;
  list-style: none; color: var(--soft); font-size: .88rem; overflow-wrap: anywhere; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; }
.controls label { color: var(--soft); font-size: .88rem; }
output { color: var(--soft); font-size: .88rem; margin-left: auto; }
details { margin: 14px 0; padding: 8px 14px; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }
summary { cursor: pointer; font-weight: 600; font-size: .9rem; }
.legend { display: flex; gap: 12px; align-items: baseline; margin: 8px 0; }
.legend h2 { flex: 0 0 8.5em; margin: 0; font-size: .85rem; font-weight: 500;
  color: var(--soft); }
.legend ul { display: flex; flex-wrap: wrap; gap: 3px 16px; margin: 0; padding: 0;
  list-style: none; font-size: .88rem; }
.legend i { display: inline-block; width: .85em; height: .85em; margin-right: .4em;
  border-radius: 3px; vertical-align: -.06em; box-shadow: inset 0 0 0 1px #8888; }
main { display: grid; gap: 16px; }
article { padding: 12px 14px; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; scroll-margin-top: 150px; }
article:focus-visible, :is(a, button, input, select, summary):focus-visible {
  outline: 3px solid var(--mark); outline-offset: 2px; }
h3 { margin: 0 0 4px; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
figure { margin: 10px 0 0; }
figcaption { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline;
  font-size: .86rem; color: var(--soft); font-variant-numeric: tabular-nums; }
figcaption em { font-style: normal; color: var(--ink); min-width: 4.8em; }
figcaption b { font-weight: 600; }
figure a { display: block; margin-top: 4px; overflow-x: auto; border-radius: 6px; }
figure img { display: block; width: 100%; min-width: 560px; height: auto; }
#nothing { padding: 40px 0; text-align: center; color: var(--soft); }
footer { margin-top: 22px; color: var(--soft); font-size: .82rem; }
kbd { font: inherit; padding: 0 5px; border: 1px solid var(--line); border-radius: 4px;
  background: var(--card); margin-left: 8px; }
kbd + kbd { margin-left: 0; }
dialog { position: fixed; inset: 0; width: auto; height: auto; max-width: none; max-height: none;
  margin: 0; padding: 12px; border: 0; background: #101013; color: #ececf0; overflow: auto; }
dialog[open] { display: flex; flex-direction: column; gap: 8px; }
dialog div { position: sticky; left: 0; display: flex; gap: 14px; justify-content: space-between;
  align-items: center; }
dialog p { margin: 0; font-size: .9rem; }
dialog button { color: inherit; background: #2a2a31; border-color: #4a4a54; }
dialog img { flex: 1; min-height: 0; width: 100%; object-fit: contain; cursor: zoom-in; }
dialog.actual img { flex: none; width: auto; align-self: start; cursor: zoom-out; }
body:has(dialog[open]) { overflow: hidden; }
"""
)

# Walks through the articles of a page, and enlarges their figures.
READING = """
"use strict";
const byId = (id) => document.getElementById(id);
const sheet = byId("cards"), large = byId("large");
const visible = () => [...sheet.children].filter((card) => !card.hidden);
const figures = () => visible().flatMap((card) =>
  [...card.querySelectorAll("figure")].filter((figure) => !figure.hidden));

let shown = null;
function enlarge(figure) {
  shown = figure;
  byId("big").src = figure.querySelector("img").src;
  byId("big").alt = figure.querySelector("img").alt;
  const scores = [...figure.querySelectorAll("span")].map((one) => one.textContent).join("   ");
  byId("caption").textContent = `${figure.querySelector("img").alt}   ${scores}`;
  if (!large.open) large.showModal();
}
function browse(step) {
  const all = figures(), next = all[all.indexOf(shown) + step];
  if (next) enlarge(next);
}
function walk(step) {
  const all = visible(), at = all.indexOf(document.activeElement.closest("article"));
  const next = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step];
  if (next) { next.focus({ preventScroll: true }); next.scrollIntoView({ block: "start" }); }
}

sheet.addEventListener("click", (event) => {
  const link = event.target.closest("figure a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  enlarge(link.closest("figure"));
});
byId("big").addEventListener("click", () => large.classList.toggle("actual"));
byId("close").addEventListener("click", () => large.close());
large.addEventListener("close", () => {
  const card = shown && shown.closest("article");
  if (card) { card.focus({ preventScroll: true }); card.scrollIntoView({ block: "nearest" }); }
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key;
  if (large.open) {
    if (key === "ArrowLeft" || key === "k") browse(-1);
    else if (key === "ArrowRight" || key === "j") browse(1);
    else if (key === "z") large.classList.toggle("actual");
    else return;
  } else if (event.target.matches("input, select")) {
    if (key !== "Escape") return;
    event.target.blur();
  } else if (key === "/" && byId("find")) byId("find").focus();
  else if (key === "j" || key === "k") walk(key === "j" ? 1 : -1);
  else if (key === "Enter" && event.target.matches("article:has(figure:not([hidden]))"))
    enlarge(event.target.querySelector("figure:not([hidden])"));
  else return;
  event.preventDefault();
});
"""

# Sorts and filters the articles of the contact sheet; comes after READING.
SORTING = """
const cards = [...sheet.children];
const names = new Intl.Collator(undefined, { numeric: true });
function compare(first, second) {
  const order = byId("order").value, a = first.dataset, b = second.dataset;
  if (order === "name") return names.compare(a.name, b.name) || a.number - b.number;
  if (order) {  // images without the score come last
    const x = Number(a[order] ?? Infinity), y = Number(b[order] ?? Infinity);
    if (x !== y) return x < y ? -1 : 1;
  }
  return a.number - b.number;
}

function update() {
  const wanted = byId("find").value.trim().toLowerCase(), task = byId("task").value;
  for (const figure of sheet.querySelectorAll("figure"))
    figure.hidden = Boolean(task) && figure.dataset.task !== task;
  for (const legend of document.querySelectorAll(".legend[data-of]"))
    legend.hidden = Boolean(task && legend.dataset.of) && legend.dataset.of !== task;
  for (const card of cards)
    card.hidden = !card.dataset.name.toLowerCase().includes(wanted)
      || !card.querySelector("figure:not([hidden])");
  sheet.append(...cards.sort(compare));
  const count = visible().length;
  byId("count").value = `${count} of ${cards.length} images`;
  byId("nothing").hidden = count > 0;
}
for (const id of ["find", "task", "order"]) byId(id).addEventListener("input", update);
update();
"""
