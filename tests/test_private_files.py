"""Nothing is loaded from where someone else could have put it; everything else is found again."""

import os
import stat
from pathlib import Path

import pytest

from jaxserve.private_files import NotPrivate, check_private_file, make_private_directory, read_private_file

STRANGER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(params=[0o022, 0o000, 0o002, 0o077])
def any_umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def test_all_that_is_made_is_ours_alone_whatever_the_umask(any_umask, tmp_path):
    made = make_private_directory(tmp_path / "a" / "b" / "c")
    assert made == tmp_path / "a" / "b" / "c"
    for path in (made, made.parent, made.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert make_private_directory(made) == made


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o702])
@pytest.mark.parametrize("writable", ["", "a", "a/b"])
def test_a_directory_that_others_may_write_is_refused_wherever_it_is(tmp_path, writable, mode):
    make_private_directory(tmp_path / "a" / "b")
    (tmp_path / writable).chmod(mode)
    with pytest.raises(NotPrivate, match=r"others may write .*; run chmod go-w"):
        make_private_directory(tmp_path / "a" / "b")


def test_others_may_write_beside_it_in_a_sticky_directory_and_not_in_it(tmp_path):
    tmp_path.chmod(0o1777)
    made = make_private_directory(tmp_path / "ours")
    made.chmod(0o1777)
    with pytest.raises(NotPrivate, match="others may write"):
        make_private_directory(made)


@as_root
@pytest.mark.parametrize("foreign", ["a", "a/b"])
def test_what_belongs_to_another_user_is_refused(tmp_path, foreign):
    make_private_directory(tmp_path / "a" / "b")
    os.chown(tmp_path / foreign, STRANGER, STRANGER)
    with pytest.raises(NotPrivate, match=r"belongs to another user \(uid 65534\)"):
        make_private_directory(tmp_path / "a" / "b")


def test_a_link_to_the_directory_is_refused_and_one_of_ours_above_it_is_followed(tmp_path):
    make_private_directory(tmp_path / "disk" / "cache")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert make_private_directory(tmp_path / "link" / "cache") == tmp_path / "disk" / "cache"
    with pytest.raises(NotPrivate, match="symbolic link"):
        make_private_directory(tmp_path / "link")


@as_root
def test_a_link_of_another_user_is_not_followed(tmp_path):
    make_private_directory(tmp_path / "disk" / "cache")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    os.lchown(tmp_path / "link", STRANGER, STRANGER)
    with pytest.raises(NotPrivate, match="belongs to another user"):
        make_private_directory(tmp_path / "link" / "cache")


def test_a_file_in_the_way_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        make_private_directory(tmp_path / "file")
    with pytest.raises(OSError):
        make_private_directory(tmp_path / "file" / "below")


def test_a_file_of_ours_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"ours")
    (tmp_path / "file").chmod(0o644)
    assert read_private_file(tmp_path / "file") == b"ours"
    check_private_file(tmp_path / "file")


def _link(path: Path) -> None:
    (path.parent / "target").write_bytes(b"theirs")
    path.symlink_to(path.parent / "target")


def _writable(path: Path) -> None:
    path.write_bytes(b"theirs")
    path.chmod(0o666)


def _foreign(path: Path) -> None:
    path.write_bytes(b"theirs")
    os.chown(path, STRANGER, STRANGER)


@pytest.mark.parametrize(
    "plant",
    [_link, _writable, Path.mkdir, os.mkfifo, pytest.param(_foreign, marks=as_root)],
    ids=lambda one: one.__name__,
)
def test_any_other_file_is_not_opened(tmp_path, plant):
    plant(tmp_path / "file")
    for use in (read_private_file, check_private_file):
        with pytest.raises(NotPrivate):
            use(tmp_path / "file")
