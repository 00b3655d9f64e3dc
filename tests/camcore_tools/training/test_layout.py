"""What a folder of class folders may look like, and what is said of every other folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from camcore_tools.training.layout import find_sides, list_side, pictures_under, portable

from camcore import InputError


def touched(folder: Path, *names: str) -> Path:
    """Files with something in them, that nobody decodes here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"pixels")
    return folder


def refused(folder: Path, text: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(text.format(folder)) + "$") as caught:
        list_side(find_sides(folder).train)
    assert "\n" not in str(caught.value)


class TestClassFolders:
    def test_classes_in_the_order_of_their_names_and_pictures_to_the_bottom(self, tmp_path: Path) -> None:
        names = ("b/1.jpg", "a/2.png", "a/deep/er/1.webp", "B/1.jpg", "a/10.PNG")
        side = list_side(touched(tmp_path, *names))
        assert side.classes == ("B", "a", "b")
        assert [(f.name, f.label) for f in side.files] == [
            ("B/1.jpg", 0),
            ("a/10.PNG", 1),
            ("a/2.png", 1),
            ("a/deep/er/1.webp", 1),
            ("b/1.jpg", 2),
        ]
        assert all(f.path == tmp_path / f.name for f in side.files)
        assert (side.left_out, side.notes) == ((), ())

    @pytest.mark.parametrize("name", ["日本語", "кошка", "playing cards", "🎩", "قبعة", "café", "a'b\"c", "-x", "50%"])
    def test_names_in_any_script(self, tmp_path: Path, name: str) -> None:
        side = list_side(touched(tmp_path, f"{name}/1.jpg", "other/1.jpg"))
        assert set(side.classes) == {name, "other"}

    def test_what_systems_leave_behind_is_no_class_and_no_picture(self, tmp_path: Path) -> None:
        rubbish = (
            ".ipynb_checkpoints/1-checkpoint.jpg",
            "@eaDir/1.jpg",
            "__MACOSX/a/._1.jpg",
            "a/._1.jpg",
            "a/.DS_Store",
            "a/Thumbs.db",
            "a/README.txt",
            "a/@eaDir/1.jpg",
            "a/.thumbnails/1.jpg",
            "labels.csv",
        )
        side = list_side(touched(tmp_path, "a/1.jpg", "b/1.jpg", *rubbish))
        assert (side.classes, [f.name for f in side.files]) == (("a", "b"), ["a/1.jpg", "b/1.jpg"])
        assert (side.left_out, side.notes) == ((), ())

    def test_pictures_beside_the_class_folders_are_noted(self, tmp_path: Path) -> None:
        side = list_side(touched(tmp_path, "a/1.jpg", "b/1.jpg", "1.jpg", "2.jpg", "notes.txt"))
        assert side.notes == (
            f"2 pictures lie in {tmp_path} itself, outside of the class folders, and will not be used",
        )

    def test_kinds_that_are_not_read_are_left_out_with_a_reason(self, tmp_path: Path) -> None:
        side = list_side(touched(tmp_path, "a/1.jpg", "a/IMG_1.HEIC", "b/1.jpg"))
        reason = "HEIC pictures are not read; make it a JPEG or PNG"
        assert side.left_out == ((str(tmp_path / "a/IMG_1.HEIC"), reason),)

    def test_names_are_sorted_as_composed_on_every_system(self, tmp_path: Path) -> None:
        """A Mac decomposes them: the e of the second then sorts before the f, the é of the first behind it."""
        composed, decomposed = "é", unicodedata.normalize("NFD", "è")
        side = list_side(touched(tmp_path, f"{composed}/1.jpg", f"{decomposed}/1.jpg", "f/1.jpg"))
        assert side.classes == ("f", "è", "é")
        assert [f.name for f in side.files] == ["f/1.jpg", f"{decomposed}/1.jpg", "é/1.jpg"]

    def test_stray_bytes_in_the_name_of_a_picture_become_text(self, tmp_path: Path) -> None:
        touched(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "a" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"pixels")
        file = list_side(tmp_path).files[1]
        assert file.name == "a/caf\\udce9.jpg"
        assert file.path.read_bytes() == b"pixels"
        assert portable(file.path.name).encode() == b"caf\\udce9.jpg"


