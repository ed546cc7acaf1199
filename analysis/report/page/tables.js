// Tables that sort by any column and show a page at a time.
function table(id, { title, columns, rows, page = 40, open, start }) {
  const place = document.getElementById(id);
  let sort = start ?? { key: null, down: false };
  let first = 0;
  const text = (column, row) => {
    const v = column.value(row);
    return v === null || v === undefined ? '–' : column.format ? column.format(v, row) : String(v);
  };
  const sorted = () => {
    const column = columns.find((c) => c.key === sort.key);
    if (!column) return rows;
    const by = column.sort ?? column.value;
    return [...rows].sort((a, b) => {
      const [x, y] = [by(a), by(b)];
      if (x === null || x === undefined) return 1; // what is not known comes last, either way
      if (y === null || y === undefined) return -1;
      const order = typeof x === 'number' && typeof y === 'number' ? x - y : natural(x, y);
      return sort.down ? -order : order;
    });
  };
  const render = (focus) => {
    const ordered = sorted();
    first = Math.max(0, Math.min(first, Math.floor((ordered.length - 1) / page) * page));
    const head = columns.map((column) => element('th', {
      scope: 'col', class: column.number ? 'n' : null,
      'aria-sort': sort.key === column.key ? (sort.down ? 'descending' : 'ascending') : 'none',
    }, element('button', {
      type: 'button', 'data-key': column.key,
      onclick: () => {
        sort = { key: column.key, down: sort.key === column.key ? !sort.down : Boolean(column.downFirst) };
        first = 0;
        render(column.key);
      },
    }, column.label)));
    const body = ordered.slice(first, first + page).map((row) => element('tr', {}, columns.map((column, k) => {
      const content = text(column, row);
      const inside = k === 0 && open ? element('button', { type: 'button', class: 'link', onclick: () => open(row) }, content) : content;
      return element('td', { class: [column.number ? 'n' : '', column.wrap ? 'wrap' : '', column.mark ? column.mark(row) : ''].join(' ').trim() || null }, inside);
    })));
    const pages = ordered.length > page ? element('div', { class: 'tools' },
      element('button', { type: 'button', disabled: first === 0, onclick: () => { first -= page; render(); } }, 'Previous'),
      `${first + 1} to ${Math.min(first + page, ordered.length)} of ${ordered.length.toLocaleString('en')}`,
      element('button', { type: 'button', disabled: first + page >= ordered.length, onclick: () => { first += page; render(); } }, 'Next')) : null;
    const save = rows.length ? element('div', { class: 'tools' }, element('button', {
      type: 'button', onclick: () => download(`${id}.csv`, csv(columns, ordered)),
    }, 'Save as CSV')) : null;
    place.replaceChildren(element('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': title },
      element('table', {}, element('caption', {}, title), element('thead', {}, element('tr', {}, head)), element('tbody', {}, body))), ...[pages, save].filter(Boolean));
    if (focus) place.querySelector(`button[data-key="${CSS.escape(focus)}"]`)?.focus();
  };
  render();
}

