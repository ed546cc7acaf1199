// The page: header, answers, filters, the drill-down of a cell, and everything drawn anew.
const clock = (seconds) => (seconds >= 7200 ? `${(seconds / 3600).toFixed(1)} h` : seconds >= 120 ? `${(seconds / 60).toFixed(1)} min` : `${seconds.toFixed(1)} s`);
const paragraph = (text, attributes = {}) => element('p', attributes, text);

function drawHeader() {
  const { meta } = DATA;
  document.getElementById('run').textContent = meta.run;
  const states = Object.entries(meta.counts).map(([word, n]) => `${n.toLocaleString('en')} ${word}`).join(', ');
  document.getElementById('summary').textContent = `${COUNT.toLocaleString('en')} cells (${states}); ${meta.models.map((m) => show('model', m)).join(', ')}; `
    + `compared by ${DATA.metrics[0].label}, a difference of ${meta.delta} ${DATA.metrics[0].unit} counts as relevant; ${meta.dtype}, lm-eval ${meta.harness}.`;
  document.getElementById('nav').append(...[...document.querySelectorAll('main > section[aria-labelledby]')]
    .map((s) => element('a', { href: `#${s.id}` }, s.querySelector('h2').textContent)));
}

function drawAnswers() {
  const scores = Object.keys(DATA.answers);
  const shown = DATA.answers[state.metric] ? state.metric : scores[0];
  document.getElementById('by').replaceChildren(...(scores.length > 1 ? ['By ', ...scores.map((name) => element('button', {
    type: 'button', 'aria-pressed': String(name === shown), onclick: () => choose(name),
  }, metricNamed(name).label))] : shown ? [`By ${metricNamed(shown).label}.`] : ['No cell has a score yet. ', element('a', { href: '#failures' }, 'What failed'), element('a', { href: '#cells' }, 'All cells')]));
  document.getElementById('cards').replaceChildren(...(DATA.answers[shown] ?? []).map((a) => element('article', { class: 'card' },
    element('h3', {}, a.question),
    element('div', { class: `verdict ${{ yes: 'yes', no: 'no' }[a.verdict.split(',')[0]] ?? ''}` }, a.verdict[0].toUpperCase() + a.verdict.slice(1)),
    paragraph(a.sentence),
    element('p', { class: 'basis' }, `${a.basis} `, element('a', { href: `#${a.view}` }, 'See it')))));
}

function choose(metric) {
  state.metric = metric;
  document.getElementById('metric').value = metric;
  draw_all();
}

function drawControls() {
  const place = document.getElementById('controls');
  place.append(element('label', {}, 'Score ', element('select', {
    id: 'metric', onchange: (event) => choose(event.target.value),
  }, DATA.metrics.map((m) => element('option', { value: m.name }, m.label)))));
  for (const axis of AXES) {
    const options = distinct(axis, axis === 'dataset' ? undefined : (i) => value('pruner', i) !== 'dense');
    if (options.length < 2) continue;
    const label = AXIS_LABELS[axis] ?? axis;
    const summary = element('summary', {}, label);
    const menu = element('details', { 'data-axis': axis }, summary, element('div', { class: 'menu', role: 'group', 'aria-label': label },
      element('button', { type: 'button', onclick: () => set(options) }, 'All'), ' ',
      element('button', { type: 'button', onclick: () => set([]) }, 'None'),
      options.map((v) => element('label', {}, element('input', { type: 'checkbox', checked: true, value: String(v), onchange: () => read() }), ` ${show(axis, v)}`))));
    const boxes = () => [...menu.querySelectorAll('input')];
    const read = () => {
      const on = options.filter((_, k) => boxes()[k].checked);
      if (on.length === options.length) delete state.chosen[axis];
      else state.chosen[axis] = new Set(on);
      menu.classList.toggle('on', on.length < options.length);
      summary.textContent = on.length < options.length ? `${label}: ${on.length === 1 ? show(axis, on[0]) : `${on.length} of ${options.length}`}` : label;
      draw_all();
    };
    const set = (on) => { boxes().forEach((box, k) => { box.checked = on.includes(options[k]); }); read(); };
    menu.reset = () => set(options);
    place.append(menu);
  }
  place.append(element('button', {
    type: 'button', id: 'reset', onclick: () => { place.querySelectorAll('details').forEach((d) => { d.open = false; d.reset(); }); },
  }, 'Reset'));
  document.addEventListener('click', (event) => {
    for (const menu of place.querySelectorAll('details[open]')) if (!menu.contains(event.target)) menu.open = false;
  });
  place.addEventListener('keydown', (event) => {
    const menu = event.target.closest('details[data-axis]');
    if (event.key === 'Escape' && menu?.open) { menu.open = false; menu.querySelector('summary').focus(); }
  });
  if (matchMedia('(max-width: 640px)').matches) document.getElementById('filterbox').open = false;
  const search = element('input', { type: 'search', placeholder: 'Find: c4 wanda failed …', 'aria-label': 'Find cells', oninput: (event) => { wanted = event.target.value; cellTable(); } });
  document.getElementById('table-cells').before(element('div', { class: 'tools' }, search));
}

