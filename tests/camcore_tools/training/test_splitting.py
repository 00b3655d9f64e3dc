"""Which pictures are validated with: shares, repeatability, and what must not be on both sides."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from camcore_tools.training.layout import PictureFile
from camcore_tools.training.splitting import Division, changed_copies, divide, same_bytes
from hypothesis import given, settings
from hypothesis import strategies as st


def files_of(*counts: int) -> list[PictureFile]:
    return [
        PictureFile(Path(f"{label}/{n}.jpg"), f"{label}/{n}.jpg", label)
        for label, count in enumerate(counts)
        for n in range(count)
    ]


def named(*names: str) -> list[PictureFile]:
    """The first letter is the class."""
    return [PictureFile(Path(name), name, ord(name[0])) for name in names]


def divided(files: list[PictureFile], contents: list[int] | None = None, share: float = 0.9, seed: int = 0) -> Division:
    return divide(files, contents or list(range(len(files))), share=share, seed=seed)


class TestShares:
    @pytest.mark.parametrize(
        ("count", "share", "trained"),
        [(10, 0.9, 9), (75, 0.7, 53), (5, 0.5, 3), (2, 0.9, 1), (2, 0.1, 1), (3, 0.99, 2), (3, 0.01, 1), (1, 0.1, 1)],
    )
    def test_each_class_gives_its_share_and_two_pictures_go_one_to_each_side(
        self, count: int, share: float, trained: int
    ) -> None:
        division = divided(files_of(count, 20), share=share)
        assert (division.train < count).sum() == trained
        assert (division.validation < count).sum() == count - trained

    @given(
        counts=st.lists(st.integers(1, 30), min_size=1, max_size=5), share=st.floats(0.001, 0.999), seed=st.integers()
    )
    @settings(max_examples=60, deadline=None)
    def test_every_picture_is_on_one_side(self, counts: list[int], share: float, seed: int) -> None:
        files = files_of(*counts)
        division = divided(files, share=share, seed=seed)
        both = np.concatenate([division.train, division.validation])
        assert sorted(both.tolist()) == list(range(len(files)))
        assert len(division.copies) == 0
        held = Counter(files[n].label for n in division.validation)
        for label, count in enumerate(counts):
            assert abs(held[label] - (1 - share) * count) <= 1
            assert 1 <= held[label] < count or count == 1


class TestRepeatable:
    def test_the_seed_decides(self) -> None:
        files = files_of(30, 30)
        first, again, other = (divided(files, seed=seed).validation.tolist() for seed in (0, 0, 1))
        assert first == again
        assert first != other

    def test_it_is_the_same_on_every_system_and_in_every_version(self) -> None:
        """Written down once: whoever changes this changes what networks were validated with."""
        names = [files_of(12, 12)[n].name for n in divided(files_of(12, 12), share=0.75).validation]
        assert names == ["0/0.jpg", "0/2.jpg", "0/11.jpg", "1/1.jpg", "1/6.jpg", "1/7.jpg"]

    def test_the_order_of_the_files_does_not_matter(self) -> None:
        files = files_of(20, 20)
        mixed = random.Random(0).sample(files, len(files))
        held = {files[n].name for n in divided(files).validation}
        assert {mixed[n].name for n in divided(mixed).validation} == held

    def test_a_mac_that_decomposes_names_divides_alike(self) -> None:
        composed, decomposed = ([f"a/{n}\u00e9.jpg" for n in range(20)], [f"a/{n}e\u0301.jpg" for n in range(20)])
        assert divided(named(*composed)).validation.tolist() == divided(named(*decomposed)).validation.tolist()

    def test_a_new_picture_moves_few(self) -> None:
        before = files_of(100)
        after = [*before, PictureFile(Path("new.jpg"), "0/new.jpg", 0)]
        held = [{files[n].name for n in divided(files).validation} for files in (before, after)]
        assert len(held[0] ^ held[1]) <= 2


class TestLeaks:
    @pytest.mark.parametrize("seed", range(10))
    def test_files_of_the_same_bytes_stay_together(self, seed: int) -> None:
        contents = [n // 2 for n in range(40)]
        division = divided(files_of(40), contents, share=0.7, seed=seed)
        assert {contents[n] for n in division.train}.isdisjoint(contents[n] for n in division.validation)
        assert len(division.validation) == 12

    @pytest.mark.parametrize("seed", range(10))
    def test_a_picture_of_two_classes_is_trained_on(self, seed: int) -> None:
        contents = [*range(10), 3, *range(11, 20)]
        division = divided(files_of(10, 10), contents, share=0.5, seed=seed)
        assert {3, 10} <= set(division.train.tolist())
        assert len(division.validation) > 4

    @pytest.mark.parametrize("seed", range(10))
    def test_changed_copies_go_with_their_picture_and_are_not_validated_with(self, seed: int) -> None:
        names = [f"a/{n}{copy}.jpg" for n in range(10) for copy in ("", "~1", "~2", "~12")]
        division = divided(named(*names), share=0.7, seed=seed)
        held = {names[n] for n in division.validation}
        assert len(held) == 3
        assert not any("~" in name for name in held)
        assert {names[n].partition("~")[0] for n in division.copies} == {name.removesuffix(".jpg") for name in held}
        assert len(division.copies) == 9
        assert len(division.train) == 28

    def test_what_is_a_changed_copy(self) -> None:
        copies = ("a/x~1.png", "a/x~1~2.jpg", "a/x~7~8.jpg")
        others = ("a/y~1.jpg", "b/x~1.jpg", "a/in/x~3.jpg", "a/x~.jpg", "a/x~b.jpg")
        assert changed_copies(named("a/x.jpg", *copies, *others)) == [(1, 0), (2, 1), (3, 0)]

    def test_short_names_of_an_old_system_are_no_copies(self) -> None:
        assert changed_copies(named(*(f"a/PICTUR~{n}.JPG" for n in range(1, 9)))) == []

    def test_copies_of_copies_of_the_same_bytes(self) -> None:
        """Chains: 0 and its copy 1, whose bytes 2 has as well, whose copy is 3."""
        division = divided(named("a/p.jpg", "a/p~1.jpg", "a/q.jpg", "a/q~1.jpg", "a/z.jpg"), [0, 1, 1, 3, 4], share=0.5)
        assert {0, 1, 2, 3} <= set(division.train.tolist()) or division.train.tolist() == [4]


class TestSameBytes:
    def test_only_the_bytes_count(self, tmp_path: Path) -> None:
        paths = [tmp_path / str(n) for n in range(6)]
        for path, content in zip(paths, (b"aa", b"ab", b"aa", b"a", b"", b""), strict=True):
            path.write_bytes(content)
        assert same_bytes(paths).tolist() == [0, 1, 0, 2, 3, 3]

    def test_what_is_gone_equals_nothing(self, tmp_path: Path) -> None:
        assert same_bytes([tmp_path / "a", tmp_path / "b"]).tolist() == [0, 1]

    def test_files_of_a_length_of_their_own_are_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for n in range(3):
            (tmp_path / str(n)).write_bytes(b"a" * n)
        monkeypatch.delattr(Path, "open")
        assert same_bytes([tmp_path / str(n) for n in range(3)]).tolist() == [0, 1, 2]

    def test_no_files(self) -> None:
        assert same_bytes([]).tolist() == []
