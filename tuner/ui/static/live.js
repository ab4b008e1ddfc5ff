// One run, live: pulls what is new with a cursor, and shows it as tiles, curves, clip and stages.
// Tells Python of three moments only: "started" (another run began), "changed" (this one has another status) and
// "resume" (a person wants one that ended early to go on).

const PERIOD = { active: 250, idle: 1500, hidden: 3000 };
const words = props.words;
const language = () => document.documentElement.dataset.language || "en";
const one = (key) => words[key]?.[language()] ?? key;
const two = (key) => `<span lang="en">${words[key]?.en ?? key}</span><span lang="zh">${words[key]?.zh ?? key}</span>`;
const twoOf = ({ en, zh }) => `<span lang="en">${escaped(en)}</span><span lang="zh">${escaped(zh)}</span>`;
const slot = (name) => element.querySelector(`[data-k="${name}"]`);
const video = element.querySelector("video");
const charts = makeCharts(element.querySelector(".plot"), one);

let shown = null; // id of the run on the page
let cursor = 0;
let run = newRun();
let about = null;
let again = null; // what is offered for a run that ended early
let clip = 0; // which of the run's clips is on the screen
let active = false;
let heard = 0; // when the last event arrived, in this page's clock
let newest; // the newest run there is; undefined until the server has said
let behind = false; // whether there are newer runs that this page has yet to show
let last = {}; // the latest answer
let timer = null;
let turn = 0; // only the latest loop goes on

function put(name, markup) {
  const place = slot(name);
  if (place.innerHTML !== markup) place.innerHTML = markup;
}

function escaped(text) {
  const holder = document.createElement("span");
  holder.textContent = text;
  return holder.innerHTML;
}

function bytes(amount) {
  const [size, unit] = amount >= GIB ? [GIB, "GiB"] : [2 ** 20, "MiB"];
  const value = amount / size;
  return `${value.toFixed(value < 9.995 ? 2 : 1)} ${unit}`;
}

