// Plots of the last quarter of an hour, by uPlot: one for each <figure> with a list of lines.

import uPlot from "uplot";
import { windowSeconds } from "./series.js";

const height = 150;
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

// `lines` are {label, colour, format}; `values` come later, by `show`.
export class Plot {
  constructor(figure, lines, options = {}) {
    this.figure = figure;
    this.lines = lines;
    this.options = options;
    this.canvas = figure.querySelector(".plot");
    this.latest = figure.querySelector(".latest");
    this.data = [[], ...lines.map(() => [])];
    this.observer = new ResizeObserver(() => this.#fit());
    this.observer.observe(this.canvas);
    this.redraw = () => this.#make();
    dark.addEventListener("change", this.redraw);
    this.#make();
  }

  close() {
    this.observer.disconnect();
    dark.removeEventListener("change", this.redraw);
    this.plot.destroy();
  }

  show(now, at, columns) {
    this.data = [at, ...columns];
    this.now = now;
    this.plot.setData(this.data);
    this.latest.replaceChildren(
      ...this.lines.map((line, i) => {
        const column = columns[i];
        const item = document.createElement("span");
        item.dataset.colour = line.colour;
        const last = line.format(column.length ? column[column.length - 1] : null);
        item.textContent = `${line.label} ${last}`;
        return item;
      }),
    );
  }

  #make() {
    this.plot?.destroy();
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 } };
    const format = this.lines[0].format;
    this.plot = new uPlot(
      {
        width: Math.max(this.canvas.clientWidth, 100),
        height,
        legend: { show: false },
        cursor: { drag: { x: false, y: false } },
        scales: {
          x: { range: () => [(this.now || 0) - windowSeconds, this.now || 0] },
          y: { range: (_, __, most) => [0, Math.max(most || 0, this.options.least || 0) * 1.1 || 1] },
        },
        axes: [
          { ...axis, ticks: { show: false }, space: 60, size: 28, values: (_, marks) => marks.map(clock) },
          { ...axis, ticks: { show: false }, size: 62, values: (_, marks) => marks.map(format) },
        ],
        series: [
          {},
          ...this.lines.map((line) => ({
            label: line.label,
            stroke: colour(line.colour),
            width: 1.5,
            points: { show: false },
            dash: line.dash,
          })),
        ],
      },
      this.data,
      this.canvas,
    );
  }

  #fit() {
    const width = this.canvas.clientWidth;
    if (width && width !== this.plot.width) this.plot.setSize({ width, height });
  }
}

// A line without axes, as an SVG path within 100 by 24.
export function sparkline(values) {
  const known = values.filter((value) => value != null);
  const most = Math.max(...known, 1e-9);
  const step = values.length > 1 ? 100 / (values.length - 1) : 0;
  let path = "";
  let pen = "M";
  values.forEach((value, i) => {
    if (value == null) {
      pen = "M";
      return;
    }
    path += `${pen}${(i * step).toFixed(1)} ${(23 - (22 * value) / most).toFixed(1)}`;
    pen = "L";
  });
  return path;
}
