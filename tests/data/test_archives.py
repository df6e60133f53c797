"""Zip archives and tar shards: what is read, and what is refused."""

import io
import os
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from source_checks import png

from keras_mae.data import load_source
from keras_mae.data.listing import shards
from keras_mae.data.sources import webdataset as source_module
from keras_mae.data.sources import zip as zip_module


def make_zip(path, members, **options):
    with zipfile.ZipFile(path, "w", **{"compression": zipfile.ZIP_DEFLATED, **options}) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return f"zip:{path}"


def pngs(*names):
    return {name: png(seed) for seed, name in enumerate(names)}


def make_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            if isinstance(name, tarfile.TarInfo):
                tar.addfile(name, io.BytesIO(data))
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return f"webdataset:{path}"


class TestZip:
    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("around", ["", "pets/"])
    def test_one_folder_around_everything_is_passed_over(self, tmp_path, compression, around):
        members = pngs(*(f"{around}{label}/{i}.PNG" for label in ("cat", "dog") for i in (1, 2)))
        source = load_source(make_zip(tmp_path / "a.zip", members, compression=compression))
        assert source.class_names == ["cat", "dog"] and source.labels().tolist() == [0, 0, 1, 1]
        assert [source.read(i)[0] for i in range(4)] == list(members.values())

    def test_splits(self, tmp_path):
        members = pngs(*(f"x/{s}/{c}/1.png" for s in ("train", "val") for c in "ab"))
        source = load_source(make_zip(tmp_path / "a.zip", members))
        assert source.class_names == ["a", "b"]
        assert {k: len(v) for k, v in source.own_parts.items()} == {"train": 2, "validation": 2}

    def test_dicom_without_a_suffix(self, tmp_path):
        members = {"1.2.3": bytes(128) + b"DICM" + bytes(900), "README": b"x" * 900}
        for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            spec = make_zip(tmp_path / "a.zip", members, compression=compression)
            assert load_source(spec).files == ["1.2.3"]

    def test_the_last_member_of_a_name_counts(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for seed in (1, 2):
                with pytest.warns(UserWarning) if seed == 2 else io.BytesIO():
                    archive.writestr("a.png", png(seed))
        source = load_source(f"zip:{tmp_path}/a.zip")
        assert source.num_examples == 1 and source.read(0)[0] == png(2)

    @pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png", "C:/a.png"])
    def test_a_name_that_leads_out_is_refused(self, tmp_path, name):
        with pytest.raises(ValueError, match="`dataset`.*a.png"):
            load_source(make_zip(tmp_path / "a.zip", pngs("1.png", name)))

    def test_a_link_is_refused(self, tmp_path):
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        with pytest.raises(ValueError, match="`dataset`.*link.png"):
            load_source(make_zip(tmp_path / "a.zip", {**pngs("1.png"), link: b"/etc/passwd"}))

    def test_an_encrypted_member_is_refused(self, tmp_path):
        make_zip(tmp_path / "a.zip", pngs("1.png", "secret.png"))
        data = bytearray((tmp_path / "a.zip").read_bytes())
        data[data.rindex(b"PK\1\2") + 8] |= 1
        (tmp_path / "a.zip").write_bytes(data)
        with pytest.raises(ValueError, match="`dataset`.*secret.png.*encrypted"):
            load_source(f"zip:{tmp_path}/a.zip")

    def test_another_compression_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="`dataset`.*1.png.*12"):
            load_source(make_zip(tmp_path / "a.zip", pngs("1.png"), compression=zipfile.ZIP_BZIP2))

    def test_a_bomb_is_refused_and_not_unpacked(self, tmp_path, monkeypatch):
        monkeypatch.setattr(zip_module, "BOMB_BYTES", 2**20)
        with pytest.raises(ValueError, match="`dataset`.*bomb.png"):
            load_source(make_zip(tmp_path / "a.zip", {"bomb.png": bytes(2**20 + 1)}))
        # What is blank but small, and large but not blank, is none.
        noise = np.random.RandomState(0).bytes(2**20 + 1)
        members = {"blank.npy": bytes(2**20), "noise.npy": noise}
        source = load_source(make_zip(tmp_path / "b.zip", members))
        assert [source.read(i)[0] for i in range(2)] == list(members.values())

    def test_a_bomb_that_declares_little_is_not_unpacked(self, tmp_path, monkeypatch):
        make_zip(tmp_path / "a.zip", {"1.png": bytes(10**6)})
        data = (tmp_path / "a.zip").read_bytes()
        declared = (10**6).to_bytes(4, "little")
        data = data.replace(declared, (100).to_bytes(4, "little"))
        (tmp_path / "a.zip").write_bytes(data)
        source = load_source(f"zip:{tmp_path}/a.zip")
        most = []

        class Spy:
            def __init__(self, *arguments):
                self.real = zlib.decompressobj(*arguments)

            def decompress(self, data, limit):
                most.append(limit)
                return self.real.decompress(data, limit)

        class Zlib:
            decompressobj, error, MAX_WBITS, crc32 = Spy, zlib.error, zlib.MAX_WBITS, zlib.crc32

        monkeypatch.setattr(zip_module, "zlib", Zlib)
        with pytest.raises(ValueError, match="100 bytes declared"):
            source.read(0)
        assert most == [101]

    def test_members_that_share_bytes_are_refused(self, tmp_path):
        make_zip(tmp_path / "a.zip", pngs("1.png", "2.png"))
        data = bytearray((tmp_path / "a.zip").read_bytes())
        second = data.rindex(b"PK\1\2")
        data[second + 42 : second + 46] = (0).to_bytes(4, "little")  # its place: the first's
        (tmp_path / "a.zip").write_bytes(data)
        with pytest.raises(ValueError, match="`dataset`.*share"):
            load_source(f"zip:{tmp_path}/a.zip")

    def test_a_damaged_member_is_one_image_that_cannot_be_read(self, tmp_path):
        members = pngs("1.png", "2.png")
        make_zip(tmp_path / "a.zip", members, compression=zipfile.ZIP_STORED)
        data = bytearray((tmp_path / "a.zip").read_bytes())
        data[data.index(members["1.png"]) + 200] ^= 1
        (tmp_path / "a.zip").write_bytes(data)
        source = load_source(f"zip:{tmp_path}/a.zip")
        with pytest.raises(ValueError, match="checksum"):
            source.read(0)
        assert source.read(1)[0] == members["2.png"]

    def test_what_is_no_archive_is_named(self, tmp_path):
        (tmp_path / "a.zip").write_bytes(b"PK nothing")
        with pytest.raises(ValueError, match="`dataset`"):
            load_source(f"zip:{tmp_path}/a.zip")
        with pytest.raises(ValueError, match="`dataset`"):
            load_source(make_zip(tmp_path / "b.zip", {"notes.txt": b"x"}))


