'use strict';
// What the page was given, in a form that views can ask: cells by number, values by column.
const DATA = JSON.parse(document.getElementById('data').textContent);
const COLUMNS = DATA.cells.columns;
const COUNT = COLUMNS.cell.length;
const CONDITION = ['model', 'recipe', 'sparsity', 'pattern', 'size', 'seqlen', 'sampler'];
const AXES = ['model', 'recipe', 'pattern', 'sparsity', 'size', 'seqlen', 'sampler', 'dataset'];
const AXIS_LABELS = { recipe: 'pruner', seqlen: 'window length' };

const value = (name, i) => {
  const column = COLUMNS[name];
  return Array.isArray(column) ? column[i] : column.values[column.codes[i]];
};
const distinct = (name, keep = () => true) => {
  const found = new Set();
  for (let i = 0; i < COUNT; i++) {
    const v = value(name, i);
    if (v !== null && keep(i)) found.add(v);
  }
  return [...found].sort((a, b) => (typeof a === 'number' ? a - b : natural(a, b)));
};
const natural = (a, b) => String(a).localeCompare(String(b), 'en', { numeric: true });
const recipeLabel = (recipe) => DATA.meta.recipes[recipe] ?? recipe;
const show = (axis, v) => {
  if (v === null || v === undefined) return '–';
  if (axis === 'sparsity') return `${+(100 * v).toFixed(6)} %`;
  if (axis === 'recipe') return recipeLabel(v);
  if (axis === 'model') return String(v).split('/').pop();
  if (axis === 'size') return `${v} windows`;
  if (axis === 'seqlen') return `${v} tokens`;
  return String(v);
};
const SERIES = distinct('dataset');

// Okabe and Ito's palette, which colour-blind readers can tell apart; shapes tell the rest.
const PALETTE = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9', '#8c6d00', '#777777'];
const SHAPES = ['circle', 'square', 'triangle', 'diamond', 'cross'];
const styleOf = (names, name) => {
  const k = Math.max(0, names.indexOf(name));
  return { colour: PALETTE[k % PALETTE.length], shape: SHAPES[k % SHAPES.length] };
};
const seriesStyle = (name) => styleOf(SERIES, name);

const mean = (xs) => xs.reduce((a, b) => a + b, 0) / xs.length;
const deviation = (xs) => {
  if (xs.length < 2) return null;
  const m = mean(xs);
  return Math.sqrt(xs.reduce((a, x) => a + (x - m) ** 2, 0) / (xs.length - 1));
};
// 97.5 % quantiles of Student's t, by degrees of freedom.
const T975 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
  2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
  2.052, 2.048, 2.045, 2.042];
const halfInterval = (xs) => {
  const sd = deviation(xs);
  if (sd === null) return null;
  return (T975[xs.length - 2] ?? 1.96 + 2.4 / (xs.length - 1)) * sd / Math.sqrt(xs.length);
};
// Expected range of k standard normal values: what a gap is where nothing differs.
const RANGES = [0, 0, 1.128, 1.693, 2.059, 2.326, 2.534, 2.704, 2.847, 2.970, 3.078, 3.173, 3.258,
  3.336, 3.407, 3.472, 3.532, 3.588, 3.640, 3.689, 3.735];
const expectedGap = (groups) => {
  const freedom = groups.reduce((a, g) => a + g.length - 1, 0);
  if (!freedom) return null;
  const square = groups.reduce((a, g) => a + (g.length > 1 ? deviation(g) ** 2 * (g.length - 1) : 0), 0) / freedom;
  const draws = groups.length / groups.reduce((a, g) => a + 1 / g.length, 0);
  return RANGES[Math.min(groups.length, RANGES.length - 1)] * Math.sqrt(square / draws);
};

const metricNamed = (name) => DATA.metrics.find((m) => m.name === name) ?? DATA.metrics[0];
const digits = (v) => (Math.abs(v) < 100 ? 2 : 1);
const score = (metric, v) => (v === null || v === undefined ? '–' : (v * metric.scale).toFixed(digits(v * metric.scale)));
const gapText = (metric, best, worst) => (metric.higher
  ? `${(metric.scale * (best - worst)).toFixed(2)} points` : `${(100 * (worst - best) / best).toFixed(2)} %`);
const difference = (metric, a, b) => (metric.higher ? metric.scale * (a - b) : 100 * (b - a) / b);

const state = { metric: DATA.metrics[0].name, chosen: {} };
const chosen = (axis, v) => !state.chosen[axis] || state.chosen[axis].has(v);
const visible = (i, axes = AXES) => axes.every((axis) => {
  const v = value(axis, i);
  return v === null ? !(axis === 'dataset' && state.chosen.dataset) : chosen(axis, v);
});

// Comparison groups of the filtered, finished cells: what is fixed, and the draws by dataset.
function conditions(metric, fixed = CONDITION) {
  const groups = new Map();
  for (let i = 0; i < COUNT; i++) {
    const v = value(metric.name, i);
    if (v === null || value('dataset', i) === null || value('replicate', i) || !visible(i)) continue;
    // the samplers of all that it is compared with: datasets of one sampler each stand together
    const where = fixed.map((axis) => value(axis === 'sampler' ? 'samplers' : axis, i));
    const key = JSON.stringify(where);
    if (!groups.has(key)) {
      groups.set(key, { key, where: Object.fromEntries(fixed.map((a, k) => [a, where[k]])), series: new Map() });
    }
    const series = groups.get(key).series;
    const name = value('dataset', i);
    if (!series.has(name)) series.set(name, []);
    series.get(name).push({ i, v });
  }
  return [...groups.values()].sort((a, b) => {
    for (const axis of fixed) {
      const [x, y] = [a.where[axis], b.where[axis]];
      if (x !== y) return typeof x === 'number' ? x - y : natural(x, y);
    }
    return 0;
  });
}
const values = (points) => points.map((p) => p.v);
// The axes that tell the groups of a view apart, so that captions say no more than needed.
const telling = (groups, fixed) => fixed.filter((axis) => ['recipe', 'sparsity', 'pattern'].includes(axis)
  || new Set(groups.map((g) => g.where[axis])).size > 1);
const caption = (where, axes) => axes.map((axis) => show(axis, where[axis])).join(' · ');
// The cell without data that a group can be held against: dense, or plain magnitude.
const baselines = { dense: new Map(), magnitude: new Map() };
for (let i = 0; i < COUNT; i++) {
  if (value('pruner', i) === 'dense') baselines.dense.set(value('model', i), i);
  if (value('recipe', i) === 'magnitude') {
    baselines.magnitude.set([value('model', i), value('sparsity', i), value('pattern', i)].join('|'), i);
  }
}
const baseline = (kind, where) => baselines[kind].get(
  kind === 'dense' ? where.model : [where.model, where.sparsity, where.pattern].join('|'));
