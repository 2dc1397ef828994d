"""Navigation from the folders themselves, so that a new page needs no entry: only the order of the parts is set here."""

from mkdocs.structure.nav import Navigation, Page, Section

ORDER = ["index.md", "tutorial", "how-to", "concepts", "reference", "decisions.md", "experiments.md"]


def on_nav(nav: Navigation, **_: object) -> Navigation:
    """Sort the top level by ``ORDER``; what is not named there comes last."""

    def place(item: object) -> int:
        if isinstance(item, Page):
            name = item.file.src_uri
        elif isinstance(item, Section):
            first = next(child for child in item.children if isinstance(child, Page))
            name = first.file.src_uri.split("/")[0]
        else:
            name = ""
        return ORDER.index(name) if name in ORDER else len(ORDER)

    nav.items.sort(key=place)
    return nav
