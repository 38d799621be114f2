// The Space's endpoints, which programs use too. An error carries the sentence that says what was wrong.

// With this the server tells one visitor's photos from another's.
const session = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const NO_ANSWER = 'The server does not answer: try again in a moment.';

/** Keep this visitor's session open; when the page goes, the server deletes what belongs to it. */
export function stay() { new EventSource(`gradio_api/heartbeat/${session}`); }

/** Call an endpoint with its inputs in their order; return its first output, or the second where a state is first. */
export async function call(name, data) {
  const answer = await send(`gradio_api/run/${name}`, {
    method: 'POST',
    headers: {'Content-Type': 'application/json'},
    body: JSON.stringify({data, session_hash: session}),
  });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error || NO_ANSWER);
  return body.data.at(-1);
}

/** Upload files; return them as an endpoint takes them. */
export async function upload(files) {
  const form = new FormData();
  for (const [name, content] of files) form.append('files', content, name);
  const answer = await send('gradio_api/upload', {method: 'POST', body: form});
  if (answer.status === 413) throw new Error('A file is larger than 15 MB: make it smaller.');
  if (!answer.ok) throw new Error(NO_ANSWER);
  const paths = await answer.json();
  return paths.map((path, i) => ({path, orig_name: files[i][0], meta: {_type: 'gradio.FileData'}}));
}

async function send(...request) {
  try {
    return await fetch(...request);
  } catch {
    throw new Error(NO_ANSWER);
  }
}
