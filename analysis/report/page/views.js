// The plots. Each view takes the filtered comparison groups and draws one small plot a group.
const FIRST = 6;
const expanded = new Set();

// `groups` as figures, the first few of them, the rest on demand (all of them in print).
function facets(id, groups, draw, none) {
  const place = document.getElementById(id);
  const shown = expanded.has(id) ? groups : groups.slice(0, FIRST);
  place.replaceChildren(...shown.map(draw));
  place.parentElement.querySelector(`.more[data-of="${id}"]`)?.remove();
  if (!groups.length) place.replaceChildren(element('p', { class: 'empty' }, none));
  if (groups.length > FIRST) {
    place.after(element('button', {
      class: 'more', 'data-of': id, type: 'button',
      onclick: () => { if (!expanded.delete(id)) expanded.add(id); draw_all(); },
    }, expanded.has(id) ? `Show the first ${FIRST} of ${groups.length}` : `Show all ${groups.length} plots`));
  }
}

const yLabel = (metric) => metric.label + (metric.scale === 100 ? ', %' : '');

function drawScores() {
  const metric = metricNamed(state.metric);
  const groups = conditions(metric);
  const axes = telling(groups, CONDITION);
  document.getElementById('scores-note').textContent = `Small: one draw. Large: mean over draws with its 95 % t interval. `
    + `Dashed: the dense model and plain magnitude, where they lie in the picture. ${metric.higher ? 'Right' : 'Left'} is better.`;
  facets('plot-scores', groups, (group) => scoreFigure(metric, group, axes),
    'No finished cells with this score and these filters.');
  return groups;
}

function scoreFigure(metric, group, axes) {
  const names = [...group.series.keys()].sort((a, b) => {
    const [x, y] = [mean(values(group.series.get(a))), mean(values(group.series.get(b)))];
    return metric.higher ? y - x : x - y;
  });
  const width = 360, row = 24, left = 104;
  const height = 18 + row * names.length + 36;
  const all = names.flatMap((n) => values(group.series.get(n)).map((v) => v * metric.scale));
  const spread = extent(all, 0.08);
  const references = ['dense', 'magnitude'].map((kind) => ({ kind, i: baseline(kind, group.where) }))
    .filter((r) => r.i !== undefined && value(metric.name, r.i) !== null)
    .map((r) => ({ ...r, v: value(metric.name, r.i) * metric.scale }));
  const reach = (spread[1] - spread[0]) * 0.6;
  const near = references.filter((r) => r.v > spread[0] - reach && r.v < spread[1] + reach);
  const [low, high] = near.length ? extent([...all, ...near.map((r) => r.v)], 0.06) : spread;
  const x = linear(low, high, left, width - 12);
  const bottom = 12 + row * names.length + 4;
  const nodes = [];
  for (const t of ticks(low, high, 4)) {
    nodes.push(element('line', { class: 'axis', x1: x(t), x2: x(t), y1: 8, y2: bottom }),
      element('text', { class: 'soft', x: x(t), y: bottom + 14, 'text-anchor': 'middle' }, String(t)));
  }
  for (const r of near) {
    nodes.push(element('line', { class: 'ref', x1: x(r.v), x2: x(r.v), y1: 8, y2: bottom }));
    nodes.push(point(element('text', { class: 'soft', x: Math.min(width - 34, Math.max(left + 24, x(r.v))), y: 8, 'text-anchor': 'middle', 'font-size': 10 }, r.kind),
      `${r.kind}: ${score(metric, r.v / metric.scale)}`, () => openCell(r.i)));
  }
  names.forEach((name, k) => {
    const points = group.series.get(name);
    const y = 12 + row * k + row / 2;
    const { colour, shape } = seriesStyle(name);
    const m = mean(values(points)) * metric.scale;
    const half = halfInterval(values(points));
    nodes.push(element('text', { x: left - 8, y: y + 4, 'text-anchor': 'end' }, name.length > 15 ? `${name.slice(0, 14)}…` : name));
    if (half !== null) {
      nodes.push(element('line', { x1: x(Math.max(low, m - half * metric.scale)), x2: x(Math.min(high, m + half * metric.scale)), y1: y, y2: y, stroke: colour, 'stroke-width': 2.5 }));
    }
    for (const p of points.length > 60 ? points.slice(0, 60) : points) {
      nodes.push(point(element('circle', { cx: x(p.v * metric.scale), cy: y, r: 3.2, fill: 'var(--paper)', stroke: colour }),
        `${name}, seed ${value('seed', p.i)}\n${metric.label} ${score(metric, p.v)}`, () => openCell(p.i)));
    }
    const text = `${name}: ${score(metric, m / metric.scale)}${half === null ? ' (one draw)' : ` ± ${score(metric, half)}`}\n${points.length} draws`
      + `${deviation(values(points)) === null ? '' : `, standard deviation ${score(metric, deviation(values(points)))}`}`;
    nodes.push(point(mark(shape, x(m), y, 5.5, { fill: colour, stroke: 'var(--paper)' }), text));
  });
  nodes.push(element('text', { class: 'soft', x: (left + width) / 2, y: height - 2, 'text-anchor': 'middle' }, yLabel(metric)));
  const outside = references.filter((r) => !near.includes(r)).map((r) => `${r.kind} ${score(metric, r.v / metric.scale)}`);
  const title = caption(group.where, axes);
  return figure(title, outside.join(', '), chart(width, height, `Scores by dataset, ${title}`, nodes));
}