class TestLinks:
    def test_linked_classes_and_pictures_are_followed(self, tmp_path: Path) -> None:
        store = touched(tmp_path / "store", "cats/1.jpg", "dog.jpg")
        data = touched(tmp_path / "data", "dog/2.jpg")
        (data / "cat").symlink_to(store / "cats")
        (data / "dog" / "1.jpg").symlink_to(store / "dog.jpg")
        assert [f.name for f in list_side(data).files] == ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"]

    def test_loops_end_and_no_class_holds_all_others(self, tmp_path: Path) -> None:
        touched(tmp_path, "a/1.jpg", "a/in/2.jpg", "b/1.jpg")
        for place, target in (("a/self", "a"), ("a/in/up", "."), ("b/all", "."), ("b/again", "b")):
            (tmp_path / place).symlink_to(tmp_path / target)
        (tmp_path / "a" / "round").symlink_to("round")
        assert [f.name for f in list_side(tmp_path).files] == ["a/1.jpg", "a/in/2.jpg", "b/1.jpg"]

    def test_a_folder_that_two_links_lead_to_is_entered_once(self, tmp_path: Path) -> None:
        store = touched(tmp_path / "store", "1.jpg")
        data = touched(tmp_path / "data", "a/1.jpg", "b/1.jpg")
        for name in ("x", "y"):
            (data / "a" / name).symlink_to(store)
        assert [f.name for f in list_side(data).files] == ["a/1.jpg", "a/x/1.jpg", "b/1.jpg"]

    def test_a_link_that_leads_nowhere_is_left_out(self, tmp_path: Path) -> None:
        touched(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "a" / "2.jpg").symlink_to(tmp_path / "gone.jpg")
        (tmp_path / "a" / "3.txt").symlink_to(tmp_path / "gone.txt")
        assert list_side(tmp_path).left_out == ((str(tmp_path / "a" / "2.jpg"), "the link leads nowhere"),)

    def test_what_is_no_file_is_never_opened(self, tmp_path: Path) -> None:
        touched(tmp_path, "1.jpg")
        os.mkfifo(tmp_path / "2.jpg")
        assert pictures_under(tmp_path) == ([tmp_path / "1.jpg"], [])


