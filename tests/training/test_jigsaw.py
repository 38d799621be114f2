"""The jigsaw: the set of permutations against a naive search, permuted images by hand, the solver's shapes."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from modeling_splip.training.jigsaw import (
    JigsawSolver,
    permutation_set,
    permute_tiles,
    smallest_distance,
    two_permutations,
)


def distance(a, b):
    return sum(x != y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("count", [1, 5, 10, 23])
def test_permutations_are_chosen_farthest_first(count):
    identity = tuple(range(4))
    chosen = [identity]
    left = [permutation for permutation in itertools.permutations(range(4)) if permutation != identity]
    for _ in range(count):
        best = max(left, key=lambda one: min(distance(one, other) for other in chosen))  # the first of equals
        chosen.append(best)
        left.remove(best)
    assert [tuple(row) for row in permutation_set(2, count).tolist()] == chosen[1:]


@pytest.mark.parametrize(("grid", "count"), [(2, 23), (3, 100), (3, 1000), (4, 30)])
def test_permutations(grid, count):
    found = permutation_set(grid, count)
    tiles = list(range(grid * grid))
    assert found.shape == (count, grid * grid) and found.dtype == torch.long
    rows = [tuple(row) for row in found.tolist()]
    assert all(sorted(row) == tiles for row in rows)
    assert tuple(tiles) not in rows and len(set(rows)) == count


def test_permutations_differ_as_much_as_possible():
    """Any two of a hundred, and each and the identity, differ in 6 of 9 places: the same as greedily from all 9!."""
    rows = [list(range(9)), *permutation_set(3, 100).tolist()]
    assert min(distance(a, b) for a, b in itertools.combinations(rows, 2)) == 6


def test_permutations_are_fixed_by_the_seed():
    assert torch.equal(permutation_set(3, 50), permutation_set(3, 50))
    assert not torch.equal(permutation_set(3, 50), permutation_set(3, 50, seed=1))


@pytest.mark.parametrize(("grid", "count", "possible"), [(2, 24, 23), (1, 1, 0), (3, 0, 362879)])
def test_impossible_sets(grid, count, possible):
    with pytest.raises(ValueError, match=f"{grid} x {grid} grid has {possible} permutations.*asked {count}"):
        permutation_set(grid, count)


def test_permuted_numbered_image():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    found = permute_tiles(image, torch.tensor([[3, 0, 1, 2]]), 2)
    # Tiles row by row: 0 = [[0, 1], [4, 5]], 1 = [[2, 3], [6, 7]], 2 = [[8, 9], [12, 13]], 3 = [[10, 11], [14, 15]].
    expected = [[10, 11, 0, 1], [14, 15, 4, 5], [2, 3, 8, 9], [6, 7, 12, 13]]
    assert found[0, 0].tolist() == expected


def test_every_image_gets_its_own_permutation():
    images = torch.randn(3, 3, 6, 9)
    permutations = permutation_set(3, 3)
    found = permute_tiles(images, permutations, 3)
    for image, permutation, result in zip(images, permutations, found, strict=True):
        for place, source in enumerate(permutation.tolist()):
            (row, column), (y, x) = divmod(place, 3), divmod(source, 3)
            tile = image[:, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3]
            assert torch.equal(result[:, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3], tile)


def test_inverse_permutation_gives_the_image_back():
    images, permutations = torch.randn(4, 3, 12, 12), permutation_set(3, 4)
    back = permute_tiles(permute_tiles(images, permutations, 3), permutations.argsort(dim=1), 3)
    assert torch.equal(back, images)


@pytest.mark.parametrize(("height", "width"), [(8, 10), (9, 7), (224, 224)])
def test_sizes_that_do_not_divide(height, width):
    """Resized to the next multiple of the grid, permuted there, and resized back."""
    images, permutations = torch.randn(2, 3, height, width), permutation_set(3, 2)
    target = (math.ceil(height / 3) * 3, math.ceil(width / 3) * 3)
    large = F.interpolate(images, target, mode="bilinear", align_corners=False)
    expected = F.interpolate(
        permute_tiles(large, permutations, 3), (height, width), mode="bilinear", align_corners=False
    )
    found = permute_tiles(images, permutations, 3)
    assert found.shape == images.shape and torch.equal(found, expected)


def test_flat_tiles_survive_a_size_that_does_not_divide():
    numbered = torch.arange(9.0).reshape(1, 1, 3, 3)
    image = F.interpolate(numbered, (100, 100), mode="nearest")
    found = permute_tiles(image, torch.tensor([[8, 7, 6, 5, 4, 3, 2, 1, 0]]), 3)
    centres = found[0, 0, 16::33, 16::33][:3, :3]
    torch.testing.assert_close(centres, torch.arange(8.0, -1, -1).reshape(3, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dimension", [16, 12, 7])
def test_solver(dimension):
    solver = JigsawSolver(dimension, 23)
    assert len(solver.encoder.layers) == 2  # the paper's
    image, permuted = torch.randn(5, dimension), torch.randn(5, dimension)
    logits = solver(image, permuted)
    assert logits.shape == (5, 23)
    # Which of the two is permuted matters, a row's neighbours do not.
    assert (solver(permuted, image) - logits).abs().max() > 1e-3
    torch.testing.assert_close(solver(image[:1], permuted[:1]), logits[:1], atol=1e-5, rtol=0)


def test_solver_leaves_autocast():
    solver, x = JigsawSolver(16, 10), torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(solver(x, x.flip(0)), solver(x, x.flip(0)).float())
        found = solver(x, x.flip(0))
    torch.testing.assert_close(found, solver(x, x.flip(0)), atol=1e-6, rtol=0)


def test_two_permutations_are_two():
    draws = torch.arange(5000)
    first, second = two_permutations(draws, 23)
    assert (first != second).all() and {0, 22} <= set(first.tolist()) and set(second.tolist()) == set(range(23))
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(pairs) == 23 * 22  # every ordered pair occurs


def test_smallest_distance_by_hand():
    assert smallest_distance(torch.tensor([[1, 2, 3, 0], [1, 2, 0, 3]])) == 2  # 4 and 3 to the identity, 2 between them
    assert smallest_distance(torch.tensor([[1, 0, 2, 3], [2, 3, 1, 0]])) == 2  # the first is near the identity


def test_the_docs_tell_how_similar_permutations_may_be():
    page = (Path(__file__).resolve().parents[2] / "docs" / "model.md").read_text("utf-8")
    head, _, values = page[page.index("| grid, ") :].split("\n")[:3]
    cases = [tuple(map(int, cell.split(","))) for cell in head.replace("\\|", "").strip("| ").split("|")[1:]]
    for (grid, count), told in zip(cases, values.strip("| ").split("|")[1:], strict=True):
        rows = [range(grid * grid), *permutation_set(grid, count).tolist()]
        pairs = itertools.combinations(rows[:40] if count > 300 else rows, 2)
        smallest = min(sum(a != b for a, b in zip(*pair, strict=True)) for pair in pairs)
        assert smallest_distance(permutation_set(grid, count)) == int(told) <= smallest
        assert count > 300 or smallest == int(told)
    assert len(cases) > 5
