"""Batches: which images, in what order, on which device, from any batch of an epoch on."""

from itertools import accumulate, chain

import pytest
import torch

from aaconv.data.augmentation import NOISE, epoch_noise, rand_augment
from aaconv.data.shards import load_shards
from aaconv.data.splits import Draw, Split
from aaconv.training.loaders import EpochOrder, Plan, Share, train_loader, val_loader
from tests.data.pictures import make_tar, noise, pair

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create"
)  # more processes than this machine's cores

COUNT = 103
DRAW = Draw(3, 5)


def lay_shards(folder, sizes, name="a", edge=12):
    """Shards of ``sizes`` samples and their pattern; an image's label is its number, so that it tells which it is."""
    ends = list(accumulate(sizes))
    for shard, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        samples = [pair(f"{number:03d}", noise(number, edge, edge), number) for number in range(end - size, end)]
        make_tar(folder / f"{name}-{shard}.tar", chain.from_iterable(samples))
    return str(folder / f"{name}-{{0..{len(sizes) - 1}}}.tar")


def split_of(count=COUNT):
    """Images that differ, labelled with their numbers."""
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Split(images, torch.arange(count))


def taken(loader):
    return [tuple(part.clone() for part in batch) for batch in loader]


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        all(torch.equal(one, other) for one, other in zip(mine, its, strict=True))
        for mine, its in zip(ours, theirs, strict=True)
    )


def loader_of(images, plan, *, rank=0, start=0, workers=0, magnitude=0, draw=DRAW):
    share = Share(rank, plan.world)
    return train_loader(images, plan, draw, share, start=start, workers=workers, magnitude=magnitude)


def test_plan_counts():
    plan = Plan(103, 24, accumulate=3, world=2)
    assert (plan.steps, plan.batches, plan.local) == (4, 12, 4)
    assert Plan(24, 24, 1, 1).steps == 1


@pytest.mark.parametrize(
    "values, message",
    [
        ((103, 13, 2, 2), r"must be a multiple of accumulate x devices = 2 x 2, got 13; 12 would do"),
        ((103, 1, 2, 2), r"must be a multiple of accumulate x devices = 2 x 2, got 1; 4 would do"),
        ((103, 104, 1, 1), "batch_size must be at most the 103 training images, got 104"),
    ],
)
def test_plans_that_do_not_work_out(values, message):
    with pytest.raises(ValueError, match=message):
        Plan(*values)


@pytest.mark.parametrize("parts, world", [(1, 1), (2, 1), (1, 2), (3, 2), (2, 3)])
def test_order_covers_images_once_in_exact_batches(parts, world):
    plan = Plan(COUNT, 24, parts, world)
    ranks = [list(EpochOrder(plan, DRAW, Share(rank, world))) for rank in range(world)]
    assert all(len(batches) == plan.batches for batches in ranks)
    assert all(len(batch) == plan.local for batches in ranks for batch in batches)
    seen = [index for batches in ranks for batch in batches for index in batch]
    assert len(seen) == len(set(seen)) == plan.steps * 24  # ranks are disjoint, too
    assert set(seen) <= set(range(COUNT))


@pytest.mark.parametrize("parts, world", [(2, 1), (1, 2), (3, 2)])
def test_devices_together_take_each_step_as_one_does(parts, world):
    alone = list(EpochOrder(Plan(COUNT, 24, 1, 1), DRAW, Share()))
    plan = Plan(COUNT, 24, parts, world)
    ranks = [list(EpochOrder(plan, DRAW, Share(rank, world))) for rank in range(world)]
    for step, batch in enumerate(alone):
        mine = slice(step * parts, (step + 1) * parts)
        assert {index for batches in ranks for part in batches[mine] for index in part} == set(batch)


def test_order_goes_on_from_any_batch():
    plan, share = Plan(COUNT, 8, 1, 2), Share(1, 2)
    whole = list(EpochOrder(plan, DRAW, share))
    for start in range(plan.batches + 1):
        order = EpochOrder(plan, DRAW, share, start)
        assert list(order) == whole[start:]
        assert len(order) == len(whole) - start


def test_order_depends_on_seed_and_epoch_alone():
    plan = Plan(COUNT, 8, 1, 1)
    orders = [list(EpochOrder(plan, Draw(*draw), Share())) for draw in ((3, 5), (3, 5), (3, 6), (4, 5))]
    torch.manual_seed(7)
    assert list(EpochOrder(plan, DRAW, Share())) == orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]
    left_out = [set(range(COUNT)) - {index for batch in order for index in batch} for order in orders]
    assert left_out[0] != left_out[2]  # images that fill no step get their turn in another epoch


def test_loader_gives_the_rest_and_says_the_whole():
    plan = Plan(COUNT, 8, 1, 1)
    whole = taken(loader_of(split_of(), plan))
    for start in (0, 1, plan.batches - 1, plan.batches):
        loader = loader_of(split_of(), plan, start=start)
        assert len(loader) == plan.batches
        assert same(taken(loader), whole[start:])