function drawGaps() {
  const metric = metricNamed(state.metric);
  const single = conditions(metric).filter((g) => g.series.size > 1);
  const fixed = ['model', 'size', 'seqlen', 'sampler'];
  const panels = new Map();
  for (const group of single) {
    const key = JSON.stringify(fixed.map((a) => group.where[a]));
    if (!panels.has(key)) panels.set(key, { where: group.where, groups: [] });
    panels.get(key).groups.push(group);
  }
  const list = [...panels.values()];
  const axes = fixed.filter((a) => new Set(list.map((p) => p.where[a])).size > 1);
  facets('plot-gaps', list, (panel) => gapFigure(metric, panel, axes),
    'A gap needs two datasets that differ in nothing else.');
}

function gapFigure(metric, panel, axes) {
  const places = [...new Map(panel.groups.map((g) => [`${g.where.pattern}|${g.where.sparsity}`, g.where])).values()]
    .sort((a, b) => (a.pattern !== 'unstructured') - (b.pattern !== 'unstructured') || natural(a.pattern, b.pattern) || a.sparsity - b.sparsity);
  const stated = new Map((DATA.gaps[metric.name] ?? []).map((r) => [JSON.stringify(r.where), r]));
  const recipes = [...new Set(panel.groups.map((g) => g.where.recipe))].sort(natural);
  const rows = panel.groups.map((g) => {
    const means = [...g.series].map(([name, points]) => ({ name, m: mean(values(points)) }))
      .sort((a, b) => (metric.higher ? b.m - a.m : a.m - b.m));
    const [best, worst] = [means[0], means.at(-1)];
    const known = stated.get(g.key);
    const roughly = expectedGap([...g.series.values()].map(values));
    const chance = known ? known.if_nothing_differed : roughly === null ? null : metric.higher ? roughly * metric.scale : 100 * roughly / best.m;
    return {
      g, best, worst, gap: difference(metric, best.m, worst.m),
      chance, known,
      place: places.findIndex((p) => p.pattern === g.where.pattern && p.sparsity === g.where.sparsity),
    };
  });
  const width = 600, height = 320;
  const ys = rows.flatMap((r) => [r.gap, r.chance ?? 0]);
  const f = frame(width, height, [-0.4, places.length - 0.6], ys,
    { x: 'sparsity and pattern', y: `gap, ${metric.unit}` },
    { zero: true, ticks: places.map((p, k) => [k, `${show('sparsity', p.sparsity)} ${p.pattern === 'unstructured' ? '' : p.pattern}`.trim()]) });
  const nodes = [...f.nodes];
  recipes.forEach((recipe, k) => {
    const { colour, shape } = styleOf(recipes, recipe);
    const own = rows.filter((r) => r.g.where.recipe === recipe).sort((a, b) => a.place - b.place);
    const shift = (k - (recipes.length - 1) / 2) * Math.min(0.12, 0.6 / recipes.length);
    for (const kind of [...new Set(own.map((r) => r.g.where.pattern))]) {
      const line = own.filter((r) => r.g.where.pattern === kind);
      nodes.push(element('polyline', { points: line.map((r) => `${f.x(r.place + shift)},${f.y(r.gap)}`).join(' '), fill: 'none', stroke: colour, 'stroke-opacity': 0.6, 'stroke-width': 1.5 }));
    }
    for (const r of own) {
      const x = f.x(r.place + shift);
      if (r.chance !== null) {
        nodes.push(element('line', { x1: x, x2: x, y1: f.y(r.chance), y2: f.y(r.gap), stroke: colour, 'stroke-opacity': 0.35 }),
          mark(shape, x, f.y(r.chance), 4, { fill: 'var(--paper)', stroke: colour }));
      }
      nodes.push(point(mark(shape, x, f.y(r.gap), 5.5, { fill: colour }),
        `${caption(r.g.where, ['recipe', 'sparsity', 'pattern'])}\nbest ${r.best.name} ${score(metric, r.best.m)}, worst ${r.worst.name} ${score(metric, r.worst.m)}\n`
        + `gap ${gapText(metric, r.best.m, r.worst.m)}${r.chance === null ? ', one draw' : `; by chance about ${r.chance.toFixed(2)}`}`
        + `${r.known ? `, rarely above ${r.known.at_most.toFixed(2)} (p = ${r.known.p.toPrecision(2)})` : ''}`));
    }
  });
  const title = axes.length ? caption(panel.where, axes) : metric.label;
  return figure(title, null, chart(width, height, `Gaps between datasets, ${title}`, nodes),
    legend(recipes.map((r) => ({ name: recipeLabel(r), ...styleOf(recipes, r) }))));
}