function csv(columns, rows) {
  const quote = (v) => (v === null || v === undefined ? '' : /[",\n]/.test(String(v)) ? `"${String(v).replace(/"/g, '""')}"` : String(v));
  return [columns.map((c) => quote(c.label)), ...rows.map((row) => columns.map((c) => quote((c.raw ?? c.value)(row))))]
    .map((line) => line.join(',')).join('\n');
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
  element('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function scoreTable(groups) {
  const metric = metricNamed(state.metric);
  const names = SERIES.filter((s) => groups.some((g) => g.series.has(s)));
  const axes = telling(groups, CONDITION);
  const ties = new Map((DATA.ties[metric.name] ?? []).map((t) => [JSON.stringify(t.where), t]));
  const rows = groups.map((group) => {
    const means = new Map([...group.series].map(([name, points]) => [name, mean(values(points))]));
    const order = [...means].sort((a, b) => (metric.higher ? b[1] - a[1] : a[1] - b[1])).map(([name]) => name);
    return { group, means, order, tie: ties.get(group.key) };
  });
  const reference = (kind) => ({
    key: kind, label: kind, number: true,
    value: (r) => { const i = baseline(kind, r.group.where); return i === undefined ? null : value(metric.name, i); },
    format: (v) => score(metric, v),
  });
  const used = ['dense', 'magnitude'].filter((kind) => rows.some((r) => reference(kind).value(r) !== null));
  table('table-scores', {
    title: `${metric.label}: mean ± standard deviation over draws; bold: best of its row${ties.size ? '; ≈: may be the best too (95 % confidence set)' : ''}`,
    rows,
    columns: [
      ...axes.map((axis) => ({ key: axis, label: AXIS_LABELS[axis] ?? axis, value: (r) => r.group.where[axis], format: (v) => brief(axis, v), number: axis === 'sparsity' || axis === 'size' })),
      ...used.map(reference),
      ...names.map((name) => ({
        key: `d:${name}`, label: name, number: true, downFirst: metric.higher,
        value: (r) => r.means.get(name),
        format: (v, r) => {
          const sd = deviation(values(r.group.series.get(name)));
          return score(metric, v) + (sd === null ? '' : ` ± ${score(metric, sd)}`);
        },
        mark: (r) => (r.order.length > 1 && r.order[0] === name ? 'best' : r.tie?.names.includes(name) ? 'tie' : ''),
      })),
      {
        key: 'gap', label: `gap, ${metric.unit}`, number: true, downFirst: true,
        value: (r) => (r.order.length > 1 ? difference(metric, r.means.get(r.order[0]), r.means.get(r.order.at(-1))) : null),
        format: (v) => v.toFixed(2),
      },
    ],
  });
}

// In a column of its own a number needs no unit.
const brief = (axis, v) => (axis === 'size' || axis === 'seqlen' ? String(v) : show(axis, v));

const VERDICTS = { differs: 'differs', equivalent: 'equivalent', undecided: 'undecided' };
let estimand = 'any draw, these questions';
function pairTable() {
  const metric = metricNamed(state.metric);
  const all = (DATA.pairs[metric.name] ?? []).filter((r) => CONDITION.every((axis) => r[axis] === null || (axis === 'sampler' ? r[axis].split(', ').every((s) => chosen(axis, s)) : chosen(axis, r[axis])))
    && (r.axis !== 'dataset' || !state.chosen.dataset || [r.a, r.b].every((d) => chosen('dataset', d)))
    && (r.dataset === null || chosen('dataset', r.dataset)));
  section('pairs', Object.values(DATA.pairs).some((rows) => rows.length));
  const estimands = [...new Set(all.map((r) => r.estimand))];
  if (!estimands.includes(estimand)) [estimand] = estimands;
  const place = document.getElementById('estimands');
  place.replaceChildren(...(estimands.length > 1 ? ['Verdicts for ', ...estimands.map((name) => element('button', {
    type: 'button', 'aria-pressed': String(name === estimand), onclick: () => { estimand = name; pairTable(); },
  }, name))] : estimands.map((name) => `Verdicts for ${name}.`)));
  const rows = all.filter((r) => r.estimand === estimand);
  const axes = CONDITION.filter((axis) => new Set(rows.map((r) => r[axis])).size > 1);
  const named = (r, v) => (r.axis === 'pruner' ? recipeLabel(v) : v);
  const better = (r) => (r.difference < 0) === (r.unit === '%');
  const counts = Object.keys(VERDICTS).map((v) => `${rows.filter((r) => r.verdict === v).length} ${v}`).join(', ');
  table('table-pairs', {
    title: rows.length ? `${metric.label}: ${rows.length.toLocaleString('en')} comparisons, ${counts}` : 'No comparisons are listed for this score and these filters; python -m analysis.compare has all',
    rows, page: 25,
    columns: [
      { key: 'verdict', label: 'verdict', value: (r) => r.verdict, mark: (r) => `verdict-${r.verdict}` },
      { key: 'axis', label: 'between', value: (r) => `${r.axis}s` },
      { key: 'better', label: 'higher ranked', value: (r) => named(r, better(r) ? r.a : r.b) },
      { key: 'worse', label: 'lower ranked', value: (r) => named(r, better(r) ? r.b : r.a) },
      { key: 'difference', label: `difference, ${metric.unit}`, number: true, downFirst: true, value: (r) => Math.abs(r.difference), format: (v) => v.toFixed(2) },
      { key: 'interval', label: '95 % interval', number: true, sort: (r) => (r.low === null ? null : better(r) === metric.higher ? r.low : -r.high), value: (r) => (r.low === null ? null : r.difference < 0 ? `${(-r.high).toFixed(2)} to ${(-r.low).toFixed(2)}` : `${r.low.toFixed(2)} to ${r.high.toFixed(2)}`) },
      { key: 'p', label: 'p (Holm)', number: true, value: (r) => r.p_holm, format: (v) => v.toPrecision(2) },
      ...axes.map((axis) => ({ key: axis, label: AXIS_LABELS[axis] ?? axis, value: (r) => r[axis], format: (v) => brief(axis, v), number: axis === 'sparsity' || axis === 'size' })),
      { key: 'dataset', label: 'on', value: (r) => r.dataset },
      { key: 'draws', label: 'draws', number: true, value: (r) => r.draws },
      { key: 'more', label: 'more draws to tell', number: true, value: (r) => (r.bound_by_documents ? 'none would' : r.more_draws) },
      { key: 'mixed', label: 'mixes', value: (r) => r.mixed || null },
    ],
  });
}

function similarityTable() {
  table('table-similarity', {
    title: 'How near each dataset is to the reference, by measure',
    rows: DATA.similarity,
    columns: [
      ...(new Set(DATA.similarity.map((r) => r.model)).size > 1 ? [{ key: 'model', label: 'model', value: (r) => r.model, format: (v) => show('model', v) }] : []),
      ...(new Set(DATA.similarity.map((r) => r.seqlen)).size > 1 ? [{ key: 'seqlen', label: AXIS_LABELS.seqlen, number: true, value: (r) => r.seqlen }] : []),
      { key: 'dataset', label: 'dataset', value: (r) => r.dataset },
      { key: 'measure', label: 'measure', value: (r) => r.measure },
      { key: 'value', label: 'value', number: true, downFirst: true, value: (r) => r.value, format: (v) => v.toPrecision(4) },
      { key: 'stderr', label: 'standard error', number: true, value: (r) => r.stderr, format: (v) => v.toPrecision(2) },
      { key: 'n', label: 'from', number: true, value: (r) => r.n, format: (v) => v.toLocaleString('en') },
    ],
  });
}

let wanted = '';
function cellTable() {
  const metric = metricNamed(state.metric);
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [];
  for (let i = 0; i < COUNT; i++) {
    if (!visible(i)) continue;
    const spoken = words.length ? ['cell', 'dataset', 'recipe', 'pattern', 'status', 'model', 'sampler'].map((n) => value(n, i) ?? '').join(' ').toLowerCase() : '';
    if (words.every((w) => spoken.includes(w))) rows.push(i);
  }
  const axes = AXES.filter((axis) => ['dataset', 'recipe', 'pattern', 'sparsity'].includes(axis) || hasAxis(axis));
  const figures = [metric, ...DATA.metrics.filter((m) => m !== metric).slice(0, 4)];
  table('table-cells', {
    title: `${rows.length.toLocaleString('en')} cells`, rows, page: 50, open: openCell,
    columns: [
      { key: 'cell', label: 'cell', value: (i) => value('cell', i) },
      { key: 'status', label: 'status', value: (i) => value('status', i), mark: (i) => (value('status', i) === 'failed' ? 'failed' : '') },
      ...axes.map((axis) => ({ key: axis, label: AXIS_LABELS[axis] ?? axis, value: (i) => value(axis, i), format: (v) => brief(axis, v), number: axis === 'sparsity' || axis === 'size' })),
      { key: 'seed', label: 'seed', number: true, value: (i) => value('seed', i) },
      { key: 'similarity', label: 'similarity', number: true, value: (i) => value('similarity', i), format: (v) => v.toPrecision(3) },
      ...figures.map((m) => ({ key: m.name, label: m.label, number: true, downFirst: m.higher, value: (i) => value(m.name, i), format: (v) => score(m, v) })),
    ],
  });
}
