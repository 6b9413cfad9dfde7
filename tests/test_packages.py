"""Packages of Debian, read in Python: what is wanted of them comes out, and nothing else gets in."""

import gzip
import io
import os
import shutil
import stat
import tarfile

import pytest

from search_spaces.errors import FailedError, NestlingError
from speech_data.recorded import packages
from speech_data.recorded.packages import copy_unpacked, hash_contents, read_control, unpack
from speech_data.recorded.table import Package
from tests.package_cases import make_ar, make_deb, make_tar

WORDS = Package("words", "1", 0, "", "", "usr/share/words", ("*.wav", "*/list.txt"))
FILES = {
    "usr/share/words/en/one.wav": b"one",
    "usr/share/words/en/deep/two.wav": b"two",
    "usr/share/words/en/list.txt": b"one, two",
    "usr/share/words/list.txt": b"not below a folder",
    "usr/share/words/en/one.png": b"a picture",
    "usr/share/wordsmith/three.wav": b"of another",
    "etc/words.wav": b"elsewhere",
}
WANTED = ["en/deep/two.wav", "en/list.txt", "en/one.wav", "licences/words/copyright"]


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_what_is_wanted_comes_out(tmp_path, suffix):
    deb = make_deb(tmp_path / "words.deb", "words", "4:1.2-3", FILES, suffix=suffix)
    assert read_control(deb) == {"Package": "words", "Version": "4:1.2-3"}
    assert unpack(deb, WORDS, tmp_path / "out") == WANTED == written(tmp_path / "out")
    assert (tmp_path / "out/en/deep/two.wav").read_bytes() == b"two"
    assert (tmp_path / "out/licences/words/copyright").read_bytes() == b"words: free"


def test_another_build_has_the_same_contents_and_another_recording_has_not(tmp_path):
    def contents(name, suffix, files):
        return hash_contents(
            tmp_path / name,
            unpack(make_deb(tmp_path / "a.deb", "words", "1", files, suffix=suffix), WORDS, tmp_path / name),
        )

    first = contents("xz", ".xz", FILES)
    assert contents("gz", ".gz", dict(reversed(FILES.items()))) == first
    assert contents("other", ".xz", {**FILES, "usr/share/words/en/one.wav": b"One"}) != first
    assert contents("moved", ".xz", {**FILES, "usr/share/words/en/four.wav": b""}) != first


