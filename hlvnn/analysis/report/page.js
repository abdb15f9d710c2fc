"use strict";
// A click on a column's title sorts the table by it; a second click turns the order around.
// Cells without a value stay last. Numbers that belong to the better end first would need to know
// which end that is, so the first click is always upwards.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const numeric = head.classList.contains("number");
      const key = (row) => {
        const text = row.cells[column].dataset.sort;
        return text === undefined ? null : numeric ? Number(text) : text;
      };
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        const sign = numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
        return up ? sign : -sign;
      };
      body.append(...[...body.rows].sort(order));
      heads.forEach((one) => one.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      document.getElementById("sorted").textContent =
        `sorted by ${head.textContent.trim()}, ${up ? "smallest" : "largest"} first`;
    });
  });
}
// On paper everything is open.
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
});