// One line a dataset over `size`, with a band; shared by the amount of data and the blocks.
function drawSizes() {
  const metric = metricNamed(state.metric);
  const fixed = CONDITION.filter((axis) => axis !== 'size');
  const groups = conditions(metric, fixed).filter((g) => new Set([...g.series.values()].flat().map((p) => value('size', p.i))).size > 1);
  section('sizes', groups.length > 0 || hasAxis('size'));
  const axes = telling(groups, fixed);
  facets('plot-sizes', groups, (group) => {
    const sizes = [...new Set([...group.series.values()].flat().map((p) => value('size', p.i)))].sort((a, b) => a - b);
    const lines = [...group.series].map(([name, points]) => ({
      name,
      points: sizes.map((size) => ({ size, draws: values(points.filter((p) => value('size', p.i) === size)) })).filter((p) => p.draws.length),
    }));
    const spot = (p) => ({ m: mean(p.draws) * metric.scale, half: p.draws.length > 2 ? halfInterval(p.draws) * metric.scale : 0 });
    const width = 360, height = 260;
    const means = lines.flatMap((l) => l.points.map((p) => spot(p).m));
    const room = (Math.max(...means) - Math.min(...means)) || 1;
    const ys = lines.flatMap((l) => l.points.flatMap((p) => { const s = spot(p); const h = Math.min(s.half, room); return [s.m - h, s.m + h]; }));
    const f = frame(width, height, sizes, ys, { x: 'windows', y: yLabel(metric) },
      { x: (v) => Math.log2(v), ticks: sizes.map((s) => [Math.log2(s), String(s)]) });
    const clip = (v) => Math.max(f.box.top, Math.min(f.box.bottom, v));
    const nodes = [...f.nodes];
    for (const line of lines) {
      const { colour, shape } = seriesStyle(line.name);
      const up = line.points.map((p) => `${f.x(p.size)},${clip(f.y(spot(p).m + spot(p).half))}`);
      const down = line.points.map((p) => `${f.x(p.size)},${clip(f.y(spot(p).m - spot(p).half))}`).reverse();
      if (line.points.every((p) => p.draws.length > 2)) {
        nodes.push(element('polygon', { points: [...up, ...down].join(' '), fill: colour, 'fill-opacity': 0.13 }));
      }
      nodes.push(element('polyline', { points: line.points.map((p) => `${f.x(p.size)},${f.y(spot(p).m)}`).join(' '), fill: 'none', stroke: colour, 'stroke-width': 1.8 }));
      for (const p of line.points) {
        nodes.push(point(mark(shape, f.x(p.size), f.y(spot(p).m), 4.5, { fill: colour }),
          `${line.name}, ${p.size} windows\n${metric.label} ${score(metric, mean(p.draws))}`
          + (halfInterval(p.draws) === null ? ' (one draw)' : ` ± ${score(metric, halfInterval(p.draws))}, ${p.draws.length} draws`)));
      }
    }
    const title = caption(group.where, axes);
    return figure(title, null, chart(width, height, `Scores by amount of data, ${title}`, nodes),
      legend(lines.map((l) => ({ name: l.name, ...seriesStyle(l.name) }))));
  }, 'No dataset was drawn in two sizes under these filters.');
}

