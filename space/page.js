() => {
  // The canvas has no tool that draws at first, and loses it when it is cleared: take up the brush, the second tool.
  window.takeBrush = () => {
    const brush = document.querySelector('#sketch .toolbar-wrap button:nth-of-type(2)');
    brush ? brush.click() : setTimeout(takeBrush, 100);
  };
  takeBrush();
  // Gradio names no example: give each picture and its button the name of its file.
  const describe = () => document.querySelectorAll('#examples img[alt=""]').forEach((img) => {
    img.alt = img.src.match(/([^/]+)[.]png$/)[1];
    img.closest('button').setAttribute('aria-label', img.alt);
  });
  new MutationObserver(describe).observe(document.body, {childList: true, subtree: true});
  // Search when the hand rests. Only one search runs at a time, the first example's too, so that an earlier drawing's
  // photos never replace a later one's. The canvas' own change event would search at once, and keep drawings in the
  // server's memory.
  const sketch = document.querySelector('#sketch');
  let rest, again, asking = true;
  window.ask = () => { again = asking; if (!asking) { asking = true; document.querySelector('#stroke').click(); } };
  window.answered = () => { asking = false; if (again) ask(); };
  const wait = () => { clearTimeout(rest); rest = setTimeout(ask, 300); };
  sketch.addEventListener('pointerdown', ({target}) => {
    clearTimeout(rest);
    if (target.closest('canvas')) addEventListener('pointerup', wait, {once: true});
  });
  sketch.addEventListener('click', ({target}) => target.closest('.top-panel') && wait());
}
