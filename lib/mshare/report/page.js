// Sorts a table by the column whose head is clicked. Without it the tables stay as they were written.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort === undefined ? cell.textContent.trim() : Number(cell.dataset.sort);
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rows = [...body.rows];
      const figures = rows.every(row => row.cells[column].dataset.sort !== undefined);
      const before = head.getAttribute("aria-sort");
      // Figures are wanted from the largest down, names from A up.
      const down = before === null ? figures : before === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((one, other) => {
        const [left, right] = [key(one, column), key(other, column)];
        const order = figures ? left - right : String(left).localeCompare(String(right), "en", { numeric: true });
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
  table.classList.add("with-script");
}
