element.addEventListener("click", (event) => {
  const picked = event.target.closest("[data-sample]");
  if (picked) trigger("pick", { sample: picked.dataset.sample });
});
