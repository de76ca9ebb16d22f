"use strict";
// Sortable tables: a click on a heading sorts by data-value; rows of class mean and quoted keep the end.
document.querySelectorAll("table.sortable").forEach(table => {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const fixed = row => row.classList.contains("mean") ? 1 : row.classList.contains("quoted") ? 2 : 0;
      const value = row => row.cells[column].dataset.value;
      [...body.rows].sort((a, b) => {
        if (fixed(a) !== fixed(b)) return fixed(a) - fixed(b);
        const x = value(a), y = value(b);
        if (x === undefined || y === undefined || x === "" || y === "") return (x ? 0 : 1) - (y ? 0 : 1);
        const n = Number(x) - Number(y);
        const order = Number.isNaN(n) ? String(x).localeCompare(String(y)) : n;
        return down === (column > 0) ? -order : order;
      }).forEach(row => body.append(row));
    });
  });
});
// One of several alternatives (metrics) at a time; without this script all of them are shown, each with its caption.
document.querySelectorAll(".chooser").forEach(chooser => {
  const parts = [...chooser.querySelectorAll("[data-choice]")];
  if (parts.length < 2) return;
  const label = document.createElement("label"), select = document.createElement("select");
  label.append(chooser.dataset.label + " ", select);
  parts.forEach(part => select.add(new Option(part.dataset.choice)));
  const show = () => parts.forEach((part, i) => { part.hidden = i !== select.selectedIndex; });
  select.addEventListener("change", show);
  chooser.prepend(label);
  show();
});
// An enlarged picture is a ticked box; Escape unticks it.
document.addEventListener("keydown", event => {
  if (event.key === "Escape") document.querySelectorAll(".zoom input:checked").forEach(box => { box.checked = false; });
});