@pytest.mark.parametrize("start", [0, 3])
def test_workers_give_the_same_batches(start):
    plan = Plan(COUNT, 24, 2, 1)
    alone, helped = (
        taken(loader_of(split_of(), plan, start=start, workers=workers, magnitude=9)) for workers in (0, 2)
    )
    assert len(alone) == plan.batches - start
    assert same(alone, helped)


def test_what_an_image_gets_is_its_own():
    """Random numbers and RandAugment do not depend on batch, device or place."""
    data, found = split_of(), []
    for parts, world in ((1, 1), (2, 1), (1, 3)):
        plan = Plan(COUNT, 24, parts, world)
        batches = [batch for rank in range(world) for batch in taken(loader_of(data, plan, rank=rank, magnitude=9))]
        images, labels, numbers = (torch.cat(parts) for parts in zip(*batches, strict=True))
        order = labels.argsort()
        found.append((images[order], labels[order], numbers[order]))
    for images, labels, numbers in found:
        assert torch.equal(numbers, epoch_noise(COUNT, DRAW)[labels])
        expected = rand_augment(data.images[labels], [DRAW.generator(label) for label in labels.tolist()], 9)
        assert torch.equal(images, expected)
        assert not torch.equal(images, data.images[labels])
    assert numbers.shape == (96, NOISE)


def test_without_rand_augment_images_stay():
    data = split_of()
    for images, labels, _ in loader_of(data, Plan(COUNT, 24, 1, 1)):
        assert torch.equal(images, data.images[labels])


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once(world, workers):
    data = split_of(23)
    ranks = [taken(val_loader(data, 5, Share(rank, world), workers)) for rank in range(world)]
    labels = [torch.cat([batch[1] for batch in batches]).tolist() for batches in ranks]
    assert sorted(label for mine in labels for label in mine) == list(range(23))
    assert max(map(len, labels)) - min(map(len, labels)) <= 1
    for mine, batches in zip(labels, ranks, strict=True):
        assert mine == sorted(mine)
        assert [len(batch[1]) for batch in batches[:-1]] == [5] * (len(batches) - 1)
        assert all(torch.equal(batch[0], data.images[batch[1]]) for batch in batches)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """31 images in seven shards, each image with a class of its own."""
    folder = tmp_path_factory.mktemp("shards")
    pattern = lay_shards(folder, (5, 3, 6, 4, 5, 3, 5))
    data = load_shards(pattern, pattern, samples=None, classes=31, size=8, crop="inception", flip=True)
    assert data.train.samples == 31
    return data


def of_shards(data, plan, workers, *, rank=0, start=0, draw=DRAW):
    return taken(loader_of(data.train, plan, rank=rank, start=start, workers=workers, draw=draw))


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_shards_go_on_from_any_batch(shards, workers):
    plan = Plan(31, 4, 1, 1)
    whole = of_shards(shards, plan, workers)
    assert len(whole) == plan.batches == 7
    for start in range(1, plan.batches + 1):
        assert same(of_shards(shards, plan, workers, start=start), whole[start:]), start


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_of_two_devices(shards, workers):
    plan = Plan(31, 6, 1, 2)
    ranks = [of_shards(shards, plan, workers, rank=rank) for rank in range(2)]
    seen = [set(torch.cat([batch[1] for batch in batches]).tolist()) for batches in ranks]
    assert not seen[0] & seen[1]
    assert all(len(batch[1]) == 3 for batches in ranks for batch in batches)
    for rank, start in ((0, 1), (1, 3)):
        assert same(of_shards(shards, plan, workers, rank=rank, start=start), ranks[rank][start:])


def test_one_reader_sees_each_image_of_the_shards_at_most_once(shards):
    orders = []
    for draw in (Draw(0, 0), Draw(0, 0), Draw(0, 1), Draw(1, 0)):
        labels = torch.cat([batch[1] for batch in of_shards(shards, Plan(31, 4, 1, 1), 0, draw=draw)]).tolist()
        assert len(labels) == len(set(labels)) == 28
        orders.append(labels)
    assert orders[0] == orders[1]
    assert orders[0] not in orders[2:]


def test_readers_that_run_out_begin_again(shards):
    """Shards differ in size, batches do not: some images come twice, none is given to two readers."""
    plan = Plan(31, 7, 1, 7)
    readers = [torch.cat([batch[1] for batch in of_shards(shards, plan, 0, rank=rank)]).tolist() for rank in range(7)]
    assert all(len(labels) == 4 for labels in readers)
    assert all(not set(readers[one]) & set(readers[two]) for one in range(7) for two in range(one))
    assert sorted(len(set(labels)) for labels in readers) == [3, 3, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_of_the_shards_once(shards, world, workers):
    batches = [
        batch for rank in range(world) for batch in taken(val_loader(shards.val, 4, Share(rank, world), workers))
    ]
    assert sorted(torch.cat([labels for _, labels, _ in batches]).tolist()) == list(range(31))
    assert all(images.shape[1:] == (3, 8, 8) for images, _, _ in batches)


def test_more_readers_than_shards_are_refused(shards):
    with pytest.raises(ValueError, match=r"9 readers \(devices x workers\) need as many shards, got 7; use fewer"):
        of_shards(shards, Plan(31, 3, 1, 3), 3, rank=2)
