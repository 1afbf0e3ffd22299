"""Labelled images, uint8: embedded digits, CIFAR, class folders, shards; in memory, read when asked for, or streamed.

Random numbers of training come from run, epoch and image, so that a resumed run sees the same images.
"""
