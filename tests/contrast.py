"""How texts of a page stand out, by WCAG's relative luminance."""

from __future__ import annotations

from typing import Any

MEASURE = """([texts, visible]) => {
  const luminance = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!colour.endsWith(", 0)")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const ratios = [...document.querySelectorAll(texts)].filter(
    e => !e.closest(".stage") && (!visible || e.checkVisibility())
  ).map(e => {
    const style = getComputedStyle(e);
    const colour = e.namespaceURI.includes("svg") ? style.fill : style.color;
    const [a, b] = [luminance(colour), luminance(ground(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
  return [luminance(getComputedStyle(document.body).backgroundColor), Math.min(...ratios)];
}"""


def measure_contrast(page: Any, texts: str, *, visible: bool = False) -> tuple[float, float]:
    """The luminance of a page, and the least contrast of the texts that lie on its own colours.

    Args:
        page: Of playwright.
        texts: Selector of the elements.
        visible: Whether to pass over those that aren't seen.
    """
    luminance, contrast = page.evaluate(MEASURE, [texts, visible])
    return luminance, contrast
