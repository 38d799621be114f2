// One photo found, enlarged, beside the drawing that found it, with the parts of both that the model finds alike.

import {call} from './server.js';

const PAIRS = 6;
const WHY = 'Numbers join the parts that are most alike to the model. Point at any part to see what it resembles.';

/** The dialog of a photo. `similar` is called with the photo that the visitor wants more of. */
export class Detail {
  #dialog; #photos = []; #at = 0; #sketch = null; #asked = 0;

  constructor(dialog, similar) {
    this.#dialog = dialog;
    this.#part('similar').addEventListener('click', () => { dialog.close(); similar(this.#photos[this.#at]); });
    this.#part('previous').addEventListener('click', () => this.#show(this.#at - 1));
    this.#part('after').addEventListener('click', () => this.#show(this.#at + 1));
    dialog.addEventListener('click', ({target}) => target === dialog && dialog.close());  // beside the dialog
    dialog.addEventListener('keydown', ({key}) => {
      if (key === 'ArrowLeft' && this.#at > 0) this.#show(this.#at - 1);
      if (key === 'ArrowRight' && this.#at < this.#photos.length - 1) this.#show(this.#at + 1);
    });
  }

  /** Show a photo, and why it was found where a drawing is given, a data URL. */
  open(photos, at, sketch) {
    this.#photos = photos;
    this.#sketch = sketch;
    this.#dialog.showModal();
    this.#show(at);
  }

  #part(id) { return this.#dialog.querySelector(`#${id}`); }

  #show(at) {
    this.#at = at;
    const photo = this.#photos[at], place = `number ${at + 1} of ${this.#photos.length}`;
    this.#part('detail-name').textContent = photo.title;
    this.#part('detail-facts').textContent = `${photo.name} · ${place} · score ${photo.score.toFixed(3)}`;
    this.#part('previous').disabled = at === 0;
    this.#part('after').disabled = at === this.#photos.length - 1;
    this.#part('why').textContent = '';
    const shown = [figure(photo.picture, photo.label ? `The photo: ${photo.label}` : 'The photo')];
    if (this.#sketch) shown.unshift(figure(this.#sketch, 'Your drawing'));
    this.#part('pair').replaceChildren(...shown);
    if (this.#sketch) this.#explain(photo, shown);
  }

  async #explain(photo, figures) {
    const asked = ++this.#asked;
    try {
      const sketch = {url: this.#sketch, meta: {_type: 'gradio.FileData'}};
      const matches = await call('explain', [sketch, photo.row, photo.gallery, true, null]);
      if (asked !== this.#asked) return;
      figures.forEach((one, i) => { one.querySelector('img').src = matches.squares[i]; });
      join(this.#part('pair'), figures, matches);
      this.#part('why').textContent = WHY;
    } catch (error) {
      if (asked === this.#asked) this.#part('why').textContent = error.message;
    }
  }
}

function figure(source, text) {
  const whole = document.createElement('figure');
  whole.append(Object.assign(new Image(), {src: source, alt: text}));
  return whole;
}

/** Number the best pairs on both pictures, and show what a part resembles while it is pointed at or has the focus. */
function join(pair, figures, {grid: [rows, columns], pairs, cosines, drawn}) {
  const heats = figures.map((one) => {
    const heat = Object.assign(document.createElement('canvas'), {width: columns, height: rows, className: 'heat'});
    one.append(heat);
    return heat;
  });
  const lines = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  lines.setAttribute('aria-hidden', 'true');
  pair.append(lines);

  const point = (side, patch) => {
    const others = cosines.map((row, i) => side ? row[patch] : cosines[patch][i]);
    paint(heats[1 - side], side ? others.map((value, i) => drawn[i] ? value : -1) : others);
    const own = heats[side].getContext('2d');
    own.clearRect(0, 0, columns, rows);
    own.fillStyle = '#3340b899';
    own.fillRect(patch % columns, Math.floor(patch / columns), 1, 1);
    pair.classList.add('pointing');
  };
  const rest = () => {
    heats.forEach((heat) => heat.getContext('2d').clearRect(0, 0, columns, rows));
    pair.classList.remove('pointing');
  };
  figures.forEach((one, side) => {
    one.addEventListener('pointermove', ({clientX, clientY}) => {
      const box = one.getBoundingClientRect(), along = (at, size, count) => Math.min(count - 1, Math.max(0, Math.floor(at / size * count)));
      const patch = along(clientY - box.top, box.height, rows) * columns + along(clientX - box.left, box.width, columns);
      side || drawn[patch] ? point(side, patch) : rest();
    });
    one.addEventListener('pointerleave', rest);
  });
  const best = pairs.slice(0, PAIRS);
  best.forEach(({sketch, photo, cosine}, i) => [sketch, photo].forEach((place, side) => {
    const dot = document.createElement(side ? 'span' : 'button');
    Object.assign(dot, {className: 'dot', textContent: i + 1});
    dot.style.left = `${100 * (place[1] + 0.5) / columns}%`;
    dot.style.top = `${100 * (place[0] + 0.5) / rows}%`;
    if (!side) {
      dot.type = 'button';
      dot.setAttribute('aria-label', `Pair ${i + 1}, cosine ${cosine.toFixed(2)}: show what this part resembles`);
      dot.addEventListener('focus', () => point(0, place[0] * columns + place[1]));
      dot.addEventListener('blur', rest);
    }
    figures[side].append(dot);
  }));
  const draw = () => {
    const outer = pair.getBoundingClientRect();
    lines.setAttribute('viewBox', `0 0 ${outer.width} ${outer.height}`);
    lines.replaceChildren(...best.map(({sketch, photo}) => {
      const line = document.createElementNS(lines.namespaceURI, 'line');
      [sketch, photo].forEach(([row, column], side) => {
        const box = figures[side].getBoundingClientRect();
        line.setAttribute(`x${side + 1}`, box.left - outer.left + box.width * (column + 0.5) / columns);
        line.setAttribute(`y${side + 1}`, box.top - outer.top + box.height * (row + 0.5) / rows);
      });
      return line;
    }));
  };
  new ResizeObserver(draw).observe(pair);
}

/** Colour patches by how much they resemble a part: nothing for the least, orange for the most. */
function paint(heat, values) {
  const known = values.filter((value) => value > -1), low = Math.min(...known), high = Math.max(...known);
  const context = heat.getContext('2d'), pixels = context.createImageData(heat.width, heat.height);
  values.forEach((value, i) => {
    const strength = value > -1 && high > low ? (value - low) / (high - low) : 0;
    pixels.data.set([255, 98, 0, 220 * strength ** 3], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
}
