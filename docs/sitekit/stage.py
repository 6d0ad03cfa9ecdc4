"""All sources of the site: what is written by hand and what is made, in a folder for Sphinx."""

import re
import shutil
from pathlib import Path

from tqlearn.lab.stored import usable

from . import lessons, rooms, tables, terms
from .links import Links

MAP = ("| | lesson | minutes to read | CPU-seconds to run |", "|---|---|---|---|")
BY_HAND = """
    methods names export post_training sweep workbench language_models architectures
    add_your_architecture
"""
PAGES = {  # what is written by hand in docs/ and leads to each other -> where it stands
    **{f"{name}.md": f"{name}.md" for name in BY_HAND.split()},
    "results.md": "results/index.md",
}
TITLES = {"glossary.md": "glossary", "instructors.md": "For teachers <instructors>"}


def tree(pages: list[str]) -> str:
    """Return what tells Sphinx which pages come below this one."""
    return "```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"


class Stage:
    """The sources of one site.

    Args:
        root: the repository.
        folder: where they are written.
        whole: with API and results; else the course alone.

    ``remarks`` collects what the reader of the terminal should know.
    """

    def __init__(self, root: Path, folder: Path, whole: bool = True):
        self.root, self.folder, self.whole = root.resolve(), folder, whole
        self.docs = Path(__file__).parents[1]
        self.remarks: list[str] = []
        self.notebooks = sorted((self.root / "notebooks").glob("[0-9]*.ipynb"))
        self.sheets = {
            self.root / "notebooks" / "glossary.md": "glossary.md",
            self.root / "notebooks" / "README.md": "instructors.md",
        }
        self.sheets = {file: name for file, name in self.sheets.items() if file.is_file()}
        names = {file: f"notebooks/{file.name}" for file in self.notebooks} | self.sheets
        measured = sorted((self.root / "benchmarks" / "results").glob("*.json")) if whole else []
        names |= {file: f"results/{file.stem}.md" for file in measured}
        names |= {self.root / "docs" / name: PAGES[name] for name in PAGES if whole}
        self.links = Links(
            self.root,
            names
            | {
                self.root / "README.md": "index.md",
                self.root / "benchmarks" / "README.md": "results/index.md",
            },
        )

    def write(self, name: str, text: str, source: Path | None = None) -> None:
        """Write a page; links of made or copied Markdown are read as those of ``source``."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.links.rewrite(text, source) if source else text, "utf-8")

    def course(self) -> None:
        """Write the first page, the lessons and the sheets beside them.

        Raises:
            ValueError: a line for everything that is wrong with them.
        """
        wrong, pages, rows = [], [], [*MAP]
        if not self.notebooks:
            raise ValueError(f"there is no notebook in {self.root / 'notebooks'}")
        for path in self.notebooks:
            try:
                nb, remark = usable(path, lessons.pictured)
                said = lessons.facts(path, nb)
                self.write(f"notebooks/{path.name}", lessons.staged(nb, path, self.links))
            except ValueError as error:
                wrong.append(str(error) if path.name in str(error) else f"{path.name}: {error}")
                continue
            self.remarks += [f"{path.name} {remark}"] if remark else []
            row = "| {number} | [{title}](/notebooks/{name}) {promise} | {minutes} | {seconds} |"
            rows.append(row.format(number=path.stem[:2], name=path.name, **said))
            pages.append(f"{path.stem[:2]} {said['title']} <notebooks/{path.stem}>")
        for file, name in self.sheets.items():
            try:
                text = self.links.rewrite(file.read_text("utf-8"), file)
                self.write(name, terms.glossary(text) if name == "glossary.md" else text)
            except ValueError as error:
                wrong.append(str(error))
        if wrong:
            raise ValueError("\n".join(wrong))
        self.write("course.md", self.by_hand("course.md") + "\n".join(rows) + "\n\n" + tree(pages))

    def by_hand(self, name: str) -> str:
        """Return a page of ``docs/``, without lines that lead to pages which this site lacks."""
        lines = (self.docs / name).read_text("utf-8").splitlines(keepends=True)
        return "".join(
            line
            for line in lines
            if all((self.folder / page).is_file() for page in re.findall(r"\]\(/([^)]+)\)", line))
        )

    def reference(self) -> None:
        """Write the pages of the API."""
        import tqlearn

        pages = rooms.pages(tqlearn)
        for name, text in pages.items():
            self.write(f"api/{name}.md", text)
        text = self.by_hand("api.md")
        rows = [f"* {{doc}}`/api/{name}`: {page.split(chr(10))[2]}" for name, page in pages.items()]
        self.write("api/index.md", text + "\n".join(rows) + "\n\n" + tree(list(pages)))

    def results(self) -> None:
        """Write the pages of what was measured, and the one that helps to choose."""
        own = self.root / "benchmarks" / "README.md"
        pages = tables.pages(self.root)
        for name, text in pages.items():
            file = f"results/{name}.json"  # its own page leads to the file
            carried = self.links.carry(self.root / "benchmarks" / file)
            self.write(f"results/{name}.md", text.replace(f"({file})", f"({carried})"), own)
        table = self.links.rewrite(tables.recipes(self.root), own)
        rows = "\n".join(f"* {{doc}}`/results/{name}`" for name in pages)
        below = "names", "export", "post_training", "sweep", "workbench", "language_models"
        below = dict.fromkeys(below, "")
        below["results"] = f"\n{rows}\n\n{tree(list(pages))}"
        below["methods"] = "\n\n" + tree(["workbench", "language_models", "add_your_architecture"])
        for name, rest in below.items():
            text = self.links.rewrite(self.by_hand(f"{name}.md"), self.docs / f"{name}.md")
            self.write(PAGES[f"{name}.md"], text.replace("<!-- recipes -->", table) + rest)
        text = self.by_hand("architectures.md")
        self.write("architectures.md", tables.architectures(self.root, text))

    def architectures(self) -> None:
        """Write the page of what block pruning and compaction know."""
        from tqlearn.sparsity import ANATOMIES

        name = "add_your_architecture.md"
        text = self.links.rewrite(self.by_hand(name), self.root / "README.md")
        self.write(name, text.replace("<!-- families -->", tables.families(ANATOMIES)))

    def all(self) -> None:
        """Write everything.

        Raises:
            ValueError: a line for everything that is wrong.
        """
        self.course()
        pages = ["course"]
        if self.whole:
            self.reference()
            self.results()
            self.architectures()
            pages += [
                "Which method <methods>",
                "Today's names <names>",
                "Which model <architectures>",
                "Other engines <export>",
                "Without training <post_training>",
                "Search for a plan <sweep>",
                "results/index",
                "api/index",
            ]
        pages += [TITLES[name] for name in self.sheets.values()]
        self.write("index.md", self.by_hand("index.md") + tree(pages))
        for name, file in self.links.carried.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, self.folder / name)
