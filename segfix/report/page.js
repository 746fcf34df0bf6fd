"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const read = row => column ? parseFloat(row.cells[column].dataset.value) : row.cells[0].dataset.value;
    const old = head.getAttribute("aria-sort");
    // Names from A on, numbers from the largest on; again turns round.
    const up = old ? old === "descending" : !column;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const known = [], unknown = [];
    for (const row of body.rows) (Number.isNaN(read(row)) ? unknown : known).push(row);
    const order = new Intl.Collator("en", {numeric: true}).compare;
    known.sort((a, b) => (up ? 1 : -1) * (column ? read(a) - read(b) : order(read(a), read(b))));
    body.append(...known, ...unknown);
  }));
}
for (const input of document.querySelectorAll(".stage input")) {
  const move = () => {
    input.parentElement.style.setProperty("--x", input.value + "%");
    input.setAttribute("aria-valuetext", Math.round(input.value) + " %");
  };
  input.addEventListener("input", move);
  move(); // browsers keep the place over a reload
}
for (const button of document.querySelectorAll(".enlarge"))
  button.addEventListener("click", () => {
    const large = button.closest(".example").classList.toggle("large");
    button.setAttribute("aria-pressed", large);
    button.textContent = large ? "Smaller" : "Larger";
  });
const all = document.querySelector(".all");
if (all) {
  all.hidden = false;
  all.addEventListener("click", event => {
    const view = event.target.dataset.view;
    if (view) for (const input of document.querySelectorAll(`.views [value=${view}]`)) input.checked = true;
  });
}
