"use strict";
// Pictures that are mentioned again take their data from the first mention.
for (const image of document.querySelectorAll("img[data-of]")) {
  image.src = document.getElementById(image.dataset.of).src;
}
for (const image of document.images) {
  const mark = () => image.classList.toggle("small", image.naturalWidth > 0 && image.naturalWidth <= 128);
  image.complete ? mark() : image.addEventListener("load", mark);
}

function applyFilters(section) {
  const value = (name) => section.querySelector(`[data-filter="${name}"]`)?.value ?? "";
  const wanted = new Set(
    [...section.querySelectorAll('[data-filter="status"]')].filter((box) => box.checked).map((box) => box.value));
  const from = parseFloat(value("from")), to = parseFloat(value("to"));
  const low = Number.isNaN(from) ? 0 : from, high = Number.isNaN(to) ? 1 : to;
  const position = value("position");
  let answers = 0, cards = 0;
  const all = [...section.querySelectorAll(".card")];
  for (const card of all) {
    const fits = position === "" || card.dataset.position === position;
    let shown = 0;
    const items = card.querySelectorAll("[data-status]");
    for (const item of items) {
      const iou = parseFloat(item.dataset.iou);
      const hit = fits && wanted.has(item.dataset.status) && iou >= low - 1e-9 && iou <= high + 1e-9;
      if (item.classList.contains("item")) item.classList.toggle("off", !hit);
      else item.hidden = !hit;
      for (const box of card.querySelectorAll(`rect[data-answer="${item.dataset.answer}"]`)) {
        box.style.display = hit ? "" : "none";
      }
      shown += hit;
    }
    card.hidden = items.length ? shown === 0 : !fits;
    answers += shown;
    cards += !card.hidden;
  }
  const [key, sign] = { worst: ["worst", 1], best: ["worst", -1], time: ["time", 1] }[value("order")] ?? ["time", 1];
  const holder = section.querySelector(".cards");
  all.sort((a, b) => sign * (parseFloat(a.dataset[key]) - parseFloat(b.dataset[key])));
  holder.append(...all);
  section.querySelector("output").textContent = `${answers} answers in ${cards} of ${all.length} cards`;
}

for (const section of document.querySelectorAll(".filtered")) {
  section.addEventListener("input", () => applyFilters(section));
  applyFilters(section);
}

// The row under the pointer lights its box.
for (const row of document.querySelectorAll("tr[data-answer]")) {
  const light = (on) => {
    for (const box of row.closest(".card").querySelectorAll("rect.answer")) {
      const mine = box.dataset.answer === row.dataset.answer;
      box.classList.toggle("lit", on && mine);
      box.classList.toggle("dim", on && !mine);
    }
  };
  row.addEventListener("pointerenter", () => light(true));
  row.addEventListener("pointerleave", () => light(false));
}
