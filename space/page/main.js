// The page: what is searched for, what was found, and what can be done with it.

import {Drawing} from './drawing.js';
import {Detail} from './detail.js';
import {addPhotos, droppedFiles} from './own.js';
import {call, stay} from './server.js';

const at = (id) => document.getElementById(id);
const facts = JSON.parse(at('facts').textContent);
const SHOWN = 12, REST_MS = 250;

const drawing = new Drawing(at('canvas'));
const words = at('words'), weight = at('weight'), gallery = at('gallery');
// `drawn`: whether the drawing is searched by. `like`: the photo that is searched by, and its gallery.
const query = {drawn: true, like: null};
let found = [];

// Searching: one search at a time, and the latest wins, so that an earlier drawing's photos never replace a later one's.

let running = false, again = false, resting;

async function search() {
  clearTimeout(resting);
  if (running) { again = true; return; }
  running = true;
  do {
    again = false;
    await ask();
  } while (again);
  running = false;
}

/** The inputs that search and picture begin with. */
function asked() {
  const sketch = query.drawn && !drawing.blank ? {url: drawing.png(), meta: {_type: 'gradio.FileData'}} : null;
  return [sketch, words.value.trim(), Number(weight.value), query.like?.gallery ?? gallery.value];
}

async function ask() {
  const inputs = asked(), [sketch, text,, where] = inputs, like = query.like?.row ?? null;
  at('balance').hidden = !text || (!sketch && like === null);
  showChips(sketch);
  if (!sketch && !text && like === null) return show([], 'Draw the outline of a thing, or write words.');
  document.body.classList.add('asking');
  try {
    const answer = await call('search', [...inputs, SHOWN, like, null]);
    if (again) return;
    const count = answer.photos.length;
    show(answer.photos, `${count} photo${count === 1 ? '' : 's'} in ${answer.milliseconds} ms.`, where, answer.remark);
  } catch (error) {
    show([], error.message);
  } finally {
    document.body.classList.remove('asking');
  }
}

function show(photos, said, where, remark = '') {
  found = photos.map((photo) => ({...photo, gallery: where, title: photo.label || photo.name}));
  at('status').textContent = said;
  at('remark').textContent = remark;
  at('share').hidden = !found.length;
  at('photos').replaceChildren(...found.map((photo, i) => {
    const item = document.importNode(PHOTO.content, true), [button, image, name, score] =
      ['button', 'img', '.name', '.score'].map((part) => item.querySelector(part));
    image.src = photo.picture;
    image.alt = '';
    name.textContent = photo.title;
    score.textContent = photo.score.toFixed(3);
    button.setAttribute('aria-label', `Photo ${i + 1}: ${photo.title}, score ${photo.score.toFixed(3)}`);
    button.addEventListener('click', () => open(i));
    return item;
  }));
}

const PHOTO = document.createElement('template');
PHOTO.innerHTML = '<li><button type="button"><img><span class="caption"><span class="name"></span> ' +
  '<span class="score"></span></span></button></li>';

// Going on from a photo: a chip says what is searched by, and going back in the browser undoes it.

function showChips(sketch) {
  const chips = [];
  if (query.like) {
    const back = Object.assign(document.createElement('button'), {type: 'button', className: 'quiet', textContent: '← Back'});
    back.addEventListener('click', () => history.back());
    chips.push(back, chip(query.like.picture, `Like ${query.like.title}`, 'Search without this photo', () => leave()));
    if (sketch) chips.push(chip(sketch.url, 'Your drawing', 'Search without the drawing', () => {
      query.drawn = false;
      search();
    }));
  }
  at('chips').hidden = !chips.length;
  at('chips').replaceChildren(...chips);
}

function chip(picture, text, title, remove) {
  const whole = document.createElement('span'), image = new Image(), cross = document.createElement('button');
  whole.className = 'chip';
  Object.assign(image, {src: picture, alt: ''});
  Object.assign(cross, {type: 'button', textContent: '✕', title});
  cross.setAttribute('aria-label', `${title}: ${text}`);
  cross.addEventListener('click', remove);
  whole.append(image, text, cross);
  return whole;
}

function similar(photo) {
  history.replaceState({...query}, '');
  Object.assign(query, {drawn: false, like: photo});
  history.pushState({...query}, '');
  search();
  scrollTo({top: 0, behavior: 'smooth'});
}

function leave() {
  Object.assign(query, {drawn: true, like: null});
  history.pushState({...query}, '');
  search();
}

addEventListener('popstate', ({state}) => {
  if (!state) return;
  Object.assign(query, {drawn: state.drawn, like: state.like});
  search();
});

const detail = new Detail(at('detail'), similar);
function open(i) { detail.open(found, i, query.drawn && !drawing.blank ? drawing.png() : null); }

// Drawing.

function showTools() {
  for (const [id, on] of [['pen', !drawing.rubber], ['rubber', drawing.rubber]]) at(id).setAttribute('aria-pressed', on);
  at('undo').disabled = !drawing.canUndo;
  at('redo').disabled = !drawing.canRedo;
  at('clear').disabled = drawing.blank;
  at('hint').hidden = !drawing.blank;
}

