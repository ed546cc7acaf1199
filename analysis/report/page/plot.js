// Small SVG plots: every point can be hovered, tapped, or reached with the arrow keys.
function element(name, attributes = {}, ...children) {
  const svgNames = ['svg', 'g', 'line', 'path', 'text', 'circle', 'rect', 'polygon', 'polyline', 'title'];
  const node = svgNames.includes(name) ? document.createElementNS('http://www.w3.org/2000/svg', name)
    : document.createElement(name);
  for (const [key, v] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), v);
    else if (v !== null && v !== undefined && v !== false) node.setAttribute(key, v === true ? '' : v);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  return node;
}

const tip = document.getElementById('tip');
function showTip(text, box) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(innerWidth - width - 4, box.left + box.width / 2 - width / 2))}px`;
  tip.style.top = `${box.top - height - 8 > 0 ? box.top - height - 8 : box.bottom + 8}px`;
}
const hideTip = () => { tip.hidden = true; };

function ticks(low, high, count = 5) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) found.push(+t.toPrecision(12));
  return found;
}
const linear = (low, high, from, to) => (v) => from + ((v - low) / (high - low || 1)) * (to - from);
function extent(xs, pad = 0.06) {
  const low = Math.min(...xs), high = Math.max(...xs);
  const room = (high - low || Math.abs(high) * 0.01 || 1) * pad;
  return [low - room, high + room];
}

function mark(shape, x, y, r, attributes) {
  if (shape === 'square') return element('rect', { x: x - r, y: y - r, width: 2 * r, height: 2 * r, ...attributes });
  const at = (points) => points.map(([dx, dy]) => `${x + dx * r},${y + dy * r}`).join(' ');
  if (shape === 'triangle') return element('polygon', { points: at([[0, -1.25], [1.15, 0.9], [-1.15, 0.9]]), ...attributes });
  if (shape === 'diamond') return element('polygon', { points: at([[0, -1.35], [1.35, 0], [0, 1.35], [-1.35, 0]]), ...attributes });
  if (shape === 'cross') {
    return element('polygon', {
      points: at([[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2],
        [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]]), ...attributes,
    });
  }
  return element('circle', { cx: x, cy: y, r, ...attributes });
}

// A point that says something: `text` on hover and focus, `open` on click or Enter.
function point(node, text, open) {
  node.classList.add('pt');
  node.setAttribute('aria-label', text.replace(/\n/g, ', '));
  node.tip = text;
  node.open = open;
  node.addEventListener('pointerenter', () => showTip(text, node.getBoundingClientRect()));
  node.addEventListener('pointerleave', hideTip);
  node.addEventListener('click', () => (open ? open() : showTip(text, node.getBoundingClientRect())));
  return node;
}

function figure(title, note, chart, legend) {
  return element('figure', {}, element('figcaption', {}, title, note ? element('small', {}, note) : null),
    legend ?? null, chart);
}

function chart(width, height, label, children) {
  const node = element('svg', {
    viewBox: `0 0 ${width} ${height}`, role: 'group', tabindex: 0,
    'aria-label': `${label}. Arrow keys go through the points.`,
  }, ...children);
  let at = -1;
  const points = () => [...node.querySelectorAll('.pt')];
  const leave = () => { points()[at]?.classList.remove('at'); hideTip(); };
  node.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const all = points();
    if (step && all.length) {
      event.preventDefault();
      all[at]?.classList.remove('at');
      at = (at + step + all.length) % all.length;
      all[at].classList.add('at');
      showTip(all[at].tip, all[at].getBoundingClientRect());
    } else if (event.key === 'Enter' && all[at]?.open) all[at].open();
    else if (event.key === 'Escape') leave();
  });
  node.addEventListener('blur', leave);
  return node;
}

function legend(entries) {
  return element('div', { class: 'legend' }, entries.map(({ name, colour, shape }) => element('span', {},
    element('svg', { viewBox: '0 0 14 14', 'aria-hidden': 'true' }, mark(shape, 7, 7, 4.5, { fill: colour })), name)));
}

// Axes of a plot with numbers on both: returns scales and the nodes that draw them.
function frame(width, height, xs, ys, labels, options = {}) {
  const box = { left: 60, right: width - 12, top: 10, bottom: height - 38 };
  const toX = options.x ?? ((v) => v);
  const x = linear(...extent(xs.map(toX)), box.left, box.right);
  const y = linear(...extent(options.zero ? [0, ...ys] : ys), box.bottom, box.top);
  const [low, high] = extent(options.zero ? [0, ...ys] : ys);
  const nodes = [];
  for (const t of ticks(low, high)) {
    nodes.push(element('line', { class: 'axis', x1: box.left, x2: box.right, y1: y(t), y2: y(t) }),
      element('text', { class: 'soft', x: box.left - 6, y: y(t) + 4, 'text-anchor': 'end' }, String(t)));
  }
  const marks = options.ticks ?? ticks(...extent(xs.map(toX)), 4).map((t) => [t, String(t)]);
  for (const [v, text] of marks) {
    nodes.push(element('text', { class: 'soft', x: x(v), y: box.bottom + 16, 'text-anchor': 'middle' }, text));
  }
  nodes.push(element('text', { class: 'soft', x: (box.left + box.right) / 2, y: height - 4, 'text-anchor': 'middle' }, labels.x));
  nodes.push(element('text', { class: 'soft', transform: `translate(11 ${(box.top + box.bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle' }, labels.y));
  return { x: (v) => x(toX(v)), y, box, nodes };
}
