"""How attention learns where things are: relative tables, sine waves, coordinate channels, or not at all.

Letters: B batch, C channels, H W grid of the attention map, K key channels a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import UninitializedParameter

from aaconv._checks import expect_one_of

Tables = tuple[Tensor | None, Tensor | None]


class NoPosition2d(nn.Module):
    """No positions: attention is blind to where a value stands. Also the interface of the other encodings."""

    extra_channels = 0  # channels that ``encode`` appends

    def encode(self, x: Tensor) -> Tensor:
        """The input of queries, keys and values, [B, C, H, W] -> [B, C + extra_channels, H, W]."""
        return x

    def tables(self, grid: tuple[int, int]) -> Tables:
        """Relative tables for a map of ``grid``: ([2H-1, K], [2W-1, K]) or (None, None)."""
        return None, None


class SinePosition2d(NoPosition2d):
    """Sine and cosine of row and column added to the attention branch's input.

    Channel 4f + (0, 1, 2, 3) carries sin(row w), cos(row w), sin(column w), cos(column w) with
    w = 10000^(-f / (C/4)); the last group is cut where C is no multiple of 4. Positions are in cells.

    Source: the one-dimensional form of Vaswani et al. 2017 for each axis. How Bello et al. 2019 injected it is not
    printed; this is our reading.
    """

    def encode(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        return x + sine_position(channels, height, width, x.device).to(x.dtype)


class CoordPosition2d(NoPosition2d):
    """Row and column in [-1, 1] as two further channels of the attention branch's input (CoordConv, Liu et al. 2018).

    How Bello et al. 2019 injected it is not printed; this is our reading.
    """

    extra_channels = 2

    def encode(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        rows, columns = (_from_end_to_end(edge, x.device).to(x.dtype) for edge in (height, width))
        shape = (batch, 1, height, width)
        return torch.cat([x, columns.expand(shape), rows[:, None].expand(shape)], dim=1)


class RelativePosition2d(NoPosition2d):
    """Learned vectors of vertical and horizontal offsets, shared by all heads of a layer.

    Parameters ``height`` [2H-1, K] and ``width`` [2W-1, K]: row t is the offset t - (H-1) or t - (W-1) in cells, key
    minus query. Drawn with standard deviation K ** -0.5.

    The tables serve every grid: a smaller map uses their middle rows, which is exact; a larger one uses them
    interpolated linearly, the largest offset on the largest. ``resize_grid`` makes that permanent, and state dicts
    saved at another grid load by the same rule.

    Args:
        channels: K.
        grid: (H, W), or None to take it from the first input.

    Source: Bello et al. 2019, arXiv:1904.09925, section 3.2. Other grids than the trained one are our addition.
    """

    def __init__(self, channels: int, grid: tuple[int, int] | None = None, device: Any = None, dtype: Any = None):
        super().__init__()
        self.channels = channels
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.height = UninitializedParameter(**options)
        self.width = UninitializedParameter(**options)
        if grid is not None:
            self._materialize(grid)

    @property
    def grid(self) -> tuple[int, int] | None:
        """(H, W) that the tables were built for; None before the first input."""
        if isinstance(self.height, UninitializedParameter):
            return None
        return (len(self.height) + 1) // 2, (len(self.width) + 1) // 2

    def tables(self, grid: tuple[int, int]) -> Tables:
        if self.grid is None:
            if torch.compiler.is_compiling():
                raise RuntimeError("position tables have no size yet: pass grid=(H, W) or run one eager forward first")
            self._materialize(grid)
        return fit_table(self.height, grid[0]), fit_table(self.width, grid[1])

    @torch.no_grad()
    def resize_grid(self, grid: tuple[int, int]) -> None:
        """Refit the tables to ``grid`` in place. Build the optimiser, or reset its state, afterwards."""
        if self.grid is None:
            self._materialize(grid)
        else:
            self.height.data = fit_table(self.height, grid[0]).clone()
            self.width.data = fit_table(self.width, grid[1]).clone()

    def reset_parameters(self) -> None:
        """Draw both tables anew."""
        for table in (self.height, self.width):
            nn.init.normal_(table, std=self.channels**-0.5)

    def extra_repr(self) -> str:
        return f"{self.channels}, grid={self.grid}"

    def _materialize(self, grid: tuple[int, int]) -> None:
        for table, size in ((self.height, grid[0]), (self.width, grid[1])):
            table.materialize((2 * size - 1, self.channels))
        self.reset_parameters()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.grid is not None:  # before the first input there is nothing to save
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved: dict[str, Any] = {name: state_dict.get(prefix + name) for name in ("height", "width")}
        if all(self._fits(table) for table in saved.values()):
            state_dict = dict(state_dict)
            if self.grid is None:
                self._materialize(((len(saved["height"]) + 1) // 2, (len(saved["width"]) + 1) // 2))
            for name, table in saved.items():
                state_dict[prefix + name] = fit_table(table, (len(getattr(self, name)) + 1) // 2)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _fits(self, table: Any) -> bool:
        """Whether ``table`` is a table of offsets of K channels, at whatever grid."""
        if not isinstance(table, Tensor) or isinstance(table, UninitializedParameter) or table.dim() != 2:
            return False
        return len(table) % 2 == 1 and table.shape[1] == self.channels


def _from_end_to_end(size: int, device: Any) -> Tensor:
    """``size`` numbers from -1 to 1; -1 alone for one. ``linspace`` would fix the size of an exported program."""
    cells = torch.arange(size, device=device)
    return cells * (2 / cells.max().clamp(min=1)) - 1


POSITIONS = {
    "relative": RelativePosition2d,
    "sine": SinePosition2d,
    "coordconv": CoordPosition2d,
    "none": NoPosition2d,
}


def create_position(name: str, channels: int, grid: tuple[int, int] | None, device: Any, dtype: Any) -> NoPosition2d:
    """The encoding called ``name``; only "relative" has parameters (K = ``channels``) and a ``grid``."""
    expect_one_of("position", name, POSITIONS)
    if name == "relative":
        return RelativePosition2d(channels, grid, device=device, dtype=dtype)
    return POSITIONS[name]()


def fit_table(table: Tensor, size: int) -> Tensor:
    """A table of offsets [2S-1, K] for a map of ``size`` cells along its axis: [2*size-1, K].

    Smaller maps take the middle rows; larger ones interpolate linearly, end on end, so that offset 0 stays in the
    middle.
    """
    if torch.compiler.is_exporting():  # the map may be smaller or larger when the program runs
        return _fit_either_way(table, size)
    rows = 2 * size - 1
    surplus = len(table) - rows
    if surplus >= 0:
        return table[surplus // 2 : surplus // 2 + rows]
    return F.interpolate(table.T[None], size=rows, mode="linear", align_corners=True)[0].T


def _fit_either_way(table: Tensor, size: int) -> Tensor:
    """``fit_table`` without a branch: the same rows for smaller maps, the same lines between them for larger ones."""
    reach = len(table) // 2
    offset = torch.arange(2 * size - 1, device=table.device) - (size - 1)
    place = reach + offset * (reach / offset.abs().max().clamp(min=max(reach, 1)))
    below = place.floor().long().clamp(0, 2 * reach)
    above = (below + 1).clamp(max=2 * reach)
    return torch.lerp(table[below], table[above], (place - below).to(table.dtype)[:, None])


def sine_position(channels: int, height: int, width: int, device: Any = None) -> Tensor:
    """The waves of ``SinePosition2d`` in float32, [channels, height, width]."""
    groups = -(-channels // 4)
    wave = 10000.0 ** (-torch.arange(groups, device=device) / max(groups, 1))
    rows = torch.arange(height, device=device)[:, None] * torch.ones(width, device=device)
    columns = torch.ones(height, device=device)[:, None] * torch.arange(width, device=device)
    angle_h, angle_w = rows * wave[:, None, None], columns * wave[:, None, None]
    waves = torch.stack([angle_h.sin(), angle_h.cos(), angle_w.sin(), angle_w.cos()], dim=1)
    return waves.flatten(0, 1)[:channels]