function clock(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

const percent = (share) => `${(100 * share).toFixed(share && share < 0.1 ? 1 : 0)} %`;
const elapsed = () => run.at + (active && run.at ? (performance.now() - heard) / 1000 : 0);

// Loading is no part of a run's seconds: the next run finds the model loaded.
function loading() {
  const stage = run.stages.find((one) => one.name === "load");
  return stage ? (run.stages.length === 1 && active ? elapsed() : stage.end) - stage.start : 0;
}

// How far the current stage is, and what it still needs; null where nothing can be known.
function progress() {
  const stage = run.stages.at(-1);
  if (stage?.name === "denoise" && run.stepsTotal) {
    const done = run.steps.at(-1).step;
    const left = (run.stepsTotal - done) * meanStep(run.steps) - (elapsed() - run.steps.at(-1).at);
    return { text: `${two("step")} ${done} / ${run.stepsTotal}`, share: done / run.stepsTotal, left };
  }
  if (stage?.name === "decode" && run.frames.total) {
    const { done, total } = run.frames;
    const left = done ? ((elapsed() - stage.start) / done) * (total - done) : null;
    return { text: `${two("frame")} ${done} / ${total}`, share: done / total, left };
  }
  return { text: "", share: null, left: null };
}

function showStatus(delta) {
  const status = delta.status;
  const stage = run.stages.at(-1);
  element.dataset.status = status;
  put("status", two(`status_${status.replaceAll(" ", "_")}`));
  const pill = slot("status").parentElement;
  pill.dataset.status = status;
  const { text, share, left } = active ? progress() : { text: "", share: status === "done" ? 1 : null, left: null };
  const waiting = status === "queued" ? `${two("waiting")} ${delta.queue_position}` : "";
  const making = stage && active ? two(`stage_${stage.name.replace(" ", "_")}`) : "";
  put("stage", waiting || making || escaped(about?.model ?? ""));
  put("progress", active ? text : escaped(about?.preset ?? ""));
  put("left", left !== null && left > 0 ? `${clock(left)} ${two("left")}` : "");
  slot("bar").classList.toggle("moving", active && share === null);
  slot("bar").firstElementChild.style.width = share === null ? "" : `${100 * share}%`;
  const failure = run.failure ?? (status !== "done" && delta.message ? said(delta) : null);
  const message = failure && failure.en !== status ? failure : run.notices.at(-1);
  put("message", message ? twoOf(message) : "");
  slot("message").classList.toggle("bad", Boolean(failure) && !active && status !== "cancelled");
  showAgain();
}

function showAgain() {
  const box = slot("again");
  box.hidden = active || !again;
  if (box.hidden) return;
  box.querySelector("button").innerHTML = two(again.label);
  box.querySelector("small").innerHTML = twoOf(again.about);
}

// A forecast's error in per cent, with its sign.
function signed(share) {
  if (share === null) return "–";
  const percents = Math.round(1000 * share) / 10;
  return `${percents < 0 ? "−" : "+"}${Math.abs(percents).toFixed(1)} %`;
}

// Beside a measured value: how far the forecast was off.
const aside = (share) => (share === undefined || share === null ? "" : `<s>${signed(share)}</s>`);

function showForecast({ forecast, off }) {
  const lines = forecast ? [`${two("was_forecast")} ${bytes(forecast.peak_allocated_bytes)}`, clock(forecast.seconds)] : [];
  put("off", off ? signed(off.peak) : "–");
  if (off) lines.splice(0, 2, two("off_memory"), `${two("off_time")} ${signed(off.seconds)}`);
  put("foreseen", lines.join("<br>"));
}

function showTiles() {
  const measured = run.measured;
  const peak = measured?.peak_allocated_bytes ?? run.peakAllocated;
  const reserved = measured?.peak_reserved_bytes ?? run.peakReserved;
  put("peak", peak ? bytes(peak) : "–");
  const nowBytes = run.allocated.at(-1);
  const card = about?.card_bytes ? `${two("of")} ${bytes(about.card_bytes)}` : "";
  put("now", [active && nowBytes !== undefined ? `${two("now")} ${bytes(nowBytes)}` : "", card].filter(Boolean).join("<br>"));
  const seconds = measured?.seconds ?? Math.max(0, elapsed() - loading());
  put("time", run.at ? clock(seconds) : "–");
  put("load", loading() >= 0.05 ? `${two("stage_load")} ${clock(loading())}` : "");
  const mean = meanStep(run.steps);
  put("step", mean === null ? "–" : `${mean.toFixed(2)} s`);
  const count = `${run.steps.length} ${two("steps_unit")}`;
  put("first", run.steps.length ? `${two("first")} ${run.steps[0].seconds.toFixed(2)} s<br>${count}` : "");
  const { h2d, d2h } = measured ? fromMeasured(measured.transfers) : run.transfers;
  put("transfers", run.at ? bytes(h2d.bytes + d2h.bytes) : "–");
  put("ways", run.at ? `↓ ${bytes(h2d.bytes)} · ${h2d.count}×<br>↑ ${bytes(d2h.bytes)} · ${d2h.count}×` : "");
  const caches = measured?.cache ?? run.caches;
  const rate = cacheRate(caches);
  put("hits", rate === null ? "–" : percent(rate));
  const levels = ["weights", "features"].filter((name) => caches[name]?.hits + caches[name]?.misses > 0);
  put("levels", levels.map((name) => `${two(name)} ${percent(cacheRate({ [name]: caches[name] }))}`).join("<br>"));
  const loose = measured?.fragmentation ?? (run.reservedAtPeak ? 1 - run.peakAllocated / run.reservedAtPeak : null);
  put("fragmentation", loose === null ? "–" : percent(Math.max(0, loose)));
  put("reserved", reserved ? `${two("reserved")} ${bytes(reserved)}` : "");
}

function fromMeasured(transfers) {
  const way = (name) => ({ count: transfers[`${name}_count`], bytes: transfers[`${name}_bytes`] });
  return { h2d: way("h2d"), d2h: way("d2h") };
}

function showStages() {
  const seconds = (stage, i) => Math.max(0, (i === run.stages.length - 1 && active ? elapsed() : stage.end) - stage.start);
  const longest = Math.max(...run.stages.map(seconds), 0.001);
  const rows = run.stages.map((stage, i) => {
    const width = (100 * seconds(stage, i)) / longest;
    const bar = `<i style="width:${width}%;background:${STAGE_COLOURS[stage.name]}"></i>`;
    const peak = stage.peak ? bytes(stage.peak) : "–";
    const name = two(`stage_${stage.name.replace(" ", "_")}`);
    const off = last.off?.stages.find((one) => one.name === stage.name);
    const time = `${aside(off?.seconds)}${clock(seconds(stage, i))}`;
    return `<tr><td>${name}</td><td class="b">${bar}</td><td>${time}</td><td>${aside(off?.peak)}${peak}</td></tr>`;
  });
  put("stages", rows.join(""));
  element.querySelector(".stages").hidden = rows.length === 0;
}

// One button per clip, where there are several; each has its own Download and seed.
function showNumbers(clips) {
  const box = slot("clips");
  box.hidden = clips.length < 2;
  const button = (_, i) => `<button type="button" data-clip="${i}" aria-pressed="${i === clip}">${i + 1}</button>`;
  put("clips", box.hidden ? "" : clips.map(button).join(""));
}

element.addEventListener("click", (event) => {
  if (event.target.closest?.('[data-do="resume"]')) {
    trigger("resume", { run: shown });
    return;
  }
  const chosen = event.target.closest?.("[data-clip]");
  if (!chosen) return;
  clip = Number(chosen.dataset.clip);
  showClip(last);
});

// The clip as the latest step has it: small pictures side by side, one after the other at the clip's own speed.
function showFilm(preview) {
  const box = slot("film");
  box.hidden = !preview;
  const { step, frames, webp } = preview ?? {};
  const showing = `${shown} ${step}`;
  if (!preview || box.dataset.showing === showing) return Boolean(preview);
  box.dataset.showing = showing;
  const style = box.querySelector("i").style;
  style.aspectRatio = `${about.width} / ${about.height}`;
  style.backgroundImage = `url(data:image/webp;base64,${webp})`;
  style.backgroundSize = `${100 * frames}% 100%`;
  style.animation = frames > 1 ? `film ${about.frames / about.fps}s steps(${frames}, jump-none) infinite` : "none";
  return true;
}

function showClip(delta) {
  const clips = delta.videos ?? [];
  showNumbers(clips);
  const address = clips[clip] ?? "";
  if (video.getAttribute("src") !== address) {
    if (address) video.src = address;
    else video.removeAttribute("src");
    video.load();
  }
  video.hidden = !address;
  const film = showFilm(!address && active ? run.preview : null);
  slot("no-video").hidden = Boolean(address) || film;
  const link = slot("download");
  link.hidden = !address;
  link.href = address;
  link.download = `easyanimate-${shown}${clip ? `-${clip + 1}` : ""}.mp4`;
  if (!about) return;
  const parts = [`${about.width}×${about.height}`, `${about.frames} ${two("frames_unit")}`, `${about.fps} fps`, `${two("seed")} ${about.seed + clip}`];
  put("clip", parts.map((part) => `<span>${part}</span>`).join(" · "));
}

function forget() {
  cursor = 0;
  run = newRun();
  heard = performance.now();
}

// Goes to a run that began after the one on the page, once that has ended; an older one stays if a person chose it.
function follow(delta) {
  if (newest !== undefined && delta.newest !== newest) behind = true;
  newest = delta.newest;
  if (!behind || delta.active) return;
  const next = delta.current ?? newest;
  behind = next !== newest;
  if (next && next !== shown) trigger("started", { run: next });
}

async function pull() {
  const asked = shown;
  const delta = await server.poll({ run: asked ?? "", cursor });
  if (asked !== shown) return; // another run was chosen while this answer was on its way
  put("connection", "");
  follow(delta);
  if (!shown) return;
  if (delta.status === "unknown") {
    active = false;
    showStatus({ ...delta, message: "" });
    return;
  }
  if (delta.from !== cursor) {
    forget();
    about = null;
    if (delta.from !== 0) return;
  }
  const first = about === null;
  about ??= delta.about;
  if (delta.again !== undefined) again = delta.again;
  for (const event of delta.events) reduce(run, event);
  if (delta.events.length) heard = performance.now();
  cursor = delta.next;
  const was = element.dataset.status;
  active = delta.active;
  if (first) await charts.begin(run, { name: about.unit, bytes: about.unit_bytes }, about.card_bytes);
  else if (delta.events.length || active) await charts.append(run, elapsed());
  if (asked !== shown) return;
  last = delta;
  showStatus(delta);
  showTiles();
  showForecast(delta);
  showStages();
  showClip(delta);
  Object.assign(element.dataset, { run: shown, points: run.samples, steps: run.steps.length });
  if (first || was !== delta.status) trigger("changed", { run: shown });
  if (was && was !== delta.status && delta.status === "done") document.dispatchEvent(new Event("run-done"));
}

function loop() {
  clearTimeout(timer);
  turn += 1;
  const mine = turn;
  pull()
    .catch((error) => {
      put("connection", two("reconnecting"));
      console.warn(error);
    })
    .finally(() => {
      if (mine !== turn || !element.isConnected) return;
      timer = setTimeout(loop, document.hidden ? PERIOD.hidden : active ? PERIOD.active : PERIOD.idle);
    });
}

function attach(id) {
  if (!id || id === shown) return;
  const moves = shown !== null;
  shown = id;
  about = null;
  again = null;
  clip = 0;
  last = {};
  active = false;
  forget();
  if (moves && innerWidth < 900) element.scrollIntoView({ behavior: "smooth" });
  loop();
}

watch("value", () => attach(props.value));
new MutationObserver(() => charts.restyle(run, elapsed())).observe(document.body, { attributeFilter: ["class"] });
new MutationObserver(() => charts.restyle(run, elapsed())).observe(document.documentElement, {
  attributeFilter: ["data-language"],
});
new ResizeObserver(() => charts.resize()).observe(element);
document.addEventListener("visibilitychange", () => document.hidden || loop());
showStatus({ status: "idle", message: "" });
charts.begin(run, { name: "MiB", bytes: 2 ** 20 }, 0);
if (props.value) attach(props.value);
else loop();
