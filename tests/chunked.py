#!/usr/bin/env python3
"""Reads zstd:chunked layers as a client does that loads them in pieces, with zstd(1) and tarfile.

    tests/chunked.py LAYOUT [old]

Checks each layer that has a table of contents: footer and annotations, digests, that the table says
of every entry what tarfile reads in its headers, that chunks and tar-split give the tar again, and
CRC-64 of each file. Prints the number of such layers, and of rows, chunks and holes in them. With
`old`, the annotations of LAYOUT are then renamed to what containers/storage before 1.44 heeds.
"""
import base64, hashlib, io, json, subprocess, sys, tarfile
from datetime import datetime, timezone

PREFIX = "io.github.containers.zstd-chunked."
TYPES = {"0": "reg", "1": "hardlink", "2": "symlink", "3": "char", "4": "block", "5": "dir", "6": "fifo"}


def sha(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def zstd(data):
    return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout


CRC = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (0xD800000000000000 if n & 1 else 0)
    CRC.append(n)


def crc64(data):
    c = 2**64 - 1
    for b in data:
        c = CRC[(c ^ b) & 255] ^ c >> 8
    return (c ^ (2**64 - 1)).to_bytes(8, "big")


def nanoseconds(text):
    """Of RFC 3339 or of a number of seconds with a fraction."""
    if "T" in text:
        whole, _, part = text.removesuffix("Z").partition(".")
        whole = int(datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp())
    else:
        whole, _, part = text.partition(".")
        if text.startswith("-"):
            return int(whole) * 10**9 - int((part + "0" * 9)[:9])
        whole = int(whole)
    return whole * 10**9 + int((part + "0" * 9)[:9])


def check(blob, notes, diff_id):
    toc_at, toc_len, toc_plain, kind = map(int, notes["manifest-position"].split(":"))
    split_at, split_len, split_plain = map(int, notes["tarsplit-position"].split(":"))
    footer = blob[-72:]
    assert footer[:8] == bytes.fromhex("502a4d1840000000") and footer[-8:] == b"GNUlInUx"
    words = [int.from_bytes(footer[8 * i : 8 * i + 8], "little") for i in range(1, 8)]
    assert words == [toc_at, toc_len, toc_plain, kind, split_at, split_len, split_plain]
    toc, split = blob[toc_at : toc_at + toc_len], blob[split_at : split_at + split_len]
    assert sha(toc) == notes["manifest-checksum"]
    toc = json.loads(zstd(toc))
    assert toc["version"] == kind == 1 and toc["tarSplitDigest"] == sha(split)
    tar = zstd(blob)
    assert sha(tar) == diff_id

    groups = []
    for row in toc["entries"]:
        groups.append([row]) if row["type"] != "chunk" else groups[-1].append(row)
    members = list(tarfile.open(fileobj=io.BytesIO(tar), format=tarfile.PAX_FORMAT, encoding="utf-8"))
    assert len(members) == len(groups)
    files = {}
    for member, rows in zip(members, groups):
        row = rows[0]
        pax = member.pax_headers
        # tarfile takes the slash from a folder's name.
        assert row["name"].rstrip("/") == member.name and row["type"] == TYPES[member.type.decode()], row
        got = [row.get(k, 0) for k in ("mode", "size", "uid", "gid", "devMajor", "devMinor")]
        assert got == [member.mode, member.size, member.uid, member.gid, member.devmajor, member.devminor], row
        assert row.get("linkName", "") == member.linkname
        assert nanoseconds(row["modtime"]) == nanoseconds(pax.get("mtime", str(int(member.mtime))))
        xattrs = {k[13:]: v.encode("utf-8", "surrogateescape") for k, v in pax.items() if k.startswith("SCHILY.xattr.")}
        assert {k: base64.b64decode(v) for k, v in row.get("xattrs", {}).items()} == xattrs
        data = b""
        for i, chunk in enumerate(rows if member.size else []):
            end = rows[i + 1]["offset"] if i + 1 < len(rows) else row["endOffset"]
            plain = zstd(blob[chunk["offset"] : end])
            assert chunk.get("chunkOffset", 0) == len(data)
            if len(rows) > 1:
                assert chunk["chunkSize"] == len(plain) and chunk["chunkDigest"] == sha(plain)
            assert chunk.get("chunkType") in (None, "zeros") and (not chunk.get("chunkType") or not any(plain))
            data += plain
        assert not member.size or row["digest"] == sha(data)
        files[row["name"]] = data
    again = b""
    for position, line in enumerate(zstd(split).splitlines()):
        line = json.loads(line)
        assert line["position"] == position
        if line["type"] == 2:
            again += base64.b64decode(line["payload"])
        else:
            data = files.pop(line["name"])
            assert line.get("size", 0) == len(data)
            assert line["payload"] == (base64.b64encode(crc64(data)).decode() if data else None)
            again += data
    assert again == tar and not files
    rows = toc["entries"]
    kinds = lambda key, value: sum(row.get(key) == value for row in rows)
    return len(rows), kinds("type", "chunk"), kinds("chunkType", "zeros")


def main(layout, old):
    path = lambda digest: f"{layout}/blobs/{digest.replace(':', '/')}"
    index = json.load(open(f"{layout}/index.json"))
    manifest = json.load(open(path(index["manifests"][0]["digest"])))
    diff_ids = json.load(open(path(manifest["config"]["digest"])))["rootfs"]["diff_ids"]
    found = []
    for layer, diff_id in zip(manifest["layers"], diff_ids):
        notes = {k.removeprefix(PREFIX): v for k, v in layer["annotations"].items() if k.startswith(PREFIX)}
        if notes:
            found.append(check(open(path(layer["digest"]), "rb").read(), notes, diff_id))
    print(len(found), *map(sum, zip(*found)))
    if old:
        data = json.dumps(manifest).replace(PREFIX, "io.containers.zstd-chunked.").encode()
        open(path(sha(data)), "wb").write(data)
        index["manifests"][0].update(digest=sha(data), size=len(data))
        json.dump(index, open(f"{layout}/index.json", "w"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
