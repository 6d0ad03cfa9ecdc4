"""All sources of the site: what is written by hand and what is made, in a folder for Sphinx."""

import shutil
from pathlib import Path

import nbformat

from . import lessons, rooms, tables, terms
from .links import Links

BY_HAND = ("methods.md", "results.md")
TREE = "```{{toctree}}\n:hidden:{more}\n\n{pages}\n```\n"


def tree(pages: list[str], more: str = "") -> str:
    """Return what tells Sphinx which pages come below this one."""
    return TREE.format(pages="\n".join(pages), more=more)


class Stage:
    """The sources of one site.

    Args:
        root: the repository.
        folder: where they are written.

    ``remarks`` collects what the reader of the terminal should know.
    """

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root.resolve(), folder
        self.docs = Path(__file__).parents[1]
        self.remarks: list[str] = []
        self.notebooks = sorted((self.root / "notebooks").glob("[0-9]*.ipynb"))
        self.sheets = {
            self.root / "notebooks" / "glossary.md": "glossary.md",
            self.root / "notebooks" / "README.md": "instructors.md",
        }
        self.sheets = {file: name for file, name in self.sheets.items() if file.is_file()}
        names = {file: f"notebooks/{file.name}" for file in self.notebooks} | self.sheets
        self.links = Links(self.root, names | {self.root / "README.md": "index.md"})

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
        wrong, rows = [], ["| | lesson | minutes to read | CPU-seconds to run |", "|---|---|---|---|"]
        if not self.notebooks:
            raise ValueError(f"there is no notebook in {self.root / 'notebooks'}")
        for path in self.notebooks:
            try:
                nb, remark = lessons.stored(path)
                said = lessons.facts(path, nb)
                self.write(f"notebooks/{path.name}", lessons.staged(nb, path, self.links))
            except (ValueError, nbformat.reader.NotJSONError) as error:
                wrong.append(str(error))
                continue
            self.remarks += [remark] if remark else []
            row = "| {number} | [{title}](/notebooks/{name}) {promise} | {minutes} | {seconds} |"
            rows.append(row.format(number=path.stem[:2], name=path.name, **said))
        for file, name in self.sheets.items():
            try:
                text = self.links.rewrite(file.read_text("utf-8"), file)
                self.write(name, terms.glossary(text) if name == "glossary.md" else text)
            except ValueError as error:
                wrong.append(str(error))
        if wrong:
            raise ValueError("\n".join(wrong))
        pages = [f"notebooks/{path.stem}" for path in self.notebooks]
        course = (self.docs / "course.md").read_text("utf-8")
        self.write("course.md", course + "\n".join(rows) + "\n\n" + tree(pages))

    def reference(self) -> None:
        """Write the pages of the API."""
        import tqlearn

        pages = rooms.pages(tqlearn)
        for name, text in pages.items():
            self.write(f"api/{name}.md", text)
        text = (self.docs / "api.md").read_text("utf-8")
        rows = [f"* {{doc}}`/api/{name}`: {page.split(chr(10))[2]}" for name, page in pages.items()]
        self.write("api/index.md", text + "\n".join(rows) + "\n\n" + tree(list(pages)))

    def results(self) -> None:
        """Write the pages of what was measured, and the one that helps to choose."""
        pages = tables.pages(self.root)
        for name, text in pages.items():
            self.write(f"results/{name}.md", text, self.root / "README.md")
        table = tables.recipes(self.root)
        text = (self.docs / "results.md").read_text("utf-8").replace("<!-- recipes -->", table)
        rows = "\n".join(f"* {{doc}}`/results/{name}`" for name in pages)
        self.write("results/index.md", f"{text}\n{rows}\n\n{tree(list(pages))}", self.root / "README.md")
        text = (self.docs / "methods.md").read_text("utf-8").replace("<!-- recipes -->", table)
        self.write("methods.md", text, self.root / "README.md")

    def all(self, whole: bool) -> None:
        """Write everything; ``whole`` adds the API and the results to the course.

        Raises:
            ValueError: a line for everything that is wrong.
        """
        self.course()
        pages = ["course"]
        if whole:
            self.reference()
            self.results()
            pages += ["methods", "results/index", "api/index"]
        pages += [Path(name).stem for name in self.sheets.values()]
        self.write("index.md", (self.docs / "index.md").read_text("utf-8") + tree(pages))
        for name, file in self.links.carried.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, self.folder / name)
