"""Random views: right shapes and ranges, and what each of them changes."""

import pytest
import torch

from pretraining.small_clip_views import (
    cut_mix,
    drawing_views,
    drop_strokes,
    edge_maps,
    edge_views,
    photo_views,
    plain_drawings,
    rub_out,
    sample,
    shrink,
    thicken,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_views_have_the_towers_size_and_range():
    photos = torch.rand(5, 3, 64, 64)
    numbers = torch.randint(0, 4, (5, 128, 128), dtype=torch.uint8)
    for views, channels in ((photo_views(photos), 3), (edge_views(photos), 1), (drawing_views(numbers), 1)):
        assert views.shape == (5, channels, 64, 64)
        assert views.min() >= 0 and views.max() <= 1


def test_edge_map_of_a_square_is_its_outline():
    photo = torch.zeros(1, 3, 64, 64)
    photo[:, :, 20:44, 20:44] = 1.0
    ink = (1 - edge_maps(photo))[0, 0] > 0.2
    inside, outside = ink[26:38, 26:38], torch.cat([ink[:16].flatten(), ink[48:].flatten(), ink[:, :16].flatten()])
    assert not inside.any() and not outside.any()
    assert ink[20:44, 18:22].any(1).all() and ink[18:22, 20:44].any(0).all()


def test_a_flat_photo_has_no_edges_and_no_nan():
    assert torch.equal(edge_maps(torch.full((2, 3, 64, 64), 0.5)), torch.ones(2, 1, 64, 64))


def test_strokes_are_dropped_whole():
    numbers = torch.arange(6, dtype=torch.uint8).repeat_interleave(8)[None, None].expand(200, 4, 48).contiguous()
    left = drop_strokes(numbers, 0.3)
    strokes = left.view(200, 4, 6, 8)
    assert not strokes[:, :, 0].any()  # paper
    assert torch.equal(strokes.any((1, 3)), strokes.all(3).all(1))
    assert 0.6 < strokes[:, 0, 1:, 0].float().mean() < 0.8


def test_a_drawing_never_loses_all_of_its_ink():
    unknown = torch.ones(50, 2, 2, dtype=torch.uint8)  # strokes are not known
    assert drop_strokes(unknown, 0.9).all()
    one = torch.full((50, 2, 2), 3, dtype=torch.uint8)
    assert drop_strokes(one, 0.9).all()


def test_lines_become_thicker_by_two_or_four_pixels():
    ink = torch.zeros(100, 1, 32, 32)
    ink[:, :, 16] = 1.0
    widths = thicken(ink)[:, 0, :, 5].sum(1)
    assert set(widths.tolist()) == {1.0, 3.0, 5.0}


def test_rubbing_out_only_takes_ink_away():
    ink = torch.ones(100, 1, 64, 64)
    left = rub_out(ink)
    assert set(left.unique().tolist()) == {0.0, 1.0}
    assert 0.85 < left.mean() < 0.99 and left.flatten(1).mean(1).min() > 0.7


def test_bending_moves_ink_and_no_bending_with_no_chance_is_a_mirror():
    ink = torch.zeros(8, 1, 64, 64)
    ink[:, :, 32] = 1.0
    bent = sample(ink, 64, (1.0, 1.0), 0.0, bend=0.1, padding="zeros")
    straight = sample(ink, 64, (1.0, 1.0), 0.0, padding="zeros")

    def rows_of(line):  # the line's height in each column
        return (line[:, 0] * torch.arange(64.0)[None, :, None]).sum(1) / line[:, 0].sum(1)

    assert rows_of(straight)[:, 8:56].std(1).max() < 1e-3
    assert rows_of(bent)[:, 8:56].std(1).min() > 0.1


def test_half_of_the_views_are_mirrored():
    left = torch.zeros(400, 1, 16, 16)
    left[..., :8] = 1.0
    views = sample(left, 16, (1.0, 1.0), 0.0)
    mirrored = (views[..., :8].mean((1, 2, 3)) < 0.5).float().mean()
    assert 0.4 < mirrored < 0.6


def test_shrinking_keeps_thin_lines_dark():
    ink = torch.zeros(1, 1, 8, 8)
    ink[:, :, 3] = 1.0
    assert torch.equal(shrink(ink)[0, 0, :, 0], torch.tensor([0.0, 1.0, 0.0, 0.0]))


def test_plain_drawings_are_always_the_same():
    numbers = torch.zeros(2, 128, 128, dtype=torch.uint8)
    numbers[:, 60, 10:100] = 7
    first = plain_drawings(numbers)
    assert torch.equal(first, plain_drawings(numbers)) and first.shape == (2, 1, 64, 64)
    assert first[:, :, 30, 10].max() == 0 and first[:, :, 10].min() == 1


def test_cut_mix_pastes_the_share_that_it_tells():
    photos = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 64, 64)
    shares = set()
    for _ in range(40):
        mixed, own, rows = cut_mix(photos, 4)
        shares.add(own)
        assert torch.equal(mixed[:4], photos[:4]) and rows[:4].tolist() == [0, 1, 2, 3]
        assert sorted(rows.tolist()) == list(range(10))
        for k in range(4, 10):  # the plain way: count the pixels
            if rows[k] != k:
                assert (mixed[k, 0] == k).float().mean().item() == pytest.approx(own)
                assert ((mixed[k, 0] == k) | (mixed[k, 0] == rows[k])).all()
    assert 1.0 in shares and len(shares) > 5 and min(shares) >= 0.5
