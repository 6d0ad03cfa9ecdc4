"""LaTeX to MathML, which browsers draw without a script; what cannot be converted is an error.

latex2mathml does the work, but it drops what it does not know without a word: an unknown command
is printed as it stands, an unknown environment loses its name. So its answer is read again here.
It also writes MathML 3, of which browsers draw the part called MathML Core; the rest becomes CSS.
"""

import re
import unicodedata
from xml.etree import ElementTree

try:
    from latex2mathml.converter import convert
except ImportError as error:
    raise ImportError(
        "the site draws its formulas with latex2mathml, which is not installed: "
        "pip install -e '.[docs]'"
    ) from error

ENVIRONMENTS = {"array", "cases", "split", "align*", "smallmatrix"}
ENVIRONMENTS |= {f"{letter}matrix" for letter in ("", "p", "b", "B", "v", "V")}
SAME = {"aligned": "split"}  # drawn alike, and only the second is known to latex2mathml
STYLES = {  # of words
    "bold": "font-weight:bold",
    "italic": "font-style:italic",
    "monospace": "font-family:monospace",
}


def mathml(latex: str, display: bool = False) -> str:
    """Return a formula as a ``<math>`` element; its LaTeX stays in the attribute ``alttext``.

    Args:
        latex: the formula without its dollar signs.
        display: True for a formula on a line of its own.

    Raises:
        ValueError: the formula cannot be converted.

    >>> mathml("w/s")
    '<math display="inline" alttext="w/s"><mrow><mi>w</mi><mo>/</mo><mi>s</mi></mrow></math>'
    """
    source = re.sub(
        r"\\(begin|end)\{(\w+)\}", lambda m: rf"\{m[1]}{{{SAME.get(m[2], m[2])}}}", latex
    )
    for name in re.findall(r"\\begin\{([^}]*)\}", source):
        if name not in ENVIRONMENTS:
            raise _refusal(latex, f"the environment {name!r} is unknown")
    try:
        markup = convert(source.strip(), display="block" if display else "inline")
        root = ElementTree.fromstring(re.sub(r' xmlns="[^"]*"', "", markup))
    except ElementTree.ParseError as error:
        raise _refusal(latex, "there is a & outside a table") from error
    except Exception as error:  # those of latex2mathml have no common class
        raise _refusal(latex, f"{type(error).__name__} {error}".strip()) from error
    root.set("alttext", " ".join(latex.split()))
    for element in root.iter():
        _check(element, latex)
        _roman_words(element)
        _letters(element, latex)
        _functions(element)
        _core(element)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _refusal(latex: str, why: str) -> ValueError:
    return ValueError(
        f"the formula ${latex.strip()}$ cannot be converted to MathML: {why}; "
        "write it with commands that latex2mathml knows"
    )


def _check(element: ElementTree.Element, latex: str) -> None:
    """Refuse what latex2mathml has passed on unread."""
    text = element.text or ""
    if element.tag == "mtext":
        if "$" in text:
            raise _refusal(latex, "there is a formula inside \\text")
        if text == "\u29f8":
            raise _refusal(latex, "\\not cannot be drawn; \\neq, \\notin and the like can")
    elif "\\" in text:
        raise _refusal(latex, f"the command {text} is unknown")
    elif text == "}" and element.tag == "mi":
        raise _refusal(latex, "there is a } too many")
    if element.get("linebreak"):
        raise _refusal(latex, "there is a line break \\\\ outside an environment")


def _roman_words(element: ElementTree.Element) -> None:
    """Make ``\\mathrm{clamp}`` one word instead of five letters, for eyes and screen readers."""
    letters = list(element)
    if len(letters) > 1 and all(
        child.tag == "mi" and child.get("mathvariant") == "normal" for child in letters
    ):
        letters[0].text = "".join(child.text or "" for child in letters)
        for child in letters[1:]:
            element.remove(child)


def _functions(element: ElementTree.Element) -> None:
    """Set log, max, rank ... as TeX does: a thin space to either side, none before a bracket."""
    for child, follower in zip(element, [*element[1:], None], strict=False):
        name = child.text or ""
        if child.tag in ("mi", "mo") and len(name) > 1 and name.isascii() and name.isalpha():
            if child.get("mathvariant") is None:
                bracket = follower is not None and follower.text in ("(", "[")
                child.tag = "mo"
                child.set("lspace", "0.167em")
                child.set("rspace", "0" if bracket else "0.167em")


def _letters(element: ElementTree.Element, latex: str) -> None:
    """Write bold, script, double-struck ... letters as the characters that Unicode has for them."""
    variant = element.get("mathvariant", "normal")
    if variant == "normal" or variant == "italic" and element.tag != "mtext":
        return
    del element.attrib["mathvariant"]
    if element.tag == "mtext" and variant in STYLES:
        element.set("style", STYLES[variant])
    else:
        element.text = "".join(_styled(char, variant, latex) for char in element.text or "")


def _styled(char: str, variant: str, latex: str) -> str:
    plain = unicodedata.name(char).replace("LATIN ", "").replace("GREEK ", "")
    name = f"{variant.upper().replace('-', ' ')} {plain.replace('LETTER ', '')}"
    name = name.replace("DOUBLE STRUCK", "DOUBLE-STRUCK").replace("SANS SERIF", "SANS-SERIF")
    black = name.replace("FRAKTUR", "BLACK-LETTER")  # a few letters are older than the rest,
    for known in (f"MATHEMATICAL {name}", name, black):  # and were named before it
        try:
            return unicodedata.lookup(known)
        except KeyError:
            continue
    raise _refusal(latex, f"there is no {variant} {char}")


def _core(element: ElementTree.Element) -> None:
    """Say in CSS what MathML Core has no attribute for, and keep bars as low as they were meant."""
    if side := element.attrib.pop("columnalign", None):
        # the second is for Chromium, whose text-align does not move what stands in a cell
        element.set("style", f"text-align:{side};text-align:-webkit-{side}")
    if element.attrib.pop("columnspacing", "").startswith("0em"):  # the columns of aligned touch
        element.set("class", "aligned")
    if element.get("width") == "negativethinmathspace":
        element.set("width", "-0.167em")
    if not any(child.tag == "mtable" for child in element):
        for child in element:
            if child.text in ("|", "\u2016"):  # \mid is another character and keeps its space
                child.attrib.update(stretchy=child.get("stretchy", "false"), lspace="0", rspace="0")
