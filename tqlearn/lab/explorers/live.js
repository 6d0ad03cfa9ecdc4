// Draws an explorer's figure and redraws it when the kernel sends another one. The still picture
// beside it (the CSS class `still`) stays until that has worked. No network: plotly is the page's
// own, or the one that came from the kernel.
let loading;

function plotly(model) {
  if (window.Plotly) return window.Plotly;
  return (loading ??= load(model.get("library")).catch((error) => {
    loading = undefined;
    throw error;
  }));
}

async function load(gzipped) {
  const stream = new Blob([gzipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const code = await new Response(stream).text();
  await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  return window.Plotly;
}

// Whether the page behind an element is dark: themes differ in all but that.
function night(el) {
  for (let node = el; node; node = node.parentElement) {
    const color = getComputedStyle(node).backgroundColor;
    const [red, green, blue, opaque = 1] = (color.match(/[\d.]+/g) ?? []).map(Number);
    if (opaque) return color.startsWith("rgb") && red + green + blue < 384;
  }
  return false;
}

// On a dark page the figure's text, lines and ground have other colors: `night` pairs them.
function spec(model, el) {
  let text = model.get("figure");
  const pairs = night(el) ? Object.entries(JSON.parse(model.get("night"))) : [];
  for (const [day, dark] of pairs) text = text.replaceAll(`"${day}"`, `"${dark}"`);
  return JSON.parse(text);
}

async function draw(model, el) {
  const { data, layout, config } = spec(model, el);
  const library = await plotly(model);
  await library.react(el.querySelector(".tqlearn-live"), data, layout, config);
}

function render({ model, el }) {
  const hide = `.${model.get("still")} { display: none }`;
  el.innerHTML = '<div class="tqlearn-live"></div><style></style>';
  el.style.cssText += "visibility: hidden; height: 0; overflow: hidden; width: 100%";
  let drawn = false;
  let dark;

  async function show() {
    await draw(model, el).catch(() => draw(model, el)); // one retry
    dark = night(el);
    if (drawn) return;
    drawn = true;
    el.querySelector("style").textContent = hide;
    el.style.visibility = el.style.height = el.style.overflow = "";
    model.set("drawn", true);
    model.save_changes();
  }

  const sized = new ResizeObserver(() => {
    if (!el.offsetWidth) return; // not on the page yet, or hidden
    if (drawn) window.Plotly.Plots.resize(el.querySelector(".tqlearn-live"));
    else show();
  });
  const themed = new MutationObserver(() => drawn && night(el) !== dark && show());
  sized.observe(el);
  for (const node of [document.documentElement, document.body])
    themed.observe(node, { attributes: true });
  model.on("change:figure", show);
  return () => {
    sized.disconnect();
    themed.disconnect();
    model.off("change:figure", show);
  };
}

export default { render };