def test_zstandard_is_read_by_dpkg_where_that_is(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    deb = make_deb(tmp_path / "words.deb", "words", "1", {}, suffix=".zst", data=b"(\xb5/\xfd whatever")
    with pytest.raises(NestlingError, match=r"compressed by Zstandard, which takes dpkg-deb, and that is not here; wh"):
        unpack(deb, WORDS, tmp_path / "out")
    (tmp_path / "data.tar").write_bytes(make_tar(FILES))
    program = tools / "dpkg-deb"
    cat = shutil.which("cat", path=os.defpath)
    program.write_text(f'#!/bin/sh\n[ "$*" = "--fsys-tarfile {deb}" ] && exec {cat} {tmp_path}/data.tar\nexit 2\n')
    program.chmod(0o755)
    assert unpack(deb, WORDS, tmp_path / "out") == WANTED[:3]
    program.write_text("#!/bin/sh\nexit 2\n")
    with pytest.raises(NestlingError, match="is damaged"):
        unpack(deb, WORDS, tmp_path / "again")


def member(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info, bytes(size)


HOME = "./usr/share/words"
HOSTILE = {
    "upwards": (member(f"{HOME}/../../../../evil.wav"), "leads out of it"),
    "upwards elsewhere": (member("./../evil.wav"), "leads out of it"),
    "absolute": (member("/usr/share/words/evil.wav"), "leads out of it"),
    "symlink": (member(f"{HOME}/evil.wav", tarfile.SYMTYPE, "/etc/passwd"), "is no plain file"),
    "hard link": (member(f"{HOME}/evil.wav", tarfile.LNKTYPE, "/etc/passwd"), "is no plain file"),
    "device": (member(f"{HOME}/evil.wav", tarfile.CHRTYPE), "is no plain file"),
    "pipe": (member(f"{HOME}/evil.wav", tarfile.FIFOTYPE), "is no plain file"),
    "twice": (member(f"{HOME}/en/one.wav"), "is there twice"),
    "large": (member(f"{HOME}/evil.wav", size=2000), "is too large, 2,000 bytes"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_package_that_is_not_safe_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(packages, "MAX_FILE_BYTES", 1000)
    item, reason = HOSTILE[kind]
    deb = make_deb(tmp_path / "words.deb", "words", "1", FILES, item)
    out = tmp_path / "some" / "where" / "deep" / "out"
    with pytest.raises(NestlingError, match=f"is not safe to unpack: .*{reason}"):
        unpack(deb, WORDS, out)
    assert set(written(tmp_path)) <= {"words.deb", *(f"some/where/deep/out/{name}" for name in WANTED)}


def test_links_that_are_not_wanted_do_no_harm(tmp_path):
    deb = make_deb(tmp_path / "words.deb", "words", "1", FILES, member("./usr/share/doc/x", tarfile.SYMTYPE, "/etc"))
    assert unpack(deb, WORDS, tmp_path / "out") == WANTED


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    """What comes after a link of the same name would be written to where it leads."""
    (tmp_path / "target").mkdir()
    link = member(f"{HOME}/fr", tarfile.SYMTYPE, str(tmp_path / "target"))
    deb = make_deb(tmp_path / "words.deb", "words", "1", {}, link, (member(f"{HOME}/fr/evil.wav", size=1)))
    unpack(deb, WORDS, tmp_path / "out")
    assert written(tmp_path / "target") == []
    assert stat.S_ISREG((tmp_path / "out/fr/evil.wav").lstat().st_mode)


def test_what_has_no_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "MAX_BYTES", 100_000)
    deb = make_deb(tmp_path / "words.deb", "words", "1", {**FILES, "usr/share/zeros": bytes(10**6)})
    assert deb.stat().st_size < 10_000
    with pytest.raises(NestlingError, match="is not safe to unpack: it has no end"):
        unpack(deb, WORDS, tmp_path / "out")


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_a_package_that_is_cut_short_anywhere_is_refused(tmp_path, suffix):
    whole = make_deb(tmp_path / "words.deb", "words", "1", FILES, suffix=suffix).read_bytes()
    for num_bytes in range(0, len(whole) - 1, 97):
        cut = tmp_path / "cut.deb"
        cut.write_bytes(whole[:num_bytes])
        with pytest.raises(NestlingError, match=r"cut\.deb (is|does)"):
            unpack(cut, WORDS, tmp_path / f"{num_bytes}")


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_a_byte_that_changed_is_noticed(tmp_path, suffix):
    deb = make_deb(tmp_path / "words.deb", "words", "1", FILES, suffix=suffix)
    whole = deb.read_bytes()
    first = whole.index(f"data.tar{suffix}".encode()) + 60
    for at in range(first + 10, len(whole) - 12, 41):
        deb.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with pytest.raises(NestlingError, match=r"is damaged|is not safe|is cut short"):
            unpack(deb, WORDS, tmp_path / f"{at}")


def test_what_is_no_package_says_so(tmp_path):
    file = tmp_path / "a.deb"
    file.write_bytes(b"hello")
    with pytest.raises(NestlingError, match="is no package of Debian"):
        read_control(file)
    file.write_bytes(make_ar({"debian-binary": b"2.0\n", "data.tar.lz4": b"", "control.tar": make_tar({"x": b""})}))
    with pytest.raises(NestlingError, match=r"holds data\.tar\.lz4, which cannot be read here"):
        unpack(file, WORDS, tmp_path / "out")
    with pytest.raises(NestlingError, match="has no file `control`"):
        read_control(file)
    file.write_bytes(make_ar({"debian-binary": b"2.0\n"}))
    with pytest.raises(NestlingError, match=r"has no data\.tar"):
        unpack(file, WORDS, tmp_path / "out")


def test_a_disk_that_refuses_is_told_from_damage(tmp_path):
    deb = make_deb(tmp_path / "words.deb", "words", "1", FILES)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FailedError, match="could not be unpacked: "):
        unpack(deb, WORDS, tmp_path / "out")


def test_what_was_unpacked_is_copied(tmp_path):
    with tarfile.open(fileobj=io.BytesIO(make_tar(FILES))) as tar:
        tar.extractall(tmp_path / "root", filter="data")
    assert copy_unpacked(tmp_path / "root", WORDS, tmp_path / "out") == WANTED[:3] == written(tmp_path / "out")
    (tmp_path / "root/usr/share/words/en/link.wav").symlink_to("/etc/passwd")
    with pytest.raises(NestlingError, match=r"link\.wav is no plain file"):
        copy_unpacked(tmp_path / "root", WORDS, tmp_path / "again")


def test_progress_is_in_megabytes_of_the_file(tmp_path):
    data = gzip.compress(make_tar({"usr/share/x": os.urandom(3 * 10**6)}))
    deb, seen = make_deb(tmp_path / "words.deb", "words", "1", {}, suffix=".gz", data=data), []
    unpack(deb, WORDS, tmp_path / "out", lambda *step: seen.append(step))
    assert seen[0][0] < seen[-1][0] == 3
    assert {total for _, total in seen} == {3}