drawing.addEventListener('begin', () => { clearTimeout(resting); at('hint').hidden = true; });
drawing.addEventListener('change', () => {
  query.drawn = true;
  showTools();
  clearTimeout(resting);
  resting = setTimeout(search, REST_MS);
});
at('pen').addEventListener('click', () => { drawing.rubber = false; showTools(); });
at('rubber').addEventListener('click', () => { drawing.rubber = true; showTools(); });
for (const action of ['undo', 'redo', 'clear']) at(action).addEventListener('click', () => drawing[action]());
addEventListener('keydown', (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== 'z' || event.target.matches('input')) return;
  event.preventDefault();
  event.shiftKey ? drawing.redo() : drawing.undo();
});

async function lay(source, name = '') {
  const image = new Image();
  image.src = source;
  try {
    await image.decode();
    drawing.lay(image, name);
  } catch {
    at('status').textContent = 'This browser cannot read that picture: choose a JPEG, PNG or WebP file.';
  }
}

at('open').addEventListener('change', ({target}) => {
  if (target.files[0]) lay(URL.createObjectURL(target.files[0]));
  target.value = '';
});
addEventListener('paste', ({clipboardData}) => {
  const file = [...clipboardData.files].find(({type}) => type.startsWith('image/'));
  if (file) lay(URL.createObjectURL(file));
});

at('examples').replaceChildren(...facts.examples.map((name) => {
  const item = document.createElement('li'), button = document.createElement('button'), image = new Image();
  Object.assign(image, {src: `examples/${name}.png`, alt: ''});
  button.append(image, name);
  button.addEventListener('click', () => { Object.assign(query, {like: null}); lay(image.src, name); });
  item.append(button);
  return item;
}));

// Words and galleries.

at('say').addEventListener('submit', (event) => { event.preventDefault(); search(); });
words.addEventListener('change', search);
weight.addEventListener('change', search);
gallery.replaceChildren(...facts.galleries.map(({name, title}) => new Option(title, name)));
gallery.addEventListener('change', () => { query.like = null; search(); });

// Own photos.

async function add(files) {
  const bar = at('progress');
  at('told').textContent = 'Making your photos small …';
  bar.hidden = false;
  bar.value = 0;
  try {
    await addPhotos(files, gallery.value, facts.ownLimit, (done, total, answer) => {
      bar.value = done / total;
      at('told').textContent = done < total ? `${done} of ${total} photos are ready …` : answer.said;
      const option = [...gallery.options].find(({value}) => value === facts.own) ?? new Option('', facts.own);
      option.textContent = `${facts.own} (${answer.photos})`;
      gallery.append(option);
      gallery.value = facts.own;
      query.like = null;
      search();
    });
  } catch (error) {
    at('told').textContent = error.message;
  }
  bar.hidden = true;
}

for (const id of ['files', 'folder']) at(id).addEventListener('change', ({target}) => {
  const files = [...target.files];
  target.value = '';
  if (files.length) add(files);
});
addEventListener('dragover', (event) => { event.preventDefault(); document.body.classList.add('dropping'); });
addEventListener('dragleave', ({relatedTarget}) => relatedTarget || document.body.classList.remove('dropping'));
addEventListener('drop', async (event) => {
  event.preventDefault();
  document.body.classList.remove('dropping');
  const files = await droppedFiles(event.dataTransfer);
  if (at('paper').contains(event.target) && files[0]) lay(URL.createObjectURL(files[0]));
  else if (files.length) add(files);
});

// Sharing: a picture to download, and a link that opens the same drawing.

at('save').addEventListener('click', async () => {
  try {
    const picture = await call('picture', [...asked(), query.like?.row ?? null, null]);
    const content = await (await fetch(new URL(picture.url).pathname)).blob();  // from there it would get another name
    Object.assign(document.createElement('a'), {href: URL.createObjectURL(content), download: 'found by drawing.png'}).click();
  } catch (error) {
    at('status').textContent = error.message;
  }
});

at('link').addEventListener('click', async () => {
  const written = drawing.written();
  if (!written) { at('status').textContent = 'A picture of yours does not fit into a link: save what was found as a picture.'; return; }
  const parts = new URLSearchParams();
  if (written.example) parts.set('example', written.example);
  if (written.strokes) parts.set('drawing', written.strokes);
  if (words.value.trim()) { parts.set('words', words.value.trim()); parts.set('weight', weight.value); }
  if (gallery.value !== facts.own) parts.set('gallery', gallery.value);
  const link = `${location.origin}${location.pathname}#${parts}`;
  history.replaceState(history.state, '', `#${parts}`);
  try {
    await navigator.clipboard.writeText(link);
    at('status').textContent = 'The link is copied: it opens this drawing.';
  } catch {
    const dialog = at('by-hand'), field = dialog.querySelector('input');
    field.value = link;
    dialog.showModal();
    field.select();
  }
});

async function openLink() {
  const parts = new URLSearchParams(location.hash.slice(1)), example = parts.get('example');
  if (facts.galleries.some(({name}) => name === parts.get('gallery'))) gallery.value = parts.get('gallery');
  words.value = (parts.get('words') ?? '').slice(0, words.maxLength);
  if (parts.get('weight')) weight.value = parts.get('weight');
  query.like = null;
  drawing.clear();
  if (facts.examples.includes(example)) await lay(`examples/${example}.png`, example);
  if (parts.get('drawing')) drawing.readStrokes(parts.get('drawing'));
  search();
}

// Opening: the drawing of the link, otherwise the first example, so that the page does not open empty.

const theme = new URLSearchParams(location.search).get('__theme');  // as hosted Spaces tell it
if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme;
stay();
showTools();
addEventListener('hashchange', openLink);
if (location.hash.length > 1) openLink();
else if (facts.opens) lay(`examples/${facts.opens}.png`, facts.opens);
