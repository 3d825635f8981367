"use strict";
const line = document.getElementById("line");
const told = document.getElementById("told");

function show(run) {
  for (const part of document.querySelectorAll(".seen")) part.classList.remove("seen");
  if (line) line.classList.toggle("faded", Boolean(run));
  if (!run) return;
  for (const part of document.querySelectorAll(`[data-run="${CSS.escape(run)}"]`)) part.classList.add("seen");
}

for (const part of document.querySelectorAll("[data-told], tr[data-run]")) {
  part.addEventListener("mouseenter", () => {
    if (part.dataset.told) told.textContent = part.dataset.told;
    show(part.dataset.run);
  });
  part.addEventListener("mouseleave", () => {
    told.textContent = "";
    show("");
  });
}

const zoom = document.getElementById("zoom");
if (zoom) zoom.addEventListener("input", () => line.setAttribute("width", `${100 * 2 ** zoom.value}%`));

const filter = document.getElementById("filter");
const failed = document.getElementById("failed");
function narrow() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("tbody tr")) {
    const text = row.textContent.toLowerCase();
    const fits = words.every((word) => text.includes(word));
    row.hidden = !fits || (failed.checked && !row.classList.contains("failed"));
  }
}
if (filter) {
  filter.addEventListener("input", narrow);
  failed.addEventListener("input", narrow);
}
