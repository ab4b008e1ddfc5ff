element.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-run]");
  if (!row) return;
  const reuse = event.target.closest('[data-do="reuse"]');
  if (reuse) trigger("reuse", { run: row.dataset.run });
  else trigger("show", { run: row.dataset.run });
});
