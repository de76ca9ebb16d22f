"use strict";
(() => {
  const $ = id => document.getElementById(id);
  const table = $("photographs");
  if (!table) return;
  document.documentElement.classList.add("on");

  const judged = document.body.dataset.threshold !== undefined;
  const own = judged ? Number(document.body.dataset.threshold) : NaN;
  const good = JSON.parse(document.body.dataset.good);
  // Highest score first, as in the file.
  const rows = [...table.tBodies[0].rows].map(row => ({
    row, score: Number(row.dataset.score), name: row.querySelector(".name").textContent.toLowerCase(), pill: row.querySelector(".pill"),
    open: row.querySelector(".open"), recorded: row.dataset.verdict,
  }));
  const [slider, exact, reset, counted, find] = ["slider", "exact", "reset", "counted", "find"].map($);
  const words = judged ? { defect: "defect", good: "good" } : { defect: "above", good: "below" };
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  // Verdicts at a threshold, and what they lead to.
  let threshold = own;
  const verdictOf = one => Number.isNaN(threshold) ? "" : threshold === own ? one.recorded : one.score > threshold ? "defect" : "good";
  const judge = value => {
    threshold = value;
    for (const one of rows) {
      const verdict = verdictOf(one);
      if (one.row.dataset.verdict === verdict && one.pill.textContent === (words[verdict] ?? "")) continue;
      one.row.dataset.verdict = verdict;
      one.pill.textContent = words[verdict] ?? "";
    }
    const none = Number.isNaN(threshold), [low, high] = [Number(slider.min), Number(slider.max)];
    slider.value = none ? high : threshold;
    if (document.activeElement !== exact) exact.value = none ? "" : Number(threshold.toPrecision(6));
    slider.setAttribute("aria-valuetext", none ? "none" : threshold.toFixed(4));
    const at = high > low ? (threshold - low) / (high - low) : .5;
    slider.parentElement.classList.toggle("marked", at >= 0 && at <= 1);
    slider.parentElement.style.setProperty("--at", none ? 2 : at);
    reset.hidden = judged ? threshold === own : none;
    const defects = rows.filter(one => one.row.dataset.verdict === "defect").length;
    const alarms = good.filter(score => score > threshold).length;
    counted.replaceChildren();
    if (!none) {
      counted.append(bold(`${defects} of ${rows.length}`), judged ? ` photographs ${defects === 1 ? "is a defect" : "are defects"}` : " photographs are above it");
      if (good.length) counted.append("; ", bold(`${alarms} of ${good.length}`), ` good examples would be ${alarms === 1 ? "a false alarm" : "false alarms"}`);
      if (threshold !== own) {
        const command = document.createElement("code");
        command.textContent = `--threshold ${Number(threshold.toPrecision(6))}`;
        counted.append(" · use it with ", command);
      }
    }
    for (const verdict of ["defect", "good"]) {
      const count = none ? 0 : verdict === "defect" ? defects : rows.length - defects;
      document.querySelector(`[data-count=${verdict}]`).textContent = none ? "" : count;
      document.querySelector(`[name=verdict][value=${verdict}]`).disabled = none;
    }
    filter();
  };
  const bold = text => Object.assign(document.createElement("b"), { textContent: text });

  // Which are shown.
  let visible = rows;
  const filter = () => {
    const chosen = document.querySelector("[name=verdict]:checked");
    if (chosen.disabled) document.querySelector("[name=verdict][value='']").checked = true;
    const verdict = chosen.disabled ? "" : chosen.value, text = find.value.trim().toLowerCase();
    visible = rows.filter(one => {
      const shown = (!verdict || one.row.dataset.verdict === verdict) && one.name.includes(text);
      if (one.row.hidden === shown) one.row.hidden = !shown;
      return shown;
    });
    $("nothing").hidden = visible.length > 0;
    $("shown").textContent = `${plural(visible.length, "photograph")} shown`;
  };
  let waiting = 0;
  const soon = value => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => judge(value)); };
  slider.addEventListener("input", () => soon(Number(slider.value)));
  exact.addEventListener("input", () => soon(exact.value === "" ? own : Number(exact.value)));
  exact.addEventListener("blur", () => judge(threshold));
  reset.addEventListener("click", () => { judge(own); slider.focus(); });
  find.addEventListener("input", filter);
  document.querySelectorAll("[name=verdict]").forEach(chip => chip.addEventListener("change", filter));

  // Heat and side by side are boxes that the style looks at; the photograph is needed a second time, when it is wanted.
  const press = box => { box.checked = !box.checked; box.dispatchEvent(new Event("change")); };
  const near = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(({ target }) => {
    near.unobserve(target);
    const again = target.previousElementSibling.firstElementChild.cloneNode();
    again.className = "again";
    again.alt = "";
    target.prepend(again);
  }), { rootMargin: "600px" });
  const beside = () => {
    if ($("side").checked) table.querySelectorAll(".over:not(:has(.again))").forEach(pane => near.observe(pane));
    else near.disconnect();
    if (viewer.open) fill();
  };
  $("side").addEventListener("change", beside);
  $("heat").addEventListener("change", () => { if (viewer.open) fill(); });
  $("opacity").addEventListener("input", event => document.documentElement.style.setProperty("--strength", event.target.value));

  // One photograph, large.
  const viewer = $("viewer"), stage = $("stage");
  let current = null, full = false;
  const pane = (one, heat) => {
    const made = Object.assign(document.createElement("span"), { className: "pane" });
    for (const kind of heat ? [".photo", ".heat"] : [".photo"]) {
      const image = one.row.querySelector(kind)?.cloneNode();
      if (image) { image.loading = "eager"; made.append(image); }
    }
    return made;
  };
  const fill = () => {
    const side = $("side").checked && current.row.querySelector(".heat");
    stage.replaceChildren(...(side ? [pane(current, false), pane(current, true)] : [pane(current, true)]));
    stage.classList.toggle("full", full);
    const cell = name => current.row.querySelector(`.${name}`).textContent.replace(/\s+/g, " ").trim();
    const facts = [`#${cell("rank")}`, cell("score"), cell("z"), cell("regions")].filter(Boolean).join(" · ");
    const name = bold(cell("name"));
    $("what").replaceChildren(name, current.pill.cloneNode(true), document.createElement("br"), facts);
    $("what").dataset.verdict = current.row.dataset.verdict;
    $("file").href = current.open.href;
    for (const [act, on] of [["zoom", full], ["heat", $("heat").checked], ["side", $("side").checked]])
      viewer.querySelector(`[data-do=${act}]`).setAttribute("aria-pressed", on);
  };
  const show = one => {
    current = one;
    full = false;
    fill();
    if (!viewer.open) viewer.showModal();
    stage.focus();
  };
  const move = (from, step) => {
    const openable = visible.filter(one => one.open);
    return openable[Math.min(Math.max(openable.indexOf(from) + step, 0), openable.length - 1)];
  };
  const zoom = () => { full = !full; fill(); };
  const acts = {
    previous: () => show(move(current, -1)), next: () => show(move(current, 1)), zoom, close: () => viewer.close(),
    heat: () => press($("heat")), side: () => press($("side")),
  };
  viewer.querySelectorAll("[data-do]").forEach(button => button.addEventListener("click", () => acts[button.dataset.do]()));
  stage.addEventListener("click", zoom);
  viewer.addEventListener("close", () => current.open.focus());
  rows.forEach(one => one.open?.addEventListener("click", event => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(one);
  }));

  // Keys.
  $("helper").addEventListener("click", () => $("help").showModal());
  const across = () => {  // photographs in a row of the grid
    const top = visible[0].row.offsetTop, count = visible.findIndex(one => one.row.offsetTop !== top);
    return count < 0 ? visible.length : count;
  };
  const onScreen = () => visible.find(one => one.open && one.row.getBoundingClientRect().bottom > innerHeight / 4);
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const typing = event.target.matches("input:not([type=checkbox]):not([type=radio]), select");
    if (typing) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "h") press($("heat"));
    else if (key === "s") press($("side"));
    else if (key === "?") $("help").showModal();
    else if (viewer.open) {
      if (key === "Enter" && event.target === stage) zoom();
      else if (key in steps && !full) show(move(current, steps[key]));
      else return;
    } else if (key === "/") find.focus();
    else if (key in steps && !event.target.matches("[type=radio]")) {
      const at = visible.find(one => one.open === document.activeElement);
      const next = at ? move(at, steps[key] * (key === "ArrowUp" || key === "ArrowDown" ? across() : 1)) : onScreen();
      if (!next) return;
      next.open.focus();
      next.row.scrollIntoView({ block: "nearest" });
    } else return;
    event.preventDefault();
  });

  judge(own);
})();