function drawSimilarity() {
  const metric = metricNamed(state.metric);
  const known = Array.from({ length: COUNT }, (_, i) => i).some((i) => value('similarity', i) !== null);
  section('similarity', known);
  if (!known) return;
  const groups = conditions(metric).map((g) => ({
    ...g,
    points: [...g.series].map(([name, draws]) => ({ name, near: value('similarity', draws[0].i), error: value('similarity_se', draws[0].i), draws: values(draws) }))
      .filter((p) => p.near !== null),
  })).filter((g) => g.points.length > 1);
  const axes = telling(groups, CONDITION);
  facets('plot-similarity', groups, (group) => {
    const width = 360, height = 250;
    const means = group.points.map((p) => mean(p.draws) * metric.scale);
    const room = (Math.max(...means) - Math.min(...means)) || 1;
    const half = (p) => Math.min((halfInterval(p.draws) ?? 0) * metric.scale, room);
    const ys = group.points.flatMap((p, k) => [means[k] - half(p), means[k] + half(p)]);
    const nearest = group.points.map((p) => p.near);
    const log = Math.min(...nearest) > 0 && Math.max(...nearest) / Math.min(...nearest) > 8;
    const f = frame(width, height, nearest, ys, { x: `similarity${log ? ' (log)' : ''}`, y: yLabel(metric) },
      log ? { x: Math.log10, ticks: logTicks(Math.min(...nearest), Math.max(...nearest)) } : {});
    const nodes = [...f.nodes];
    group.points.forEach((p, k) => {
      const { colour, shape } = seriesStyle(p.name);
      const x = f.x(p.near);
      nodes.push(element('line', { x1: x, x2: x, y1: f.y(means[k] - half(p)), y2: f.y(means[k] + half(p)), stroke: colour, 'stroke-width': 2 }),
        point(mark(shape, x, f.y(means[k]), 5.5, { fill: colour }),
          `${p.name}\nsimilarity ${p.near.toPrecision(3)}${p.error === null ? '' : ` ± ${p.error.toPrecision(2)} (standard error)`}\n${metric.label} ${score(metric, mean(p.draws))}`));
    });
    const rho = group.points.length > 2 ? rankCorrelation(group.points.map((p) => [p.near, mean(p.draws) * (metric.higher ? 1 : -1)])) : null;
    const title = caption(group.where, axes);
    return figure(title, rho === null ? null : `nearer is better: rank correlation ${rho.toFixed(2)}, ${group.points.length} datasets`,
      chart(width, height, `Score against similarity, ${title}`, nodes),
      legend(group.points.map((p) => ({ name: p.name, ...seriesStyle(p.name) }))));
  }, 'No two datasets with a similarity under these filters.');
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const m of [1, 2, 5]) {
      const v = m * 10 ** power;
      if (v >= low * 0.9 && v <= high * 1.1) found.push([Math.log10(v), String(+v.toPrecision(2))]);
    }
  }
  return found;
}

