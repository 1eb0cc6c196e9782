"""Elements of the page."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from bufpool.report_text import clean

_STATES = ("unallocated", "freed", "evicted", "closed", "allocated")


def style_of(state: str) -> str:
    """The class that colours a state."""
    return f"s-{state if state in _STATES else 'other'}"


def add(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
    """A new child. class_ stands for class, view_box for viewBox, and so on."""
    names = {"class_": "class", "view_box": "viewBox", "ratio": "preserveAspectRatio", "label": "aria-label"}
    element = SubElement(parent, tag, {names.get(name, name): clean(value) for name, value in attributes.items()})
    element.text = text
    return element
