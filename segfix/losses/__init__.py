"""Training losses, one paper per file, for our trainer and anyone's own."""

from segfix.losses.boundary import BoundaryLoss, boundary_loss
from segfix.losses.dice import DiceLoss, dice_loss
from segfix.losses.epl import (
    EPLLineLoss,
    EPLLoss,
    EPLPointLoss,
    epl_line_loss,
    epl_loss,
    epl_point_loss,
)
from segfix.losses.level_set import LevelSetLoss, level_set_loss
from segfix.losses.segfix import SegFixLoss, segfix_loss, wrong_label_loss
from segfix.losses.semeda import (
    EdgeNetwork,
    SemedaLoss,
    SobelLoss,
    edge_map,
    edge_network_loss,
    semeda_loss,
    sobel_loss,
)

__all__ = [
    "BoundaryLoss",
    "DiceLoss",
    "EPLLineLoss",
    "EPLLoss",
    "EPLPointLoss",
    "EdgeNetwork",
    "LevelSetLoss",
    "SegFixLoss",
    "SemedaLoss",
    "SobelLoss",
    "boundary_loss",
    "dice_loss",
    "edge_map",
    "edge_network_loss",
    "epl_line_loss",
    "epl_loss",
    "epl_point_loss",
    "level_set_loss",
    "segfix_loss",
    "semeda_loss",
    "sobel_loss",
    "wrong_label_loss",
]
