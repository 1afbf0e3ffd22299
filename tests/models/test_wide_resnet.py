"""What is particular to the Wide ResNets: shortcuts without parameters, and which blocks are augmented."""

import pytest
import torch
from torch.nn import functional as F

from aaconv import AttentionAugmentedConv2d, create_model
from aaconv.models.wide_resnet import SPECS, Block


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)], ids=str)
def test_shortcuts_pool_and_append_zeros(size):
    block = Block(4, 10, 2, None, 0.0).double().eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    y = block(x)
    torch.testing.assert_close(y[:, :4], F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False))
    assert not y[:, 4:].any()
    assert y.shape[2:] == tuple(-(-edge // 2) for edge in size)


@pytest.mark.parametrize(
    "name, places", [("aa_wrn28_10", range(12)), ("aa_wrn28_10_first", (0, 4, 8)), ("wrn28_10", ())]
)
def test_augmented_blocks(name, places):
    with torch.device("meta"):
        model = create_model(name)
    blocks = [block for index in (1, 2, 3) for block in model.get_submodule(f"group{index}")]
    assert [i for i, b in enumerate(blocks) if isinstance(b.conv1, AttentionAugmentedConv2d)] == list(places)
    grids = [block.conv1.attention.position.grid[0] for i, block in enumerate(blocks) if i in places]
    assert grids == [(32, 16, 8)[i // 4] for i in places]


def test_an_image_size_sizes_the_tables_and_a_misspelt_cell_is_refused():
    model = create_model("aa_wrn10_2", img_size=(28, 20))
    assert model.group3[0].conv1.attention.position.grid == (7, 5)
    with pytest.raises(TypeError, match="depht"):
        create_model("wrn10_2", depht=16)
    assert SPECS["wrn10_2"].augmented == "none"
