// A run as the page knows it: events in, one plain object out. No DOM, no chart, no request.

function newRun() {
  return {
    at: 0,
    stages: [], // {name, start, end, peak}
    steps: [], // {step, at, seconds}
    stepsTotal: 0,
    time: [],
    allocated: [],
    reserved: [],
    host: [],
    samples: 0,
    peakAllocated: 0,
    peakReserved: 0,
    reservedAtPeak: 0,
    transfers: { h2d: { count: 0, bytes: 0 }, d2h: { count: 0, bytes: 0 } },
    caches: {},
    preview: null, // {step, frames, webp}
    frames: { done: 0, total: 0 },
    notices: [], // {en, zh}
    failure: null, // likewise
    measured: null,
  };
}

const reducers = {
  StageStarted(run, event) {
    closeStage(run, event.at);
    run.stages.push({ name: event.stage, start: event.at, end: event.at, peak: 0 });
  },
  StepDone(run, event) {
    run.steps.push({ step: event.step, at: event.at, seconds: event.seconds });
    run.stepsTotal = event.steps;
  },
  MemorySample(run, event) {
    run.samples += 1;
    run.time.push(event.at);
    run.allocated.push(event.allocated);
    run.reserved.push(event.reserved);
    run.host.push(event.host_rss);
    if (event.allocated >= run.peakAllocated) {
      run.peakAllocated = event.allocated;
      run.reservedAtPeak = event.reserved;
    }
    run.peakReserved = Math.max(run.peakReserved, event.reserved);
    const stage = run.stages.at(-1);
    if (stage) stage.peak = Math.max(stage.peak, event.allocated);
  },
  Transferred(run, event) {
    const way = run.transfers[event.direction];
    way.count += event.count;
    way.bytes += event.bytes;
  },
  CacheUsed(run, event) {
    run.caches[event.level] = event;
  },
  Previewed(run, event) {
    run.preview = event;
  },
  FramesReady(run, event) {
    run.frames = { done: event.done, total: event.total };
  },
  Noticed(run, event) {
    run.notices.push(said(event));
  },
  Finished(run, event) {
    closeStage(run, event.at);
    run.measured = event.measured;
    for (const measured of event.measured.stages) {
      const stage = run.stages.findLast((one) => one.name === measured.name);
      if (stage) stage.peak = measured.peak_allocated_bytes;
    }
  },
  Failed(run, event) {
    closeStage(run, event.at);
    run.failure = said(event);
  },
};

function said({ message, message_zh }) {
  return { en: message, zh: message_zh ?? message };
}

function closeStage(run, at) {
  const stage = run.stages.at(-1);
  if (stage) stage.end = at;
}

function reduce(run, event) {
  run.at = Math.max(run.at, event.at);
  reducers[event.kind]?.(run, event);
}

// The lowest and the highest of each bucket: a long run keeps its peaks and loses only what no eye can see.
function thin(run, most) {
  const buckets = Math.floor(most / 2);
  const size = Math.ceil(run.time.length / buckets);
  const keep = [];
  for (let from = 0; from < run.time.length; from += size) {
    const to = Math.min(from + size, run.time.length);
    let low = from;
    let high = from;
    for (let i = from; i < to; i += 1) {
      if (run.allocated[i] < run.allocated[low]) low = i;
      if (run.allocated[i] >= run.allocated[high]) high = i;
    }
    keep.push(...new Set([Math.min(low, high), Math.max(low, high)]));
  }
  for (const name of ["time", "allocated", "reserved", "host"]) run[name] = keep.map((i) => run[name][i]);
}

function cacheRate(caches) {
  const used = Object.values(caches);
  const hits = used.reduce((sum, one) => sum + one.hits, 0);
  const all = used.reduce((sum, one) => sum + one.hits + one.misses, 0);
  return all ? hits / all : null;
}

// Seconds of a step without the first, which carries the warm-up.
function meanStep(steps) {
  const counted = steps.length > 1 ? steps.slice(1) : steps;
  return counted.length ? counted.reduce((sum, one) => sum + one.seconds, 0) / counted.length : null;
}
