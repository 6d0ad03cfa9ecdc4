"""The frame that every page of the book shares, the page with the course map, and the style."""

from jinja2 import Environment
from pygments.formatters import HtmlFormatter

GENERATOR = "tqlearn.lab.book"
LIGHT, DARK = "xcode", "github-dark"  # both keep every token readable on our backgrounds (4.5:1)
_ENV = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)

PAGE = _ENV.from_string("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="tqlearn.lab.book">
<title>{{ page.title }}{% if page.title != "tqlearn" %} · tqlearn{% endif %}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
</head>
<body>
<a class="skip" href="#text">Skip to the text</a>
<header><nav aria-label="Book">
<a href="index.html">tqlearn</a>
{% for sheet in sheets %}
<a href="{{ sheet.name }}"{% if sheet is sameas page %} aria-current="page"{% endif %}>{{
 "Glossary" if sheet.name == "glossary.html" else "For instructors" }}</a>
{% endfor %}
{% if download %}
<a class="right" href="{{ download }}" download>Download this notebook</a>
{% endif %}
</nav></header>
<div class="columns">
{% if page.headings | length > 2 %}
<nav class="beside" aria-label="On this page"><details><summary>On this page</summary><ul>
{% for anchor, heading in page.headings %}
<li><a href="#{{ anchor }}">{{ heading | safe }}</a></li>
{% endfor %}
</ul></details></nav>
{% endif %}
<main id="text"{% if page.name == "glossary.html" %} class="glossary"{% endif %}>
{{ page.body | safe }}
</main>
</div>
<footer>
<nav aria-label="Pages">
{% if before %}
<a rel="prev" href="{{ before.name }}"><small>Before</small> {{ before.number }} {{
 "The course" if before.name == "index.html" else before.title }}</a>
{% endif %}
{% if after %}
<a rel="next" class="right" href="{{ after.name }}"><small>Next</small> {{ after.number }} {{
 after.title }}</a>
{% endif %}
</nav>
<p>tqlearn {{ version }}. Nothing on these pages is fetched from a network.</p>
</footer>
</body>
</html>
""")

INDEX = _ENV.from_string("""\
<h1>tqlearn</h1>
<p class="promise">{{ about }}</p>
<p>These pages are the notebooks of the course as they were last run, to read anywhere. To move the
sliders, do the exercises and change the code, run them: <code>make lab</code> opens the course in
JupyterLab. {{ chapters | length }} notebooks, {{ chapters | sum("minutes") }} minutes to read,
{{ chapters | sum("cpu_seconds") }} CPU-seconds to run.</p>
<h2 id="the-course">The course</h2>
<table class="map">
<thead><tr><th scope="col">No.</th><th scope="col">Notebook</th><th scope="col">Minutes to
read</th><th scope="col">CPU-seconds to run</th></tr></thead>
<tbody>
{% for chapter in chapters %}
<tr><td>{{ chapter.number }}</td><td><a href="{{ chapter.name }}">{{ chapter.title }}</a>
{{ chapter.promise | safe }}</td><td>{{ chapter.minutes }}</td><td>{{ chapter.cpu_seconds }}</td>
</tr>
{% endfor %}
</tbody>
</table>
""")

CSS = """\
:root { color-scheme: light dark; --page: #ffffff; --ink: #24292f; --quiet: #57606a;
  --line: #d5dae0; --code: #f6f7f9; --link: #0b5cad; --row: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --page: #14171c; --ink: #e3e6ea; --quiet: #a3abb5;
  --line: #3a414b; --code: #1b1e24; --link: #79b8ff; --row: #1b1e24; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 17px/1.6 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
a { color: var(--link); }
header, footer, .columns { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header nav, footer nav { display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; padding: .8rem 0; }
header { border-bottom: 1px solid var(--line); font-size: .95rem; }
header a { text-decoration: none; }
header a:first-child { font-weight: 700; }
header a:hover, header a[aria-current] { text-decoration: underline; }
.right { margin-left: auto; text-align: right; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--page); padding: .3rem .8rem; }
.columns { padding-top: 1rem; padding-bottom: 2rem; }
main { min-width: 0; max-width: 55rem; margin: 0 auto; overflow-wrap: break-word; }
main > :is(p, ul, ol, blockquote):not(:has(> .formula)) { max-width: 46rem; }
.beside { font-size: .88rem; line-height: 1.4; max-width: 55rem; margin: 0 auto; }
.beside summary { color: var(--quiet); font-weight: 600; }
.beside ul { list-style: none; padding: 0; margin: .6rem 0 0; }
.beside li { margin: 0 0 .55rem; }
.beside details { margin: 0 0 1rem; }
@media (min-width: 74rem) {
  .columns:has(> .beside) { display: grid; grid-template-columns: 13rem minmax(0, 55rem);
    column-gap: 3rem; }
  .columns > main { grid-column: 2; margin: 0; }
  .beside { position: sticky; top: 1rem; align-self: start; max-height: calc(100vh - 2rem);
    overflow-y: auto; margin: 1.2rem 0 0; }
  .beside details { border: 0; padding: 0; }
  .beside summary { list-style: none; pointer-events: none; }
  .beside details::details-content { content-visibility: visible; block-size: auto; }
}
h1, h2, h3 { line-height: 1.25; margin: 2.4rem 0 .8rem; }
h1 { font-size: 2rem; margin-top: 1rem; }
h2 { font-size: 1.45rem; border-top: 1px solid var(--line); padding-top: 1.4rem; }
h3 { font-size: 1.15rem; }
.mark { margin-left: .4em; opacity: 0; text-decoration: none; font-weight: 400; }
:is(h2, h3, h4):hover .mark, .mark:focus { opacity: 1; }
.promise { font-size: 1.15rem; }
.wide { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: .95rem; line-height: 1.45; }
th, td { padding: .4rem .8rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { border-bottom-width: 2px; }
table:not(:has(thead)) td:first-child { min-width: 5.5rem; }
.map { width: 100%; }
.map td:first-child { color: var(--quiet); }
.map td:nth-child(n+3), .map th:nth-child(n+3) { text-align: right; }
.map td p { margin: .2rem 0 .4rem; }
.map td a { font-weight: 600; }
code, pre, kbd { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; font-size: .875em; }
:not(pre) > code { background: var(--code); padding: .1em .3em; border-radius: 4px; }
kbd { border: 1px solid var(--line); border-radius: 4px; padding: .05em .35em; }
pre { margin: 0; padding: .8rem 1rem; overflow-x: auto; line-height: 1.45; font-size: .82rem; }
pre code { font-size: inherit; }
.highlight { background: var(--code); border-radius: 6px; margin: 1.2rem 0 0; }
.cell { margin: 1.2rem 0; }
.output > pre { border-left: 3px solid var(--line); margin: .5rem 0 0 2px; padding: .3rem 1rem; }
.output > .stderr { border-left-color: #d55e00; }
.paper { color-scheme: light; background: #fff; color: #24292f; }
.html { overflow-x: auto; margin: .5rem 0; border-radius: 6px; }
@media screen and (prefers-color-scheme: dark) { .html { padding: 0 .5rem; } }
figure { margin: 1rem 0; }
figcaption { font-size: .88rem; color: var(--quiet); }
img { max-width: 100%; height: auto; display: block; border-radius: 6px; }
math { font-family: "STIX Two Math", "Latin Modern Math", "Cambria Math", "DejaVu Math TeX Gyre",
  math; font-size: 1.08em; }
.formula { display: block; overflow-x: auto; overflow-y: hidden; padding: .4rem 0; }
math .aligned > mtr > mtd, math.aligned > mtr > mtd { padding-left: 0; padding-right: 0; }
blockquote { margin: 1.2rem 0; padding: .1rem 1rem; border-left: 4px solid var(--line); }
details { margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem 1rem; }
summary { cursor: pointer; }
.glossary h3 { margin: 1.3rem 0 .1rem; font-size: 1.02rem; }
.glossary h3 + p { margin-top: 0; }
footer { border-top: 1px solid var(--line); font-size: .95rem; color: var(--quiet); }
footer small { display: block; color: var(--quiet); }
footer a { max-width: 45%; text-decoration: none; }
footer a:hover { text-decoration: underline; }
@media (max-width: 40rem) {
  body { font-size: 16px; }
  h1 { font-size: 1.65rem; }
  main > :is(p, ul, ol):has(math) { overflow-x: auto; overflow-y: hidden; }
  h2 { font-size: 1.3rem; }
  pre { font-size: .78rem; padding: .7rem .8rem; }
  .map thead { position: absolute; left: -99rem; }
  .map tr { display: block; border-bottom: 1px solid var(--line); padding: .8rem 0; }
  .map td { display: inline; border: 0; padding: 0; font-size: .95rem; }
  .map td:first-child { margin-right: .5rem; }
  .map td:nth-child(3)::after { content: " minutes to read, "; }
  .map td:nth-child(4)::after { content: " CPU-seconds to run"; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --ink: #000; --quiet: #444; --line: #ccc;
    --code: #f6f7f9; --link: #000; }
  body { font-size: 10.5pt; }
  header, footer, .beside, .mark, .skip { display: none; }
  .columns:has(> .beside) { display: block; }
  main { max-width: none; }
  pre { white-space: pre-wrap; }
  .wide, .formula, .html { overflow: visible; }
  h1, h2, h3 { break-after: avoid; }
  figure, tr, .output > pre, .formula { break-inside: avoid; }
}
"""


def style_sheet() -> str:
    """Return the style of all pages, with the colors of code for light and for dark screens."""
    light = HtmlFormatter(style=LIGHT).get_style_defs(".highlight")
    dark = HtmlFormatter(style=DARK).get_style_defs(".highlight")
    dark = f"@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    return f"{light}\n{dark}{CSS}"
