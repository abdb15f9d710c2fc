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
// A link to what is folded away opens it (browsers do so themselves, older ones do not).
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target && target.closest("details");
  if (!folded) return;
  folded.open = true;
  target.scrollIntoView();
  target.focus({ preventScroll: true });
}
addEventListener("hashchange", unfold);
for (const link of document.querySelectorAll('td a[href^="#"]')) {
  link.addEventListener("click", () => setTimeout(unfold)); // the second time, too
}
unfold();
// A table is copied as spreadsheets paste it: cells between tabs.
for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const table = button.previousElementSibling.querySelector("table");
    const text = [...table.rows]
      .map((row) => [...row.cells].map((cell) => cell.textContent).join("\t"))
      .join("\n");
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      getSelection().selectAllChildren(table);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
  });
}
// On paper everything is open.
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
});