class TestWebDataset:
    @pytest.fixture
    def write(self, tmp_path):
        webdataset = pytest.importorskip("webdataset")

        def write(name, samples):
            with webdataset.TarWriter(str(tmp_path / name), encoder=False) as tar:
                for key, fields in samples.items():
                    tar.write({"__key__": key, **fields})
            return f"webdataset:{tmp_path}/{name}"

        return write

    def test_the_image_is_the_field_whose_whole_extension_is_an_images(self, write):
        samples = {
            f"v1.0/set.b/{i:04d}": {
                ("jpg", "JPG")[i % 2]: png(i),
                "seg.png": b"mask",
                "cls": f"{i % 3}\n".encode(),
            }
            for i in range(6)
        }
        source = load_source(write("a.tar", samples))
        assert [source.read(i) for i in range(6)] == [(png(i), i % 3) for i in range(6)]
        assert source.class_names == ["0", "1", "2"]
        assert source.key(4) == "a.tar/v1.0/set.b/0004"

    def test_samples_of_two_shards_with_one_key_are_two(self, write):
        for shard in range(2):
            spec = write(f"a-{shard}.tar", {"x": {"png": png(shard), "cls": b"%d" % shard}})
        source = load_source(spec.replace("a-1", "a-{0..1}"))
        assert [source.key(i) for i in range(2)] == ["a-0.tar/x", "a-1.tar/x"]
        assert [source.read(i) for i in range(2)] == [(png(0), 0), (png(1), 1)]

    def test_labels_of_json_and_samples_without(self, write):
        labels = [b'{"label": "b"}', b'{"cls": "a"}', b'{"class": null}', b"[]", b'{"label": -1}']
        samples = {f"{i}": {"png": png(i), "json": text} for i, text in enumerate(labels)}
        source = load_source(write("a.tar", {**samples, "6": {"txt": b"no image"}}))
        assert source.class_names == ["a", "b"]
        assert source.record_labels().tolist() == [1, 0, -1, -1, -1]
        assert [source.read(i)[1] for i in range(5)] == [1, 0, -1, -1, -1]
        notes = " ".join(source.notes)
        assert "3 images without a label" in notes and "1 samples without an image" in notes

    def test_numbers_are_classes_in_order_of_number(self, write):
        samples = {f"{i}": {"png": png(i), "cls": b"%d" % i} for i in (10, 9, 2)}
        source = load_source(write("a.tar", samples))
        assert source.class_names == ["2", "9", "10"]
        assert source.record_labels().tolist() == [2, 1, 0]

    def test_lists_are_several_labels(self, write):
        texts = [b'{"label": ["a", "b"]}', b'{"label": []}', b"{}", b'{"label": ["b"]}']
        samples = {f"{i}": {"png": png(i), "json": text} for i, text in enumerate(texts)}
        source = load_source(write("a.tar", samples))
        assert source.multi_label and source.class_names == ["a", "b"]
        assert source.record_labels().tolist() == [[1, 1], [0, 0], [255, 255], [0, 1]]

    def test_a_mask_beside_a_photograph_is_no_image(self, write):
        source = load_source(write("a.tar", {"1": {"png": b"mask", "jpg": png(1)}}))
        assert source.num_examples == 1 and source.read(0)[0] == png(1)
        assert "several images" in source.notes[0]

    @pytest.mark.parametrize("text", [b"cat", b"1.5", b"\xff"])
    def test_a_label_that_is_no_number_is_named(self, write, text):
        with pytest.raises(ValueError, match="`dataset`.*cls"):
            load_source(write("a.tar", {"1": {"png": png(1), "cls": text}}))

    def test_the_index_is_made_once_and_again_when_the_shard_changes(
        self, write, tmp_path, monkeypatch
    ):
        spec, scans = write("a.tar", {"1": {"png": png(1)}}), []
        scan = shards._scan
        monkeypatch.setattr(shards, "_scan", lambda *a: (scans.append(a), scan(*a))[1])
        for _ in range(2):
            assert load_source(spec).read(0)[0] == png(1)
        assert len(scans) == 1 and (tmp_path / ".a.tar.index.json").is_file()
        write("a.tar", {"1": {"png": png(1)}, "2": {"png": png(2)}})
        assert load_source(spec).num_examples == 2 and len(scans) == 2
        (tmp_path / ".a.tar.index.json").write_text("[]")
        assert load_source(spec).num_examples == 2 and len(scans) == 3

    def test_beside_a_shard_that_cannot_be_written_the_cache_is_used(
        self, write, tmp_path, monkeypatch
    ):
        spec, real = write("a.tar", {"1": {"png": png(1)}}), shards.atomic_path
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

        def read_only(path):
            if path.parent == tmp_path:
                raise PermissionError("read-only")
            return real(path)

        monkeypatch.setattr(shards, "atomic_path", read_only)
        load_source(spec)
        assert len(list((tmp_path / "cache").rglob("*.json"))) == 1
        monkeypatch.setattr(shards, "_scan", None)  # not called any more
        assert load_source(spec).read(0)[0] == png(1)

    def test_long_names_of_all_formats(self, tmp_path):
        for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            key = "deep/" * 60 + "x" * 120
            with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
                info = tarfile.TarInfo(f"{key}.png")
                info.size = len(png(1))
                tar.addfile(info, io.BytesIO(png(1)))
            source = load_source(f"webdataset:{tmp_path}/a.tar")
            assert source.key(0) == f"a.tar/{key}" and source.read(0)[0] == png(1)

    @pytest.mark.parametrize(
        "name, kind",
        [
            ("../a.png", tarfile.REGTYPE),
            ("/etc/a.png", tarfile.REGTYPE),
            ("a.png", tarfile.SYMTYPE),
            ("a.png", tarfile.LNKTYPE),
            ("a.png", tarfile.FIFOTYPE),
        ],
    )
    def test_names_that_lead_out_and_links_are_refused(self, tmp_path, name, kind):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "1.png"
        with pytest.raises(ValueError, match="`dataset`.*a.png"):
            load_source(make_tar(tmp_path / "a.tar", {"1.png": png(1), info: b""}))

    def test_a_field_that_is_there_twice_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="`dataset`.*1.PNG.*twice"):
            load_source(make_tar(tmp_path / "a.tar", {"1.png": png(1), "1.PNG": png(2)}))

    @pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
    def test_a_compressed_shard_is_refused(self, tmp_path, mode):
        with tarfile.open(tmp_path / "a.tar.x", mode) as tar:
            tar.add(__file__, "1.png")
        with pytest.raises(ValueError, match="`dataset`.*compressed by"):
            load_source(f"webdataset:{tmp_path}/a.tar.x")

    def test_missing_shards_are_named(self, write, tmp_path):
        write("a-000.tar", {"1": {"png": png(1)}})
        with pytest.raises(ValueError, match=r"`dataset`.* 2 match no file.*a-001.*a-002"):
            load_source(f"webdataset:{tmp_path}/a-{{000..002}}.tar")
        assert load_source(f"webdataset:{tmp_path}/a-*.tar").num_examples == 1
        with pytest.raises(ValueError, match="`dataset`"):
            load_source(f"webdataset:{tmp_path}/a-{{0..99999999}}.tar")

    @pytest.mark.parametrize(
        "pattern, expected",
        [
            ("a-{000..002}", ["a-000", "a-001", "a-002"]),
            ("{0..10}", [str(number) for number in range(11)]),
            ("{8..10}{x,y}", ["8x", "8y", "9x", "9y", "10x", "10y"]),
            ("{2..0}", ["2", "1", "0"]),
            ("{08..10}", ["08", "09", "10"]),
            ("plain", ["plain"]),
        ],
    )
    def test_braces_are_a_shells(self, pattern, expected):
        assert source_module._expand(pattern, "x") == expected

    def test_a_cut_shard_keeps_what_lies_before_the_cut(self, tmp_path):
        members = pngs(*(f"{i}.png" for i in range(5)))
        make_tar(tmp_path / "a.tar", members)
        data = (tmp_path / "a.tar").read_bytes()
        place = data.index(members["3.png"])
        (tmp_path / "a.tar").write_bytes(data[: place + 100])
        source = load_source(f"webdataset:{tmp_path}/a.tar")
        assert source.num_examples == 4 and "damaged" in source.notes[0]
        assert [source.read(i)[0] for i in range(3)] == list(members.values())[:3]
        with pytest.raises(ValueError, match="ends"):
            source.read(3)

    def test_a_damaged_header_is_no_quiet_end(self, tmp_path):
        members = pngs(*(f"{i}.png" for i in range(5)))
        make_tar(tmp_path / "a.tar", members)
        data = bytearray((tmp_path / "a.tar").read_bytes())
        data[data.index(b"3.png") + 110] ^= 1
        (tmp_path / "a.tar").write_bytes(data)
        source = load_source(f"webdataset:{tmp_path}/a.tar")
        assert source.num_examples == 3 and "damaged" in source.notes[0]


def test_a_shards_index_is_hidden_from_globs(tmp_path):
    make_tar(tmp_path / "a.tar", pngs("1.png"))
    for _ in range(2):
        assert load_source(f"webdataset:{tmp_path}/a*").num_examples == 1
    assert sorted(os.listdir(tmp_path)) == [".a.tar.index.json", "a.tar"]
