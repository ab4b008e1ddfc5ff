() => {
  // The language is the one Gradio shows its own labels in; our markup follows it.
  const root = document.documentElement;
  const speak = () => {
    const spoken = document.querySelector("#language")?.textContent.trim() === "zh" ? "zh" : "en";
    if (root.dataset.language !== spoken) root.dataset.language = spoken;
    root.lang = spoken === "zh" ? "zh-CN" : "en";
  };
  speak();
  const label = document.querySelector("#language");
  if (label) new MutationObserver(speak).observe(label, { childList: true, characterData: true, subtree: true });

  const saved = localStorage.getItem("tuner-theme");
  if (saved) document.body.classList.toggle("dark", saved === "dark");
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".theme")) return;
    const dark = document.body.classList.toggle("dark");
    localStorage.setItem("tuner-theme", dark ? "dark" : "light");
  });

  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
      event.preventDefault();
      document.activeElement?.dispatchEvent(new Event("change", { bubbles: true }));
      document.querySelector("#generate")?.click();
    } else if (event.key === "Escape" && !event.target.closest?.('[role="listbox"], [role="combobox"]')) {
      if (!document.fullscreenElement) document.querySelector("#cancel:not([disabled])")?.click();
    }
  });

  // An open sidebar would cover a phone.
  if (innerWidth < 900) document.querySelector(".sidebar.open .toggle-button")?.click();
}
