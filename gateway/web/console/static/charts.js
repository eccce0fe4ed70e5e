// uPlot, as small as it goes: medians as a line, the slowest of each stretch as an area, the target as a dashed line.

const charts = new Set();

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options(element, height, axes, target) {
  const short = (value) => (!value ? "0" : value >= 1000 ? `${+(value / 1000).toFixed(2)} s` : `${+value.toFixed(1)} ms`);
  const font = "11px system-ui, sans-serif";
  return {
    width: Math.max(40, element.clientWidth),
    height,
    padding: axes ? [8, 4, 7, 2] : [3, 3, 3, 3],
    cursor: { show: false },
    legend: { show: false },
    select: { show: false },
    scales: {
      x: { time: false },
      y: { range: (_, low, high) => [0, Math.max(1, high || 0, target && target < 3 * high ? target : 0) * 1.12] },
    },
    axes: [
      { show: false },
      {
        show: axes,
        size: 50,
        font,
        stroke: ink("--quiet"),
        grid: { stroke: ink("--line"), width: 1 },
        ticks: { show: false },
        space: 28,
        values: (_, ticks) => ticks.map(short),
      },
    ],
    series: [
      {},
      { stroke: ink("--slow-line"), fill: ink("--slow-fill"), width: 1, points: { show: true, size: 3, fill: ink("--slow-line") } },
      { stroke: ink("--median"), width: 2, points: { show: true, size: 4, fill: ink("--median") } },
    ],
    hooks: {
      draw: [(u) => {
        if (!target || target > u.scales.y.max) return;
        const y = Math.round(u.valToPos(target, "y", true)) + 0.5;
        u.ctx.save();
        u.ctx.strokeStyle = ink("--target");
        u.ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
        u.ctx.lineWidth = devicePixelRatio;
        u.ctx.beginPath();
        u.ctx.moveTo(u.bbox.left, y);
        u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
        u.ctx.stroke();
        u.ctx.restore();
      }],
    },
  };
}

// A chart in `element`; `show(points, target)` draws it: points = [medians, slowest], ms, oldest first.
export function sparkline(element, { height, axes = false }) {
  let plot = null;
  let shown = [];
  let target = null;
  const draw = () => {
    if (plot) plot.destroy();
    plot = null;
    if (!shown.length || !element.clientWidth) return;
    plot = new uPlot(options(element, height, axes, target), data(), element);
  };
  const data = () => [shown[0].map((_, i) => i), shown[1], shown[0]];
  const chart = {
    show(points, newTarget) {
      const first = !plot || newTarget !== target || points[0].length !== shown[0].length;
      shown = points;
      target = newTarget;
      if (first) draw();
      else plot.setData(data());
    },
    draw,
    resize: () => plot && plot.setSize({ width: Math.max(40, element.clientWidth), height }),
  };
  element.setAttribute("aria-hidden", "true");  // the figures beside it say the same
  charts.add(chart);
  new ResizeObserver(() => {
    if (element.isConnected) plot ? chart.resize() : draw();
    else {
      charts.delete(chart);
      if (plot) plot.destroy();
      plot = null;
    }
  }).observe(element);
  return chart;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.draw()));