class TestTrainAndVal:
    @pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
    @pytest.mark.parametrize("train", ["train", "Train", "training"])
    def test_both_are_found(self, tmp_path: Path, name: str, train: str) -> None:
        touched(tmp_path, f"{train}/a/1.jpg", f"{train}/b/1.jpg", f"{name}/a/1.jpg", "masks/val/a/1.png")
        assert find_sides(tmp_path) == (tmp_path / train, tmp_path / name, ())

    def test_a_test_folder_beside_val_is_left_alone(self, tmp_path: Path) -> None:
        touched(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "test/a/1.jpg")
        sides = find_sides(tmp_path)
        assert sides.validation == tmp_path / "val"
        assert sides.notes == (f"{tmp_path}/test is left alone; {tmp_path}/val is validated with",)

    def test_a_test_folder_is_taken_where_there_is_no_val_and_that_is_said(self, tmp_path: Path) -> None:
        touched(tmp_path, "train/a/1.jpg", "test/a/1.jpg")
        sides = find_sides(tmp_path)
        assert sides.validation == tmp_path / "test"
        assert sides.notes == (
            f"{tmp_path}/test is validated with, as there is no val: it then is no test of what is chosen by it",
        )

    def test_a_class_may_be_named_train(self, tmp_path: Path) -> None:
        side = list_side(find_sides(touched(tmp_path, "train/1.jpg", "bus/1.jpg", "test/1.jpg", "x/1.jpg")).train)
        assert side.classes == ("bus", "test", "train", "x")

    def test_a_class_that_only_val_has(self, tmp_path: Path) -> None:
        touched(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/Cat/1.jpg", "val/dog/1.jpg")
        text = (
            f"{tmp_path}/val: class 'Cat' is not among the 2 that are trained on. Did you mean 'cat'? "
            "Rename the folder, take it away, or add pictures of the class to train on"
        )
        with pytest.raises(InputError, match="^" + re.escape(text) + "$"):
            list_side(tmp_path / "val", known=list_side(tmp_path / "train").classes)

    def test_a_class_that_val_lacks_keeps_its_number(self, tmp_path: Path) -> None:
        touched(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "val/c/1.jpg")
        (tmp_path / "val" / "a").mkdir()
        side = list_side(tmp_path / "val", known=("a", "b", "c"))
        assert [(f.name, f.label) for f in side.files] == [("c/1.jpg", 2)]

    def test_the_same_letters_in_other_bytes_are_the_same_class(self, tmp_path: Path) -> None:
        decomposed = unicodedata.normalize("NFD", "café")
        touched(tmp_path, "train/café/1.jpg", "train/b/1.jpg", f"val/{decomposed}/2.jpg")
        side = list_side(tmp_path / "val", known=list_side(tmp_path / "train").classes)
        assert [(side.classes[f.label], f.path.name) for f in side.files] == [("café", "2.jpg")]


class TestOtherFolders:
    @pytest.mark.parametrize(
        ("names", "text"),
        [
            (
                ["1.jpg", "2.jpg"],
                "{0}: pictures lie in it directly; expected a folder for each class, such as {0}/cat/1.jpg and "
                "{0}/dog/2.jpg",
            ),
            (
                ["readme.txt"],
                "{0}: no pictures and no folders in it; expected a folder for each class, such as {0}/cat/1.jpg and "
                "{0}/dog/2.jpg",
            ),
            (
                ["cat/1.jpg"],
                "{0}: one class only, 'cat', and a classifier needs two or more; expected a folder for each class, "
                "such as {0}/cat/1.jpg and {0}/dog/2.jpg",
            ),
            (
                ["flowers/a/1.jpg", "flowers/b/1.jpg"],
                "{0}: one class only, 'flowers', and a classifier needs two or more; it holds 2 folders itself: did "
                "you mean {0}/flowers?",
            ),
            (
                ["train/a/1.jpg", "train/b/1.jpg"],
                "{0}: one class only, 'train', and a classifier needs two or more; it holds 2 folders itself: did you "
                "mean {0}/train?",
            ),
            (
                ["a/1.jpg", "b/1.txt", "c/deep/2.txt"],
                "{0}: no pictures in the class folders 'b', 'c'; add pictures, or take away what is no class",
            ),
            (
                ["a/1.jpg", "a/2.heic", "b/1.heic"],
                "{0}: no pictures in the class folder 'b' (left out: {0}/b/1.heic: HEIC pictures are not read; make it "
                "a JPEG or PNG); add pictures, or take away what is no class",
            ),
            (
                ["train/1.jpg", "val/1.jpg"],
                "{0}/train: no class folders in it; expected a folder for each class, such as {0}/train/cat/1.jpg and "
                "{0}/train/dog/2.jpg, and the same in val",
            ),
            (
                ["train/a/1.jpg", "train/b/1.jpg", "test/1.jpg"],
                "{0}/test: no class folders in it, so it cannot be validated with; expected a folder for each class, "
                "such as {0}/test/cat/1.jpg and {0}/test/dog/2.jpg, or give {0}/train to have that split into two",
            ),
        ],
        ids=["flat", "empty", "one", "nested", "only train", "empty class", "heic", "flat train", "flat test"],
    )
    def test_another_layout(self, tmp_path: Path, names: list[str], text: str) -> None:
        refused(touched(tmp_path, *names), text)

    def test_a_long_list_of_empty_classes_is_cut(self, tmp_path: Path) -> None:
        touched(tmp_path, "x/1.jpg", *(f"{n}/none.txt" for n in range(7)))
        refused(
            tmp_path,
            "{0}: no pictures in the class folders '0', '1', '2', '3', '4' and 2 more; add pictures, or take away what "
            "is no class",
        )

    def test_no_folder(self, tmp_path: Path) -> None:
        refused(
            tmp_path / "none",
            "{0}: no such folder; expected a folder for each class, such as {0}/cat/1.jpg and {0}/dog/2.jpg",
        )

    @pytest.mark.parametrize(
        ("name", "cure"),
        [
            ("a.zip", "unpack it, and give the folder"),
            ("a.jpg", "expected a folder for each class, such as DATA/cat/1.jpg and DATA/dog/2.jpg"),
        ],
    )
    def test_a_file(self, tmp_path: Path, name: str, cure: str) -> None:
        refused(touched(tmp_path, name) / name, "{0}: is a file; " + cure)

    def test_two_folders_of_the_same_letters(self, tmp_path: Path) -> None:
        touched(tmp_path, "café/1.jpg", unicodedata.normalize("NFD", "café") + "/1.jpg")
        refused(
            tmp_path,
            "{0}: two class folders are named 'café', and differ only in the bytes of the same letters (Unicode normal "
            "forms); move the pictures of both into one",
        )

    def test_a_class_whose_name_is_no_text(self, tmp_path: Path) -> None:
        touched(tmp_path, "a/1.jpg")
        (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
        refused(tmp_path, "{0}: the name of the class folder 'caf\\udce9' is not UTF-8; rename it")

    def test_a_folder_that_may_not_be_read(self, tmp_path: Path) -> None:
        """In a process of another user where the tests run as root, whom no permission stops."""
        touched(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "b").chmod(0o000)
        tmp_path.chmod(0o755)
        script = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from camcore import InputError\n"
            "from camcore_tools.training.layout import list_side\n"
            "if os.geteuid() == 0: os.seteuid(65534)\n"
            "try: list_side(Path(sys.argv[1]))\n"
            "except InputError as error: print(error)\n"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        for parent in tmp_path.parents:
            if parent.stat().st_uid == os.geteuid() and parent.name.startswith(("pytest-", "popen-")):
                parent.chmod(parent.stat().st_mode | 0o055)
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True, env=environment
        )
        (tmp_path / "b").chmod(0o755)
        assert done.stdout == (
            f"{tmp_path}/b: the folder cannot be read (Permission denied); change its permissions, or take it away\n"
        )


def test_the_order_of_a_file_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched(tmp_path, *(f"{c}/{d}{n}.jpg" for c in "ab" for d in ("", "x/", "y/") for n in range(4)))
    first = list_side(tmp_path)
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(iterdir(self), reverse=True))
    assert list_side(tmp_path) == first
