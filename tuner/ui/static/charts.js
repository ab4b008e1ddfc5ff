// Memory and time on one axis of seconds. Points are appended; nothing is drawn anew, so zoom and legend stay.

const GIB = 2 ** 30;
const MOST_POINTS = 4000;
const STAGE_COLOURS = {
  load: "#8494a8",
  "encode text": "#0d9f9b",
  "encode image": "#2f9e5b",
  denoise: "#5b6af0",
  decode: "#dd8b1f",
  write: "#a84fd8",
};

function colours() {
  const dark = document.body.classList.contains("dark");
  return dark
    ? { allocated: "#4cc2ff", reserved: "#8fa3cc", host: "#f2b84b", step: "#a5aefc", card: "#ff7b7b", band: "22" }
    : { allocated: "#0b6bcb", reserved: "#7f93b8", host: "#b96f00", step: "#5b6af0", card: "#d1242f", band: "14" };
}

function makeCharts(box, one) {
  const style = (name) => getComputedStyle(box).getPropertyValue(name).trim();
  let unit = { name: "GiB", bytes: GIB };
  let cardBytes = 0;
  let drawn = { points: 0, steps: 0, stages: "", now: 0 };
  let ready = Promise.resolve();

  const narrow = () => box.clientWidth < 520;
  const axis = (more) => ({
    gridcolor: style("--border-color-primary"),
    linecolor: style("--border-color-primary"),
    zeroline: false,
    fixedrange: false,
    ...more,
  });
  const title = (text, colour) => ({ text, font: { size: 11, color: colour }, standoff: 6 });

  function traces(run) {
    const paint = colours();
    const inUnit = (values) => values.map((value) => value / unit.bytes);
    const line = (name, x, y, more) => ({ name, x, y, mode: "lines", type: "scatter", ...more });
    return [
      line(one("allocated"), [...run.time], inUnit(run.allocated), {
        line: { color: paint.allocated, width: 2 },
        fill: "tozeroy",
        fillcolor: `${paint.allocated}1f`,
        hovertemplate: `%{y:.4~g} ${unit.name}`,
      }),
      line(one("reserved"), [...run.time], inUnit(run.reserved), {
        line: { color: paint.reserved, width: 1.4, dash: "dot" },
        hovertemplate: `%{y:.4~g} ${unit.name}`,
      }),
      line(one("host"), [...run.time], run.host.map((value) => value / GIB), {
        yaxis: "y3",
        line: { color: paint.host, width: 1.4 },
        hovertemplate: "%{y:.3f} GiB",
      }),
      {
        name: one("seconds_per_step"),
        type: "bar",
        yaxis: "y2",
        marker: { color: paint.step },
        hovertemplate: "%{y:.3f} s",
        ...bars(run.steps),
      },
    ];
  }

  // A bar stands where its step was on the axis of time, as wide as the step was long.
  function bars(steps) {
    return {
      x: steps.map((step) => step.at - step.seconds / 2),
      y: steps.map((step) => step.seconds),
      width: steps.map((step) => step.seconds * 0.86),
    };
  }

  function stageShapes(run, now) {
    const paint = colours();
    const span = Math.max(now, 0.001);
    return run.stages.flatMap((stage, i) => {
      const end = i === run.stages.length - 1 ? Math.max(stage.end, run.measured || run.failure ? 0 : now) : stage.end;
      const colour = STAGE_COLOURS[stage.name];
      const place = { type: "rect", xref: "x", yref: "paper", x0: stage.start, x1: end, line: { width: 0 } };
      const text = one(`stage_${stage.name.replace(" ", "_")}`);
      const room = ((end - stage.start) / span) * (box.clientWidth - 110);
      const label = { text: room > text.length * 7 ? text : "", font: { size: 10.5, color: "#fff" } };
      return [
        { ...place, layer: "below", y0: 0.42, y1: 1, fillcolor: colour + paint.band },
        { ...place, layer: "above", y0: 0.31, y1: 0.375, fillcolor: colour, label },
      ];
    });
  }

  function cardLine() {
    if (!cardBytes) return [];
    const y = cardBytes / unit.bytes;
    const line = { color: colours().card, width: 1.2, dash: "dash" };
    const label = {
      text: `${one("card_memory")} ${(cardBytes / GIB).toFixed(1)} GiB`,
      textposition: "end",
      yanchor: "bottom",
      font: { size: 10.5, color: colours().card },
    };
    return [{ type: "line", xref: "paper", x0: 0, x1: 1, yref: "y", y0: y, y1: y, line, label }];
  }

  function layout(run, now) {
    const paint = colours();
    return {
      uirevision: "kept",
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style("--font"), size: 11.5, color: style("--body-text-color-subdued") },
      hoverlabel: {
        bgcolor: style("--background-fill-primary"),
        bordercolor: style("--border-color-primary"),
        font: { color: style("--body-text-color") },
      },
      hovermode: "x unified",
      margin: { l: 54, r: 50, t: 24, b: 34 },
      showlegend: true,
      legend: {
        orientation: "h",
        x: 0,
        y: 1.01,
        yanchor: "bottom",
        font: { size: 11 },
        itemwidth: 30,
        entrywidthmode: "fraction",
        entrywidth: narrow() ? 0.48 : 0.23,
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--body-text-color-subdued"), activecolor: paint.allocated },
      xaxis: axis({ anchor: "y2", ticksuffix: " s", rangemode: "tozero", title: title(one("since_start")) }),
      yaxis: axis({ domain: [0.42, 1], rangemode: "tozero", title: title(unit.name), nticks: 6 }),
      yaxis2: axis({ domain: [0, 0.26], rangemode: "tozero", title: title("s"), nticks: 4 }),
      yaxis3: axis({
        tickmode: "auto",
        overlaying: "y",
        side: "right",
        rangemode: "tozero",
        showgrid: false,
        tickfont: { color: paint.host },
        title: title(`${one("host")} · GiB`, paint.host),
        nticks: 6,
      }),
      shapes: [...stageShapes(run, now), ...cardLine()],
    };
  }

  const config = () => ({
    responsive: true,
    displaylogo: false,
    displayModeBar: narrow() ? false : "hover",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  });

  // Chart calls one after the other: an append must not meet a chart that is still being made.
  const then = (work) => (ready = ready.then(work, work));

  return {
    // Start afresh for a run; `memoryUnit` is what its memory is counted in, `card` the device's bytes or 0.
    begin(run, memoryUnit, card) {
      unit = memoryUnit;
      cardBytes = card;
      drawn = { points: run.time.length, steps: run.steps.length, stages: "", now: 0 };
      return then(() => Plotly.newPlot(box, traces(run), layout(run, run.at), config()));
    },
    append(run, now) {
      return then(async () => {
        if (run.time.length > MOST_POINTS) thin(run, MOST_POINTS / 2);
        if (run.time.length < drawn.points) {
          const lines = traces(run).slice(0, 3);
          drawn.points = run.time.length;
          await Plotly.restyle(box, { x: lines.map((t) => t.x), y: lines.map((t) => t.y) }, [0, 1, 2]);
        }
        if (run.time.length > drawn.points || run.steps.length > drawn.steps) {
          const from = drawn.points;
          const fresh = bars(run.steps.slice(drawn.steps));
          Object.assign(drawn, { points: run.time.length, steps: run.steps.length });
          const time = run.time.slice(from);
          const values = (name, bytes) => run[name].slice(from).map((value) => value / bytes);
          const lines = [values("allocated", unit.bytes), values("reserved", unit.bytes), values("host", GIB)];
          box.data[3].width.push(...fresh.width); // with the others it would cost a drawing of its own
          await Plotly.extendTraces(box, { x: [time, time, time, fresh.x], y: [...lines, fresh.y] }, [0, 1, 2, 3]);
        }
        // Bands cost a drawing of their own: with each stage, and once a second while one lasts.
        const stages = run.stages.map((stage) => stage.name).join() + (run.measured || run.failure ? "." : "");
        if (stages !== drawn.stages || now - drawn.now > 1) {
          Object.assign(drawn, { stages, now });
          await Plotly.relayout(box, { shapes: [...stageShapes(run, now), ...cardLine()] });
        }
      });
    },
    // Other colours or another language, the same points.
    restyle(run, now) {
      return then(async () => {
        if (!box.data) return;
        const [allocated, reserved, host, steps] = traces(run);
        const lines = [allocated, reserved, host];
        const look = {
          name: lines.map((t) => t.name),
          "line.color": lines.map((t) => t.line.color),
          fillcolor: [allocated.fillcolor, null, null],
        };
        await Plotly.restyle(box, look, [0, 1, 2]);
        await Plotly.restyle(box, { name: steps.name, "marker.color": steps.marker.color }, [3]);
        const { xaxis, yaxis, yaxis2, yaxis3, ...rest } = layout(run, now);
        const flat = {};
        for (const [name, of] of Object.entries({ xaxis, yaxis, yaxis2, yaxis3 })) {
          for (const key of ["gridcolor", "linecolor", "title", "tickfont"]) if (of[key]) flat[`${name}.${key}`] = of[key];
        }
        await Plotly.relayout(box, { ...rest, ...flat });
      });
    },
    resize() {
      if (box.data && box.offsetParent) Plotly.Plots.resize(box);
    },
  };
}
