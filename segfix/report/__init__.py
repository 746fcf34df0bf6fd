"""Pictures that show what refinement did."""

PANELS = {
    "preds": ("preds",),
    "refined": ("refined",),
    "labels": ("labels",),
    "offsets": ("offsets",),
    "errors": ("preds", "labels"),
    "changes": ("preds", "refined"),
}
"""The panels of `segfix show` and the maps that each is drawn from."""
