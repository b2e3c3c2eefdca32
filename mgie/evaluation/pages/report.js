"use strict";
// Cards are shown or hidden by what is written in their data-*; without scripts all of them are there.
(() => {
  // Small pictures are enlarged without smoothing, so that each pixel is seen.
  const sharpen = (image) => image.classList.toggle("small", image.naturalWidth > 0 && image.naturalWidth <= 128);
  for (const image of document.images) {
    image.addEventListener("load", () => sharpen(image));
    sharpen(image);
  }
  const form = document.querySelector("form");
  const main = document.querySelector("main");
  if (!form || !main) return;
  const cards = [...main.querySelectorAll("article")].map((card, place) => ({
    card, place,
    kind: card.dataset.kind,
    view: card.dataset.view,
    wrong: JSON.parse(card.dataset.wrong),
    disagree: card.dataset.disagree === "yes",
    spread: JSON.parse(card.dataset.spread),
    words: card.textContent.toLowerCase(),
  }));
  const value = (name) => (form.elements[name] ? form.elements[name].value : "");
  const show = () => {
    const [kind, view, wrong, order] = ["kind", "view", "wrong", "order"].map(value);
    const words = value("words").toLowerCase().split(/\s+/).filter(Boolean);
    const verdict = (each) =>
      wrong === "" ? true
      : wrong === "disagree" ? each.disagree
      : wrong === "any" ? each.wrong.some((one) => one === 1)
      : wrong === "none" ? each.wrong.length > 0 && each.wrong.every((one) => one === 0)
      : each.wrong[Number(wrong)] === 1;
    let shown = 0;
    for (const each of cards) {
      const fits =
        (kind === "" || each.kind === kind.slice(1)) &&
        (view === "" || each.view === view.slice(1)) &&
        verdict(each) && words.every((word) => each.words.includes(word));
      each.card.hidden = !fits;
      shown += fits;
    }
    const [metric, way] = order ? JSON.parse(order) : [null, 0];
    // What has no number of this metric comes last, whichever way.
    const number = (each) => (metric === null ? 0 : each.spread[metric] ?? null);
    const sorted = [...cards].sort((a, b) => {
      const [one, two] = [number(a), number(b)];
      if (one === null || two === null) return (one === null) - (two === null) || a.place - b.place;
      return way * (one - two) || a.place - b.place;
    });
    main.append(...sorted.map((each) => each.card));
    form.querySelector("output").textContent = `${shown} of ${cards.length} items shown`;
  };
  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
})();
