// A visitor's own photos: made small here, uploaded in parts, and searchable from the first part on.

import {call, upload} from './server.js';

const PART = 12, LARGEST = 1024;
const PHOTO = /\.(jpe?g|png|webp|gif|bmp|avif|tiff?|jp2|heic|heif)$/i;

/** Make files searchable part by part.
 *
 * @param files what was chosen or dropped.
 * @param gallery whose model encodes them.
 * @param limit how many may be uploaded.
 * @param tell called with the number of files that are done, their total, and the server's answer, after every part.
 */
export async function addPhotos(files, gallery, limit, tell) {
  const photos = files.filter(({name, type}) => !name.startsWith('.') && (type.startsWith('image/') || PHOTO.test(name)));
  if (!photos.length) throw new Error('There is no photo among these files: choose JPEG, PNG or WebP files.');
  if (photos.length > limit) throw new Error(`These are ${photos.length} photos: choose at most ${limit}.`);
  for (let start = 0; start < photos.length; start += PART) {
    const part = await Promise.all(photos.slice(start, start + PART).map(async (file) => [file.name, await small(file)]));
    const answer = await call('own_photos', [await upload(part), gallery, true, null]);
    tell(Math.min(start + PART, photos.length), photos.length, answer);
  }
}

/** Return a photo at 1,024 pixels at most, upright and without the camera's notes; what this browser cannot read as it is. */
async function small(file) {
  try {
    const image = await createImageBitmap(file), scale = Math.min(1, LARGEST / Math.max(image.width, image.height));
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.width, image.height].map((side) => Math.max(1, Math.round(side * scale)));
    const context = canvas.getContext('2d');
    context.fillStyle = '#fff';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((done) => canvas.toBlob((made) => done(made ?? file), 'image/jpeg', 0.92));
  } catch {
    return file;
  }
}

/** Return the files of a drop, those of dropped folders at any depth. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  return entries.length ? (await Promise.all(entries.map(filesOf))).flat() : [...transfer.files];
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader(), found = [];
  for (;;) {  // a reader gives a hundred at a time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    for (const each of some) if (!each.name.startsWith('.')) found.push(...await filesOf(each));
  }
}