function rankCorrelation(pairs) {
  const ranks = (xs) => xs.map((x) => xs.filter((v) => v < x).length + (xs.filter((v) => v === x).length - 1) / 2);
  const [a, b] = [ranks(pairs.map((p) => p[0])), ranks(pairs.map((p) => p[1]))];
  const centre = (pairs.length - 1) / 2;
  const product = a.reduce((s, x, k) => s + (x - centre) * (b[k] - centre), 0);
  const size = Math.sqrt(a.reduce((s, x) => s + (x - centre) ** 2, 0) * b.reduce((s, x) => s + (x - centre) ** 2, 0));
  return size ? product / size : 0;
}

function drawBlocks() {
  section('blocks', DATA.blocks.length > 0);
  const fixed = ['model', 'recipe', 'sparsity', 'pattern', 'size', 'seqlen', 'sampler'];
  const groups = new Map();
  for (const row of DATA.blocks) {
    if (!AXES.every((axis) => row[axis] === undefined || row[axis] === null || chosen(axis, row[axis]))) continue;
    const key = JSON.stringify(fixed.map((a) => row[a]));
    if (!groups.has(key)) groups.set(key, { where: row, lines: [] });
    groups.get(key).lines.push(row);
  }
  const list = [...groups.values()].sort((a, b) => (a.where.dataset === null) - (b.where.dataset === null) || natural(JSON.stringify(a.where.recipe), JSON.stringify(b.where.recipe)) || a.where.sparsity - b.where.sparsity);
  const axes = telling(list, fixed);
  facets('plot-blocks', list, (group) => {
    const width = 360, height = 230;
    const f = frame(width, height, [0, group.lines[0].errors.length - 1], group.lines.flatMap((l) => l.errors), { x: 'block', y: 'relative error' }, { zero: true });
    const nodes = [...f.nodes];
    for (const line of group.lines) {
      const name = line.dataset ?? 'no data';
      const { colour, shape } = seriesStyle(name);
      nodes.push(element('polyline', { points: line.errors.map((e, k) => `${f.x(k)},${f.y(e)}`).join(' '), fill: 'none', stroke: colour, 'stroke-width': 1.5 }));
      line.errors.forEach((e, k) => nodes.push(point(mark(shape, f.x(k), f.y(e), 3, { fill: colour }), `${name}, block ${k}\nerror ${e.toPrecision(3)}`)));
    }
    const title = caption(group.where, axes.filter((axis) => group.where[axis] !== null));
    return figure(title, null, chart(width, height, `Error by block, ${title}`, nodes),
      legend(group.lines.map((l) => ({ name: l.dataset ?? 'no data', ...seriesStyle(l.dataset) })).sort((a, b) => natural(a.name, b.name))));
  }, 'No errors were recorded under these filters.');
}

const hasAxis = (axis) => distinct(axis).length > 1;
function section(id, visibleNow) {
  document.getElementById(id).hidden = !visibleNow;
  const link = document.querySelector(`nav a[href="#${id}"]`);
  if (link) link.hidden = !visibleNow;
}
