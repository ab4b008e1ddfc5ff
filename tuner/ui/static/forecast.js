// The forecast card: asks when a knob has moved, shows the newest answer only, dims the old one while it waits.

const SETTLE = 40; // a slider tells of every pixel
const RETRY = 4000;
const STORED = "tuner-card";
const tab = crypto.randomUUID?.() ?? String(Math.random());
const menu = element.querySelector("select");
const part = (name) => element.querySelector(`.${name}`);

let turn = 0; // only the latest question's answer is shown
let timer = null;

function show(name, markup) {
  if (part(name).innerHTML !== markup) part(name).innerHTML = markup;
}

function markCard() {
  element.dataset.gpu = menu.value;
  part("simulated").hidden = Boolean(menu.selectedOptions[0]?.dataset.here);
}

function wait() {
  element.classList.add("stale");
  element.classList.remove("seeking");
  clearTimeout(timer);
  turn += 1;
  timer = setTimeout(ask, SETTLE);
}

// Asked again where one that was sent before it, and came later, took its place.
async function question(kind) {
  const mine = turn;
  for (;;) {
    const answer = await server.forecast({ tab, kind, gpu: menu.value, values: props.value });
    if (answer.superseded) await new Promise((resolve) => setTimeout(resolve, SETTLE));
    if (mine !== turn || !answer.superseded) return answer;
  }
}

async function ask() {
  if (!props.value) return;
  const mine = turn;
  const began = performance.now();
  try {
    const answer = await question("forecast");
    if (mine !== turn) return;
    show("body", answer.markup);
    show("advice", "");
    element.classList.remove("stale");
    Object.assign(element.dataset, { level: answer.level, turn: mine, milliseconds: Math.round(performance.now() - began) });
    part("fit").disabled = answer.level === "refused";
    if (answer.level === "no") await advise(mine);
  } catch (error) {
    console.warn(error);
    if (mine === turn) timer = setTimeout(ask, RETRY);
  }
}

// First the knob to move, then the size to take: each may need a few forecasts.
async function advise(mine) {
  element.classList.add("seeking");
  const found = [];
  for (const kind of ["relief", "size"]) {
    const answer = await question(kind);
    if (mine !== turn) return;
    if (answer.changes && Object.keys(answer.changes).length) found.push(answer.markup);
    show("advice", found.join(""));
  }
  element.classList.remove("seeking");
  element.dataset.advised = mine;
}

async function fit() {
  turn += 1;
  const mine = turn;
  element.classList.add("stale");
  part("fit").disabled = true;
  try {
    const answer = await question("fit");
    if (mine !== turn) return;
    if (answer.changes) trigger("take", { changes: answer.changes });
    else show("advice", answer.markup);
    element.classList.remove("stale");
    wait();
  } catch (error) {
    console.warn(error);
    wait();
  } finally {
    part("fit").disabled = false;
  }
}

element.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-do]");
  if (button?.dataset.do === "take") trigger("take", { changes: JSON.parse(button.dataset.changes) });
  if (button?.dataset.do === "fit") fit();
});

const kept = localStorage.getItem(STORED);
if (kept && menu.querySelector(`option[value="${CSS.escape(kept)}"]`)) menu.value = kept;
menu.addEventListener("change", () => {
  localStorage.setItem(STORED, menu.value);
  markCard();
  wait();
});
watch("value", wait);
document.addEventListener("run-done", wait); // it has taught something
markCard();
if (props.value) wait();
