// A drawing of strokes: it can be undone, written as text for a link, and painted in any size.

export const SIDE = 512;
const PEN = 5, RUBBER = 28, DIGITS = 36;

/** Strokes and pictures on white paper. Sends `begin` when the hand goes down, `change` when the drawing is another. */
export class Drawing extends EventTarget {
  #canvas; #steps = []; #undone = []; #stroke = null;
  rubber = false;

  constructor(canvas) {
    super();
    this.#canvas = canvas;
    canvas.addEventListener('pointerdown', (event) => this.#begin(event));
    canvas.addEventListener('pointermove', (event) => this.#go(event));
    for (const kind of ['pointerup', 'pointercancel']) canvas.addEventListener(kind, () => this.#end());
    this.#show();
  }

  get canUndo() { return this.#steps.length > 0; }
  get canRedo() { return this.#undone.length > 0; }

  /** The steps since the paper was last white. */
  get #visible() {
    const start = this.#steps.findLastIndex((step) => step.clear || step.image);
    return start < 0 ? this.#steps : this.#steps.slice(this.#steps[start].clear ? start + 1 : start);
  }

  get blank() { return !this.#visible.some((step) => step.image || (step.points && !step.rubber)); }

  undo() { this.#move(this.#steps, this.#undone); }
  redo() { this.#move(this.#undone, this.#steps); }
  clear() { if (!this.blank) this.#add({clear: true}); }

  /** Lay a picture on the paper in place of what is there; `name` is that of an example, which fits into a link. */
  lay(image, name = '') { this.#add({image, name}); }

  /** The drawing as a PNG of 512 x 512 pixels, a data URL. */
  png() {
    const canvas = Object.assign(document.createElement('canvas'), {width: SIDE, height: SIDE});
    this.#paint(canvas);
    return canvas.toDataURL('image/png');
  }

  /** The drawing as text of `readStrokes`, with the example below it; null where a picture of the visitor's is below. */
  written() {
    const [first] = this.#visible, example = first?.image ? first.name : null;
    if (example === '') return null;
    const strokes = this.#visible.filter((step) => step.points).map(({points, rubber}) =>
      (rubber ? '-' : '') + points.flat().map((number) => number.toString(DIGITS).padStart(2, '0')).join(''));
    return {example, strokes: strokes.join('.')};
  }

  /** Draw on by the text of `written`. What is no stroke is left out. */
  readStrokes(text) {
    for (const part of text.split('.')) {
      const digits = part.replace(/^-/, '');
      if (!/^([0-9a-z]{4})+$/.test(digits)) continue;
      const numbers = digits.match(/../g).map((pair) => Math.min(parseInt(pair, DIGITS), SIDE - 1));
      const points = numbers.flatMap((x, i) => i % 2 ? [] : [[x, numbers[i + 1]]]);
      this.#steps.push({points, rubber: part.startsWith('-')});
    }
    this.#changed();
  }

  #add(step) { this.#steps.push(step); this.#undone = []; this.#changed(); }

  #move(from, to) { if (from.length) { to.push(from.pop()); this.#changed(); } }

  #changed() { this.#show(); this.dispatchEvent(new Event('change')); }

  #point({clientX, clientY}) {
    const box = this.#canvas.getBoundingClientRect();
    return [clientX - box.left, clientY - box.top].map((at) =>
      Math.max(0, Math.min(SIDE - 1, Math.round(at * SIDE / box.width))));
  }

  #begin(event) {
    if (event.button || !event.isPrimary) return;
    event.preventDefault();
    this.#canvas.setPointerCapture(event.pointerId);
    this.#stroke = {points: [this.#point(event)], rubber: this.rubber};
    this.dispatchEvent(new Event('begin'));
    this.#show();
  }

  #go(event) {
    if (!this.#stroke || !event.isPrimary) return;
    const all = event.getCoalescedEvents?.() ?? [];
    this.#stroke.points.push(...(all.length ? all : [event]).map((each) => this.#point(each)));
    this.#show();
  }

  #end() {
    if (!this.#stroke) return;
    const stroke = this.#stroke;
    this.#stroke = null;
    stroke.points = simpler(stroke.points);
    this.#add(stroke);
  }

  #show() { this.#paint(this.#canvas, this.#stroke ? [this.#stroke] : []); }

  #paint(canvas, more = []) {
    const context = canvas.getContext('2d'), scale = canvas.width / SIDE;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.fillStyle = '#fff';
    context.fillRect(0, 0, SIDE, SIDE);
    context.lineCap = context.lineJoin = 'round';
    for (const step of [...this.#visible, ...more]) {
      if (step.image) layInside(context, step.image);
      if (step.points) line(context, step);
    }
  }
}

function layInside(context, image) {
  const scale = Math.min(SIDE / image.width, SIDE / image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  context.drawImage(image, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
}

function line(context, {points: [first, ...rest], rubber}) {
  context.strokeStyle = rubber ? '#fff' : '#000';
  context.lineWidth = rubber ? RUBBER : PEN;
  context.beginPath();
  context.moveTo(...first);
  context.lineTo(first[0] + 0.01, first[1]);  // a browser leaves out a line of no length: a dot would not be seen
  for (const point of rest) context.lineTo(...point);
  context.stroke();
}

/** Leave out the points of a line that lie within 0.7 of the rest (Ramer, Douglas and Peucker). */
function simpler(points) {
  if (points.length < 3) return points;
  const [[ax, ay], [bx, by]] = [points[0], points.at(-1)], length = Math.hypot(bx - ax, by - ay);
  let far = 0, at = 0;
  for (let i = 1; i < points.length - 1; i++) {
    const [x, y] = points[i];
    const off = length ? Math.abs((bx - ax) * (ay - y) - (ax - x) * (by - ay)) / length : Math.hypot(x - ax, y - ay);
    if (off > far) [far, at] = [off, i];
  }
  if (far <= 0.7) return [points[0], points.at(-1)];
  return [...simpler(points.slice(0, at + 1)).slice(0, -1), ...simpler(points.slice(at))];
}
