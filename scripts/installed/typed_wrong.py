"""Mistakes of a user, each on a marked line: a type checker finds them all, so our types are not lost on the way."""

import aaconv

aaconv.list_models(3)  # wrong
aaconv.create_model("aa_resnet10s", num_classes="two")  # wrong
aaconv.AttentionAugmentedConv2d(8, 16, 3, key_channels="16", value_channels=8)  # wrong
