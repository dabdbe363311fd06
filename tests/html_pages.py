"""A reader for the pages that tools write; it fails where an element is not closed."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Addresses, ids, pictures, the data of the cards, and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.cards, self.text, self.open = [], [], "", []
        self.ids, self.images = [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "img" and "src" in values:
            self.images.append(values)
        if tag == "article":
            self.cards.append({k: v for k, v in values.items() if k.startswith("data-")})
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data
