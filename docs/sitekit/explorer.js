// An explorer without a kernel: GRID (tqlearn/lab/grids.py) has what every setting of its controls
// shows; the front end that notebooks have, live.js above, draws it. Plotly comes from the folder
// of this script, and only when a reader moves something: until then the still picture is enough.
const script = document.currentScript;
const box = script.parentElement;
const at = GRID.controls.map((control) => control.at);
const heard = [];
let figure, started;

const model = {
  get: (key) => ({ figure, night: NIGHT, still: "explorer-still" })[key],
  on: (_, listener) => heard.push(listener),
  off() {},
  set() {},
  save_changes() {},
};

// What one setting shows, as `replay` in grids.py puts it together.
function replay() {
  const point = structuredClone(GRID.first);
  for (const { path, by, text, at: places } of GRID.changes) {
    const stops = (axis) => GRID.controls[axis].stops.length;
    let value = GRID.pool[places[by.reduce((place, axis) => place * stops(axis) + at[axis], 0)]];
    if (text) {
      const numbers = value[1].split(" ");
      value = GRID.words[value[0]].replaceAll("\0", () => numbers.shift());
    }
    const node = path.slice(0, -1).reduce((inner, key) => inner[key], point);
    node[path.at(-1)] = value;
  }
  return point;
}

function made(tag, look, ...inside) {
  const element = document.createElement(tag);
  element.className = look;
  element.append(...inside);
  return element;
}

function field(control, axis) {
  const slides = control.kind === "range";
  const input = made(slides ? "input" : "select", "");
  const said = made("output", "", control.stops[control.at]);
  if (slides) Object.assign(input, { type: "range", min: 0, max: control.stops.length - 1 });
  else input.append(...control.stops.map((stop, place) => new Option(stop, place)));
  input.value = control.at;
  input.addEventListener("input", () => {
    at[axis] = Number(input.value);
    said.textContent = control.stops[at[axis]];
    show();
  });
  return made("label", "", `${control.name} `, input, ...(slides ? [" ", said] : []));
}

function load() {
  return new Promise((resolve, reject) => {
    const library = document.createElement("script");
    library.src = new URL("plotly.min.js", script.src);
    Object.assign(library, { onload: resolve, onerror: reject });
    document.head.append(library);
  });
}

function show() {
  const point = replay();
  caption.innerHTML = point.caption;
  figure = JSON.stringify(point.figure);
  started ??= load().then(
    () => render({ model, el: live }),
    () => note.append(" The picture is still that of the first setting: plotly.min.js is missing.")
  );
  for (const listener of heard) listener();
}

const thinned = GRID.controls.filter((control) => control.thinned).map(({ name }) => name);
const fields = made("div", "explorer-fields", ...GRID.controls.map(field));
const caption = made("div", "explorer-caption");
const live = made("div", "explorer-live");
const note = made(
  "em",
  "",
  "Precomputed: this page has every setting ready, and no kernel. In JupyterLab the explorer draws",
  ` from the cells above${thinned.length ? `, with more stops for ${thinned.join(" and ")}` : ""}.`
);
caption.innerHTML = replay().caption;
const before = (image) => image.compareDocumentPosition(box) & Node.DOCUMENT_POSITION_FOLLOWING;
const picture = [...document.querySelectorAll(".cell_output img")].filter(before).at(-1);
picture.classList.add("explorer-still");
picture.before(fields, caption);
picture.after(live);
box.querySelector("p").replaceChildren(note);
