document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-csv]");
  if (!button) return;
  const csv = button.dataset.csv, label = button.textContent;
  try {
    await navigator.clipboard.writeText(csv);
  } catch {  // older browsers, and pages that are not trusted with the clipboard
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = csv;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
});
