'use strict';

// ---- Videos: a base64 block becomes a video when it comes into view, and is given back when it leaves.
// (A browser allows a few dozen players at a time, and some phones play no video from a data: address.)

const groups = [...document.querySelectorAll('.films')];
const speed = document.getElementById('speed');
const loop = document.getElementById('loop');
const instant = document.getElementById('instant');
const playButton = document.getElementById('play');
let playing = !matchMedia('(prefers-reduced-motion: reduce)').matches;
let holdAt = null; // a share of the length, where all stand still

const addresses = {};
function address(id) {
  if (!addresses[id]) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
    addresses[id] = URL.createObjectURL(new Blob([bytes], { type: 'video/mp4' }));
  }
  return addresses[id];
}

const videosOf = (group) => [...group.querySelectorAll('video')];
const runs = (group) => playing && !group.paused;

// Where a clip has no video at the rate chosen, the nearest one there is.
function sourceOf(video) {
  const sources = JSON.parse(video.dataset.sources);
  if ('' in sources) return sources[''];
  const rate = Number(document.querySelector('input[name=rate]:checked').value);
  const nearest = Object.keys(sources).reduce((a, b) => (Math.abs(b - rate) < Math.abs(a - rate) ? b : a));
  return sources[nearest];
}

function place(video) {
  if (holdAt !== null && video.duration) video.currentTime = holdAt * Math.max(0, video.duration - 0.001);
}

function start(group) {
  for (const video of videosOf(group)) {
    if (holdAt === null) video.currentTime = 0;
    // A player that was taken away while it was starting says so; there is nothing to do about it.
    if (runs(group)) video.play().catch(() => {});
  }
}

function load(group) {
  for (const video of videosOf(group)) {
    const id = sourceOf(video);
    if (video.dataset.shown === id) continue;
    video.dataset.shown = id;
    video.src = address(id);
  }
  start(group);
}

function unload(group) {
  for (const video of videosOf(group)) {
    delete video.dataset.shown;
    video.removeAttribute('src');
    video.load();
  }
}

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    entry.target.inView = entry.isIntersecting;
    if (entry.isIntersecting) load(entry.target);
    else unload(entry.target);
  }
}, { rootMargin: '200px' });

for (const group of groups) {
  group.paused = false;
  for (const video of videosOf(group)) {
    video.addEventListener('loadedmetadata', () => place(video));
    video.addEventListener('click', () => hold(group));
    // Videos of a group begin each round together, whatever their rates.
    video.addEventListener('ended', () => {
      if (loop.checked && runs(group) && videosOf(group).every((other) => other.ended || other.error)) start(group);
    });
  }
  group.querySelector('.hold').addEventListener('click', () => hold(group));
  observer.observe(group);
}

const inView = () => groups.filter((group) => group.inView);

function label(group) {
  const button = group.querySelector('.hold');
  button.textContent = runs(group) ? '❚❚' : '▶';
  button.ariaLabel = `${runs(group) ? 'Pause' : 'Play'}: ${group.querySelector('h4').textContent}`;
}

function resume(group) {
  for (const video of videosOf(group)) {
    if (!runs(group)) video.pause();
    else if (!video.ended) video.play().catch(() => {});
  }
  if (runs(group) && videosOf(group).every((video) => video.ended || video.error)) start(group);
}

function hold(group) {
  if (!playing) {
    // One group plays on its own while all the others stand still.
    for (const other of groups) other.paused = true;
    group.paused = false;
    setPlaying(true);
  } else {
    group.paused = !group.paused;
    label(group);
    resume(group);
  }
}

function setPlaying(value) {
  playing = value;
  if (value) holdAt = null;
  playButton.textContent = value ? 'Pause all' : 'Play all';
  groups.forEach(label);
  inView().forEach(resume);
}

playButton.addEventListener('click', () => {
  for (const group of groups) group.paused = false;
  setPlaying(!playing);
});
for (const input of document.querySelectorAll('input[name=rate]')) {
  input.addEventListener('change', () => inView().forEach(load));
}
speed.addEventListener('change', () => {
  for (const video of document.querySelectorAll('video')) {
    video.defaultPlaybackRate = video.playbackRate = Number(speed.value);
  }
});
loop.addEventListener('change', () => inView().forEach(resume));
instant.addEventListener('input', () => {
  if (playing) setPlaying(false);
  holdAt = Number(instant.value);
  inView().forEach((group) => videosOf(group).forEach(place));
});
document.querySelector('.bar').addEventListener('submit', (event) => event.preventDefault());
setPlaying(playing);

// ---- Tables: a click on a heading sorts by it, another one the other way round.

for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const numeric = !head.classList.contains('text');
      const before = head.ariaSort;
      const down = before ? before === 'ascending' : numeric;
      heads.forEach((other) => other.removeAttribute('aria-sort'));
      head.ariaSort = down ? 'descending' : 'ascending';
      const key = (row) => (numeric ? Number(row.cells[place].dataset.value ?? NaN) : row.cells[place].textContent);
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (!numeric) return down ? y.localeCompare(x) : x.localeCompare(y);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // empty cells last
        return down ? y - x : x - y;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    });
  });
}
