// One photo found, enlarged, beside the drawing that found it.

/** The dialog of a photo. `similar` is called with the photo that the visitor wants more of. */
export class Detail {
  #dialog; #photos = []; #at = 0; #sketch = null;

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

  open(photos, at, sketch) {
    this.#photos = photos;
    this.#sketch = sketch;
    this.#show(at);
    this.#dialog.showModal();
  }

  #part(id) { return this.#dialog.querySelector(`#${id}`); }

  #show(at) {
    this.#at = at;
    const photo = this.#photos[at];
    this.#part('detail-name').textContent = photo.title;
    this.#part('detail-facts').textContent = `${photo.name} · number ${at + 1} of ${this.#photos.length} · score ${photo.score.toFixed(3)}`;
    this.#part('previous').disabled = at === 0;
    this.#part('after').disabled = at === this.#photos.length - 1;
    this.#part('pair').replaceChildren(...[
      ...(this.#sketch ? [figure(this.#sketch, 'Your drawing')] : []),
      figure(photo.picture, photo.label ? `The photo: ${photo.label}` : 'The photo'),
    ]);
  }
}

function figure(source, text) {
  const whole = document.createElement('figure'), image = new Image();
  Object.assign(image, {src: source, alt: text});
  whole.append(image);
  return whole;
}
