"use strict";
// One task after the other; every answer is kept in the browser, and all are given out as one file.
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const find = (id) => document.getElementById(id);
  const [start, task, end] = ["start", "task", "end"].map(find);
  const place = `mgie-ab-${study.page}`;
  let state = { rater: "", at: 0, answers: {} };
  let begun = 0;
  try {
    const kept = JSON.parse(localStorage.getItem(place));
    if (kept && typeof kept.answers === "object") state = kept;
  } catch { /* A browser may forbid it: then answers live as long as the page. */ }
  const keep = () => { try { localStorage.setItem(place, JSON.stringify(state)); } catch { /* as above */ } };
  const answers = () => Object.values(state.answers);
  const names = Object.keys(study.questions);
  const of = (id, question) => state.answers[`${id} ${question}`];

  const results = () => JSON.stringify({ page: study.page, rater: state.rater, answers: answers() }, null, 1);
  const download = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([results()], { type: "application/json" }));
    link.download = `results-${state.rater.replace(/[^\p{L}\p{N}_-]+/gu, "_")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const picture = (role, path) => {
    const image = find(role).querySelector("img");
    image.onload = () => image.classList.toggle("small", image.naturalWidth <= 256);
    image.src = path;
  };
  const whole = (id) => names.every((question) => of(id, question));
  const show = () => {
    start.hidden = state.rater !== "";
    const over = state.at >= study.tasks.length;
    task.hidden = state.rater === "" || over;
    end.hidden = state.rater === "" || !over;
    if (task.hidden) return;
    const now = study.tasks[state.at];
    begun = performance.now();
    find("asked").textContent = now.instruction;
    find("where").textContent = `${state.at + 1} of ${study.tasks.length}`;
    find("progress").value = state.at;
    for (const role of ["source", "left", "right", "target"]) if (now[role]) picture(role, now[role]);
    for (const input of task.querySelectorAll("input[type=radio]"))
      input.checked = of(now.task, input.name)?.choice === input.value;
    find("next").disabled = !whole(now.task);
    find("back").disabled = state.at === 0;
  };
  const answer = (question, choice) => {
    const id = study.tasks[state.at].task;
    state.answers[`${id} ${question}`] = { task: id, question, choice, ms: Math.round(performance.now() - begun) };
    keep();
    find("next").disabled = !whole(id);
  };
  const go = (step) => {
    if (step > 0 && !whole(study.tasks[state.at].task)) return;
    state.at = Math.max(0, state.at + step);
    keep();
    show();
    find("asked").focus();
  };
  const turn = (next) => {
    const box = find("pictures");
    const figures = [...box.children];
    const now = figures.findIndex((figure) => figure.classList.contains("now"));
    figures.forEach((figure) => figure.classList.remove("now"));
    box.classList.toggle("turns", next);
    if (next) figures[(now + 1) % figures.length].classList.add("now");
  };

  start.addEventListener("submit", (event) => {
    event.preventDefault();
    state.rater = find("rater").value.trim();
    keep();
    show();
  });
  task.addEventListener("change", (event) => answer(event.target.name, event.target.value));
  find("next").addEventListener("click", () => go(1));
  find("back").addEventListener("click", () => go(-1));
  find("large").addEventListener("click", () => find("pictures").classList.toggle("large"));
  find("turns").addEventListener("click", () => turn(true));
  find("beside").addEventListener("click", () => turn(false));
  for (const button of document.querySelectorAll(".download")) button.addEventListener("click", download);
  document.addEventListener("keydown", (event) => {
    if (task.hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    const choice = { 1: "left", 2: "right", 3: "tie", 4: "bad" }[event.key];
    const id = study.tasks[state.at].task;
    if (choice) {
      // The question that has the focus, else the first without an answer.
      const focused = document.activeElement.name;
      const question = names.includes(focused) ? focused : names.find((name) => !of(id, name)) ?? names.at(-1);
      for (const input of task.querySelectorAll("input[type=radio]"))
        if (input.name === question && input.value === choice) input.checked = true;
      answer(question, choice);
    } else if (event.key === "n") go(1);
    else if (event.key === "b") go(-1);
    else if (event.key === "f") turn(true);
    else if (event.key === "s") turn(false);
    else if (event.key === "z") find("pictures").classList.toggle("large");
    else return;
    event.preventDefault();
  });
  show();
})();