function draw_all() {
  let n = 0;
  for (let i = 0; i < COUNT; i++) n += visible(i);
  document.getElementById('filtered').textContent = n === COUNT ? 'everything is shown' : `${n.toLocaleString('en')} of ${COUNT.toLocaleString('en')} cells`;
  hideTip();
  drawAnswers();
  scoreTable(drawScores());
  pairTable();
  drawGaps();
  drawSizes();
  drawSimilarity();
  drawBlocks();
  cellTable();
}

function openCell(i) {
  const dialog = document.getElementById('cell');
  const get = (name) => value(name, i);
  const rows = (pairs) => element('dl', {}, pairs.filter(([, v]) => v !== null && v !== undefined && v !== '').flatMap(([k, v]) => [element('dt', {}, k), element('dd', {}, v)]));
  const provenance = JSON.parse(get('provenance') ?? '{}');
  const flat = Object.entries(provenance).flatMap(([k, v]) => (v !== null && typeof v === 'object' ? Object.entries(v).map(([a, b]) => [`${k}: ${a}`, b]) : [[k, v]]));
  const log = DATA.cells.logs[get('cell')];
  const failure = DATA.failures.find((f) => f.cells.includes(get('cell')));
  const percent = (v) => (v === null ? null : `${(100 * v).toFixed(3)} %`);
  dialog.replaceChildren(
    element('button', { type: 'button', class: 'close', onclick: () => dialog.close() }, 'Close'),
    element('h2', { id: 'cell-title' }, `${get('dataset') === null ? '' : `${get('dataset')} · `}${caption({ recipe: get('recipe'), sparsity: get('sparsity'), pattern: get('pattern') }, ['recipe', 'sparsity', 'pattern'])}${get('seed') === null ? '' : ` · seed ${get('seed')}`}`),
    rows([
      ['cell', get('cell')], ['status', get('status')], ['model', get('model')], ['recipe', get('recipe')],
      ['calibration', get('dataset') === null ? 'none needed' : `${get('size')} × ${get('seqlen')} tokens, sampler ${get('sampler')}, set ${get('calibration')}`],
      ['achieved sparsity', percent(get('achieved_sparsity'))], ['zeros in the whole model', percent(get('model_sparsity'))],
      ['similarity', get('similarity') === null ? null : `${get('similarity').toPrecision(4)}${get('similarity_se') === null ? '' : ` ± ${get('similarity_se').toPrecision(2)}`}`],
      ['GPU time', get('gpu_seconds') === null ? null : clock(get('gpu_seconds'))],
      ['peak memory', get('peak_memory_bytes') === null ? null : `${(get('peak_memory_bytes') / 2 ** 30).toFixed(2)} GiB`], ['attempt', get('attempt')],
    ]),
    failure ? paragraph(`Failed: ${failure.cause}`, { class: 'failed' }) : '',
    element('h3', {}, 'Scores'), rows(DATA.metrics.map((m) => [m.label, get(m.name) === null ? null : score(m, get(m.name))])),
    element('h3', {}, 'Time by stage'), rows(COLUMNS.stages[i].map(([k, s]) => [DATA.cells.stage_names[k], clock(s)])),
    element('h3', {}, 'Provenance'), rows([['record', get('record')], ...flat.map(([k, v]) => [k, v === null ? null : String(v)])]),
    element('h3', {}, 'Log'), paragraph(get('log') ?? 'no log is known', { class: 'note' }),
    log ?? failure?.tail ? element('pre', { tabindex: 0 }, log ?? failure.tail) : paragraph('Its text was not beside the database when this page was written.', { class: 'empty' }),
    element('h3', {}, 'Run this cell again'), element('pre', {}, `python -m jobs.cell runs/${DATA.meta.run} ${get('cell')} --check`),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
}

function drawWindows() {
  const place = document.getElementById('windows');
  if (!DATA.windows.length) place.append(paragraph('No calibration set is recorded.', { class: 'empty' }));
  const many = DATA.meta.models.length > 1;
  for (const set of DATA.windows) {
    const name = `${many ? `${show('model', set.model)}: ` : ''}${set.dataset} (${set.sampler})`;
    const readable = set.windows.filter((w) => w.text !== null);
    place.append(element('details', { class: 'set' }, element('summary', {}, name, readable.length ? element('small', {}, ` ${readable[0].text.trim().slice(0, 90)} …`) : null),
      paragraph(`Set ${set.calibration}: ${set.size} windows of ${set.seqlen} tokens, seed ${set.seed}.${DATA.meta.generated.includes(set.dataset) ? ' Written by the model itself.' : ''}`, { class: 'note' }),
      readable.length ? readable.map((w) => [element('h3', {}, `Window ${w.number}`),
        paragraph(`from ${w.documents} document${w.documents === 1 ? '' : 's'}; the first is ${w.document}, from its token ${w.start} on`, { class: 'note' }),
        element('pre', { class: 'read', tabindex: 0 }, w.text)]) : paragraph('Its text was not stored; run the grid again to have it.', { class: 'empty' })));
  }
}

function drawCost() {
  const place = document.getElementById('costs');
  const gpu = COLUMNS.gpu_seconds.filter((s) => s !== null);
  const total = DATA.stages.reduce((a, s) => a + s.total, 0);
  const memory = COLUMNS.peak_memory_bytes.filter((b) => b !== null);
  place.append(paragraph(`${clock(total)} of work in all stages${gpu.length ? `, ${clock(gpu.reduce((a, b) => a + b, 0))} of them on GPUs` : ', none of it on a GPU'}`
    + `${memory.length ? `; most memory held by a cell: ${(Math.max(...memory) / 2 ** 30).toFixed(2)} GiB` : ''}.`), element('div', { id: 'table-stages' }));
  table('table-stages', {
    title: 'Time by stage, waiting for shared work included', rows: DATA.stages, start: { key: 'total', down: true },
    columns: [
      { key: 'stage', label: 'stage', value: (r) => r.stage },
      { key: 'times', label: 'times', number: true, value: (r) => r.times },
      { key: 'total', label: 'in all', number: true, downFirst: true, value: (r) => r.total, format: clock },
      { key: 'share', label: 'share', number: true, downFirst: true, value: (r) => r.total / total, format: (v) => `${(100 * v).toFixed(1)} %` },
      { key: 'median', label: 'median', number: true, downFirst: true, value: (r) => r.median, format: clock },
      { key: 'most', label: 'longest', number: true, downFirst: true, value: (r) => r.most, format: clock },
    ],
  });
}

function drawFailures() {
  const place = document.getElementById('failed');
  const lost = DATA.failures.filter((f) => !f.recovered);
  const missing = DATA.meta.counts.missing ?? 0;
  place.append(paragraph(!DATA.failures.length && !missing ? 'No cell failed.' : `${lost.reduce((a, f) => a + f.cells.length, 0)} cells failed, of ${lost.length} cause${lost.length === 1 ? '' : 's'}; ${missing} did not run yet.`
    + (DATA.failures.length > lost.length ? ' Attempts that a later one made good are listed too.' : '')));
  for (const f of DATA.failures) {
    place.append(element('details', { class: 'set' },
      element('summary', {}, `${f.cells.length} × ${f.cause}${f.recovered ? ' (made good by a later attempt)' : ''}`),
      paragraph(`${f.kind} in stage ${f.stage ?? 'unknown'}; log ${f.log ?? 'none'}`, { class: 'note' }),
      f.tail ? element('pre', { tabindex: 0 }, f.tail) : null,
      paragraph(`Cells: ${f.cells.slice(0, 40).join(', ')}${f.cells.length > 40 ? ', …' : ''}`, { class: 'note' })));
  }
}

function drawReproduce() {
  const { meta } = DATA;
  const commit = meta.commits[0];
  const packages = Object.entries(JSON.parse(COLUMNS.provenance.values.find((v) => v !== null) ?? '{}').packages ?? {});
  const lines = [
    commit ? `git checkout ${commit.commit}${commit.dirty ? '   # the tree had uncommitted changes' : ''}` : null,
    'python -m pip install -c constraints.txt -e .',
    'python -m jobs.launch grid.yaml --dry-run',
    'python -m jobs.launch grid.yaml',
    `python -m analysis.report runs/${meta.run}/results.duckdb --out report/`,
  ].filter(Boolean);
  document.getElementById('how').append(
    paragraph('Save the grid below as grid.yaml; then:'), element('pre', { tabindex: 0 }, lines.join('\n')),
    meta.commits.length > 1 ? paragraph(`Cells come from ${meta.commits.length} versions of the code: ${meta.commits.map((c) => `${c.commit.slice(0, 10)}${c.dirty ? ' (changed)' : ''} ${c.cells}`).join(', ')}.`, { class: 'failed' }) : '',
    packages.length ? paragraph(`With ${packages.map(([k, v]) => `${k} ${v}`).join(', ')}.`, { class: 'note' }) : '',
    element('h3', {}, 'The grid'), element('pre', { tabindex: 0 }, meta.grid ?? ''));
}

drawHeader();
drawControls();
draw_all();
similarityTable();
drawWindows();
drawCost();
drawFailures();
drawReproduce();
document.documentElement.dataset.ready = 'yes';
