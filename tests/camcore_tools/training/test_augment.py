"""Random changes of a batch: the geometry against SciPy, and what must not change."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from camcore_tools.training import augment
from camcore_tools.training.augment import Augmentation, augmented
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from camcore import InputError

FULL = Augmentation()


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=seeded(7), dtype=torch.float64).to(dtype)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rewritten(image: NDArray[Any], degrees: float, right: float, down: float, mirrored: bool) -> NDArray[Any]:
    """One (H, W) plane in pixels about the centre, with SciPy; in float64."""
    height, width = image.shape
    if mirrored:
        image = image[:, ::-1]
    angle = np.deg2rad(degrees)
    turn_back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # rows, then columns
    centre = (np.array([height, width]) - 1) / 2
    shifted = np.array([down * height, right * width])
    offset = centre - turn_back @ (centre + shifted)
    return ndimage.affine_transform(image.astype(np.float64), turn_back, offset, order=1, mode="reflect")


def drawn(policy: Augmentation, count: int, seed: int) -> list[tuple[float, float, float, bool]]:
    """What the same generator decides for each image."""
    numbers = torch.rand(4, count, generator=seeded(seed), dtype=torch.float64).numpy().T
    return [
        ((2 * a - 1) * policy.rotation, (2 * r - 1) * policy.shift, (2 * d - 1) * policy.shift, policy.flip and m < 0.5)
        for m, a, r, d in numbers
    ]


class TestGeometry:
    @pytest.mark.parametrize("shape", [(24, 24), (17, 31), (40, 9)])
    @pytest.mark.parametrize(
        "policy",
        [FULL, Augmentation(90, 0, False), Augmentation(0, 0.5, False), Augmentation(180, 1.0, True)],
        ids=["usual", "turned", "shifted", "far"],
    )
    def test_it_is_that_of_scipy(self, shape: tuple[int, int], policy: Augmentation) -> None:
        images = noise(12, 2, *shape, dtype=torch.float64)
        found = augmented(images, seeded(3), policy).numpy()
        for image, plane, change in zip(found, images.numpy(), drawn(policy, 12, 3), strict=True):
            expected = np.stack([rewritten(channel, *change) for channel in plane])
            np.testing.assert_allclose(image, expected, atol=1e-9)

    @pytest.mark.parametrize(("degrees", "turns"), [(90.0, 1), (-90.0, -1), (180.0, 2), (0.0, 0)])
    def test_quarter_turns_are_exact_and_counter_clockwise(self, degrees: float, turns: int) -> None:
        images = noise(1, 3, 10, 10, dtype=torch.float64)
        zero = torch.zeros(1, dtype=torch.float64)
        where = augment._where_from(torch.deg2rad(zero + degrees), zero, zero, zero > 0, 1.0)
        np.testing.assert_allclose(
            augment._sampled(images, where).numpy(), np.rot90(images.numpy(), turns, axes=(2, 3)), atol=1e-12
        )

    def test_a_shift_goes_right_and_down_by_its_share_of_the_side(self) -> None:
        image = torch.zeros(1, 1, 20, 40, dtype=torch.float64)
        image[0, 0, 5, 10] = 1
        zero = torch.zeros(1, dtype=torch.float64)
        where = augment._where_from(zero, zero + 0.2, zero + 0.1, zero > 0, 0.5)
        moved = augment._sampled(image, where)
        assert np.unravel_index(int(moved.argmax()), (20, 40)) == (7, 18)
        assert float(moved.max()) == pytest.approx(1)

    def test_what_comes_in_is_the_image_mirrored_at_its_edge(self) -> None:
        image = torch.arange(8.0, dtype=torch.float64).expand(1, 1, 8, 8)
        zero = torch.zeros(1, dtype=torch.float64)
        moved = augment._sampled(image, augment._where_from(zero, zero + 0.25, zero, zero > 0, 1.0))
        np.testing.assert_allclose(moved[0, 0, 0].numpy(), [1, 0, 0, 1, 2, 3, 4, 5], atol=1e-12)

    def test_strips_give_what_the_whole_gives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        images = noise(3, 3, 33, 20, dtype=torch.float64)
        whole = augmented(images, seeded(0), FULL)
        monkeypatch.setattr(augment, "_AT_ONCE", 3 * 20 * 7)
        np.testing.assert_allclose(augmented(images, seeded(0), FULL).numpy(), whole.numpy(), atol=1e-12)

    def test_mirroring_alone_mixes_no_pixels(self) -> None:
        images = noise(40, 3, 5, 7)
        found = augmented(images, seeded(0), Augmentation(0, 0, True))
        mirrored = [bool(torch.equal(f, i.flip(-1))) for f, i in zip(found, images, strict=True)]
        kept = [bool(torch.equal(f, i)) for f, i in zip(found, images, strict=True)]
        assert mirrored == [not k for k in kept]
        assert 10 <= sum(mirrored) <= 30

    @given(
        policy=st.builds(Augmentation, st.floats(0, 180), st.floats(0, 1), st.booleans()),
        shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)),
        seed=st.integers(0, 2**32),
    )
    @settings(max_examples=60, deadline=None)
    def test_values_stay_between_those_of_the_image(
        self, policy: Augmentation, shape: tuple[int, int, int, int], seed: int
    ) -> None:
        images = noise(*shape)
        found = augmented(images, seeded(seed), policy)
        assert found.shape == images.shape
        low, high = images.amin((2, 3)), images.amax((2, 3))
        assert bool((found.amin((2, 3)) >= low - 1e-5).all())
        assert bool((found.amax((2, 3)) <= high + 1e-5).all())


class TestPromises:
    def test_the_same_tensor_where_nothing_changes(self) -> None:
        images, generator = noise(2, 3, 8, 8), seeded(0)
        assert augmented(images, generator, Augmentation.none()) is images

    def test_the_seed_decides_and_the_global_generator_is_left_alone(self) -> None:
        images, state = noise(4, 3, 16, 16), torch.get_rng_state()
        first, again, other = (augmented(images, seeded(s), FULL) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), state)

    def test_one_kind_of_change_does_not_decide_another(self) -> None:
        """The generator is as far on afterwards, and turns by the same angles, without shifts and mirrors."""
        assert [c[0] for c in drawn(Augmentation(20, 0, False), 5, 0)] == [c[0] for c in drawn(FULL, 5, 0)]
        states = []
        for policy in (FULL, Augmentation(20, 0, False), Augmentation(0, 0, True)):
            generator = seeded(5)
            augmented(noise(3, 1, 4, 4), generator, policy)
            states.append(generator.get_state())
        assert all(torch.equal(state, states[0]) for state in states)

    def test_the_images_are_not_written_to(self) -> None:
        images = noise(2, 3, 8, 8)
        before = images.clone()
        augmented(images, seeded(0), FULL)
        assert torch.equal(images, before)

    def test_the_number_of_threads_does_not_matter(self) -> None:
        images, before = noise(8, 3, 32, 32), torch.get_num_threads()
        found = []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found.append(augmented(images, seeded(0), FULL))
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(other, found[0]) for other in found)

    def test_channels_last_stays(self) -> None:
        images = noise(2, 3, 16, 16)
        found = augmented(images.to(memory_format=torch.channels_last), seeded(0), FULL)
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found, augmented(images, seeded(0), FULL), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_sampled_in_single(self, dtype: torch.dtype) -> None:
        images = noise(2, 3, 16, 16).to(dtype)
        found = augmented(images, seeded(0), FULL)
        assert found.dtype == dtype
        assert torch.equal(found, augmented(images.float(), seeded(0), FULL).to(dtype))

    def test_no_images(self) -> None:
        assert augmented(torch.empty(0, 3, 8, 8), seeded(0), FULL).shape == (0, 3, 8, 8)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_on_cuda_the_changes_are_the_same(self) -> None:
        images = noise(4, 3, 32, 32)
        found = augmented(images.cuda(), seeded(0), FULL)
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), augmented(images, seeded(0), FULL), atol=1e-4, rtol=0)
        on_device = torch.Generator("cuda").manual_seed(0)
        assert augmented(images.cuda(), on_device, FULL).shape == images.shape


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"rotation": -1}, "rotation is -1; expected degrees to both sides, 0 to 180"),
            ({"rotation": 181}, "rotation is 181; expected degrees to both sides, 0 to 180"),
            ({"rotation": float("nan")}, "rotation is nan; expected degrees"),
            ({"rotation": "20"}, "rotation is '20'; expected degrees"),
            ({"rotation": True}, "rotation is True; expected degrees"),
            ({"shift": 1.2}, "shift is 1.2; expected a share of the side, 0 to 1"),
            ({"shift": None}, "shift is None; expected a share of the side, 0 to 1"),
            ({"flip": 1}, "flip is 1; expected True or False"),
        ],
    )
    def test_a_policy(self, arguments: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match="^" + re.escape(text)):
            Augmentation(**arguments)

    @pytest.mark.parametrize(
        "images", [torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)], ids=["3-d", "uint8"]
    )
    def test_images(self, images: torch.Tensor) -> None:
        text = f"images to augment are {tuple(images.shape)} {images.dtype}; expected (n, C, H, W) of floating point"
        with pytest.raises(InputError, match=re.escape(text)):
            augmented(images, seeded(0), FULL)
