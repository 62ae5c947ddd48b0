"""What is fuzzed: bundles, sweep files, parquet files and answers of endpoints."""

import base64
import gzip
import json
import os
import shutil
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

import decrop
from decrop.black_box import endpoint_classifier
from decrop.bundle import read_certificates
from decrop.config import ClassifierSettings, DatasetSettings
from decrop.data.datasets import load_dataset
from decrop.files import read_json, sha256_of_file, write_json
from tests.decrop.black_box.server import sending
from tests.decrop.data.encoded import png, random_pixels
from tests.decrop.tiny import CLASSES, SIZE, random_images, tiny_dataset
from tests.fuzz.mutations import NUMBERS, STRINGS, deep, json_text, mutate, mutate_bytes
from tune.sweep_file import load_sweep

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"
PRESETS = Path(__file__).parents[2] / "tune" / "presets"
TOKEN = "Zq7rKw2mXv9tBn4j"


@dataclass(frozen=True)
class Case:
    """What is tried.

    Attributes:
        mutations: names of what was changed.
        run: tries it.
        secret: of which no part may be in a message.
    """

    mutations: list[str]
    run: Callable[[], object]
    secret: str | None = None


def bundle(rng: Random, folder: Path, *, changes: int) -> Case:
    """Change files of a bundle and, mostly, their checksums with them."""
    path = folder / "bundle"
    shutil.copytree(rng.choice(sorted(BUNDLES.iterdir())), path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    names = [_change_file(rng, rng.choice(files)) for _ in range(changes)]
    if changes and rng.random() < 0.85:
        _renew_checksums(path)

    def run() -> None:
        decrop.load(path)
        read_certificates(path)

    return Case(names, run)


def _change_file(rng: Random, file: Path) -> str:
    if not file.is_file() or file.is_symlink():
        return "nothing"
    if rng.random() < 0.1:
        return _replace_file(rng, file)
    content = file.read_bytes()
    if file.suffix == ".json" and content:
        try:
            content, name = json_text(rng, json.loads(content))
        except ValueError:
            content, name = mutate_bytes(rng, content)
    elif file.suffix == ".tsv" and rng.random() < 0.8:
        lines = [line.split("\t") for line in content.decode(errors="replace").split("\n")]
        row = rng.choice(lines)
        row[rng.randrange(len(row))] = str(rng.choice([*STRINGS[:6], *map(str, NUMBERS)]))
        content = "\n".join("\t".join(row) for row in lines).encode(errors="replace")
        name = "cell replaced"
    elif file.suffix == ".safetensors" and rng.random() < 0.8 and len(content) > 8:
        length = struct.unpack("<Q", content[:8])[0]
        try:
            header, name = json_text(rng, json.loads(content[8 : 8 + length]))
        except ValueError:
            header, name = mutate_bytes(rng, content[8:])
        content = struct.pack("<Q", len(header)) + header + content[8 + length :]
        if rng.random() < 0.3:
            # Of the numbers themselves.
            content, name = content[:-4] + struct.pack("<f", float("nan")), "NaN"
    else:
        content, name = mutate_bytes(rng, content)
    file.write_bytes(content)
    return name


def _replace_file(rng: Random, file: Path) -> str:
    name = rng.choice(["file missing", "folder", "pipe", "link to a device", "link outside"])
    file.unlink()
    if name == "folder":
        file.mkdir()
    elif name == "pipe":
        os.mkfifo(file)
    elif name.startswith("link"):
        file.symlink_to("/dev/zero" if name == "link to a device" else "/etc/hostname")
    return name


def _renew_checksums(path: Path) -> None:
    try:
        listed = read_json(path / "checksums.json")
        write_json(path / "checksums.json", {name: sha256_of_file(path / name) for name in listed})
    except (ValueError, OSError, AttributeError, TypeError):
        pass  # Something that has none.


_ATTACKS = {
    "aliases": "x0: &x0 [1, 1]\n"
    + "".join(f"x{i}: &x{i} [*x{i - 1}, *x{i - 1}]\n" for i in range(1, 60)),
    "merged aliases": "m0: &m0 {a: 1}\n"
    + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 60)),
    "alias of itself": "space: &s {sigma: *s}\n",
    "tag": "name: !!python/object/apply:os.system [ls]\n",
    "huge number": "seeds: 0x" + "f" * 50_000 + "\n",
    "base 60": "seeds: 1" + ":1" * 50_000 + "\n",
    "deep flow": "space: " + "[" * 50_000 + "\n",
    "many values": "space: [" + "0," * 100_000 + "]\n",
    "binary": "name: !!binary x\n",
    "date": "trials: 2001-99-99\n",
    "second document": "---\nname: x\n",
}


def sweep_file(rng: Random, folder: Path, *, changes: int) -> Case:
    """Change the settings, or the text, of a preset's sweep file."""
    path = folder / "sweep.yaml"
    original = rng.choice(sorted(PRESETS.glob("*.yaml")))
    document = yaml.safe_load(original.read_text())
    text, names = original.read_bytes(), []
    for _ in range(changes):
        sort = rng.random()
        if sort < 0.75:
            document, name = mutate(rng, document)
            # JSON is YAML, and goes deeper than PyYAML writes.
            text = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode(
                errors="surrogatepass"
            )
        elif sort < 0.85:
            name = rng.choice(list(_ATTACKS))
            attack = _ATTACKS[name].encode()
            text = text + b"\n" + attack if rng.random() < 0.5 else attack + text
        else:
            text, name = mutate_bytes(rng, text)
        names.append(name)
    path.write_bytes(text)
    if changes and rng.random() < 0.05:
        names.append(_replace_file(rng, path))
    assignments = []
    if changes and rng.random() < 0.2:
        key = rng.choice(["trials", "sigma", "space.sigma", "training.epochs", "x" * 999, "a.b.c"])
        assignments.append(f"{key}={rng.choice([*STRINGS, *map(str, NUMBERS), '[' * 999])}")
        names.append("assignment")
    return Case(names, lambda: load_sweep(str(path), assignments))


def parquet(rng: Random, folder: Path, *, changes: int) -> Case:
    """Change columns, schema, images or bytes of parquet files."""
    pixels = random_pixels(8)
    images: Any = [png(image) for image in pixels]
    labels: Any = pa.array([0, 1, 2, 3, 0, 1, 2, 3])
    metadata: dict[bytes, bytes] = {b"classes": b"a,b,c,d"}
    names: list[str] = []
    split = rng.choice(["train", "test"])
    compression, on_bytes = rng.choice(["snappy", "zstd", "none", "gzip"]), 0
    extra: dict[str, Any] = {}
    for _ in range(changes):
        name = rng.choice(["labels", "image", "images", "metadata", "columns", "bomb", "bytes"])
        if name == "labels":
            labels = _labels(rng)
        elif name == "image":
            position = rng.randrange(8)
            if isinstance(images, list) and isinstance(images[position], bytes):
                images[position], name = _image(rng, images[position])
        elif name == "images":
            images = rng.choice([_structs(images), ["x"] * 8, [None] * 8, [[b"x"]] * 8, [1.5] * 8])
        elif name == "metadata":
            metadata = _metadata(rng)
        elif name == "columns":
            extra = rng.choice([{"image": [0] * 8}, {"x" * 10_000: [0] * 8}, {"é\n": ["x"] * 8}])
        elif name == "bomb":
            images, labels = _bomb(rng)
        else:
            on_bytes += 1
        names.append(name)
    for name in ("train", "test"):
        table = pa.table({"image": [png(image) for image in pixels], "label": [0, 1, 2, 3] * 2})
        if name == split:
            columns = [pa.array(images), labels, *map(pa.array, extra.values())]
            if len({len(column) for column in columns}) == 1:
                table = pa.Table.from_arrays(columns, names=["image", "label", *extra])
                table = table.replace_schema_metadata(metadata)
        pq.write_table(table, folder / f"{name}.parquet", compression=compression)
    file = folder / f"{split}.parquet"
    for _ in range(on_bytes):
        content, name = mutate_bytes(rng, file.read_bytes())
        file.write_bytes(content)
        names.append(name)
    if changes and rng.random() < 0.05:
        names.append(_replace_file(rng, file))

    def run() -> None:
        dataset = load_dataset(DatasetSettings(name="parquet", path=str(folder)))
        for source in (dataset.train, dataset.test):
            source.images(torch.arange(min(20, len(source.labels))))

    return Case(names, run)


def _structs(images: Any) -> Any:
    return [{"bytes": image, "path": None} for image in images]


def _labels(rng: Random) -> Any:
    extreme = rng.choice([-1, 10**7, 99_999, 100_000, 2**31, 2**63 - 1, -(2**63)])
    return rng.choice(
        [
            pa.array([0, 1, 2, 3, 0, 1, 2, extreme]),
            pa.array([0, 1, 2, 3, 0, 1, 2, 2**64 - 1], pa.uint64()),
            pa.array([0, 1, 2, 3, None, 1, 2, 3]),
            pa.array([0.5] * 8),
            pa.array(["a"] * 8),
            pa.array([0] * 8),
            pa.array([0, 1] * 4).dictionary_encode(),
            pa.array([[0]] * 8),
            pa.array([True, False] * 4),
            pa.array([3] * 8, pa.int8()),
        ]
    )


def _image(rng: Random, image: bytes) -> tuple[bytes, str]:
    sort = rng.random()
    if sort < 0.3:
        # Width and height as the header states them.
        sizes = struct.pack(">II", *rng.choices([0, 1, 4, 5, 4096, 10**5, 2**31 - 1], k=2))
        return image[:16] + sizes + image[24:], "size of an image"
    if sort < 0.5:
        kinds = (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a", b"II*\x00")
        return rng.choice(kinds) + rng.randbytes(200), "kind of an image"
    return mutate_bytes(rng, image)


def _metadata(rng: Random) -> dict[bytes, bytes]:
    face = {"info": {"features": {"label": {"names": ["a", "b", "c", "d"], "_type": "ClassLabel"}}}}
    classes = ["a,b,c", "a,a,b,c", ",,,", "a", "a,b,c,\x1b[31m", "a," * 200_000, "x" * 10_000]
    return rng.choice(
        [
            {b"classes": rng.choice(classes).encode()},
            {b"classes": rng.randbytes(50)},
            {b"huggingface": json_text(rng, face)[0]},
            {b"huggingface": rng.randbytes(50)},
            {rng.randbytes(20): rng.randbytes(20)},
            {b"ARROW:schema": base64.b64encode(rng.randbytes(100))},
        ]
    )


def _bomb(rng: Random) -> tuple[Any, Any]:
    count, size = rng.choice([(1_000, 300_000), (1_000_000, 10), (4, 50_000_000)])
    image = pa.array([b"x" * size]).dictionary_encode().take(pa.array(np.zeros(count, np.int64)))
    return image, pa.array(np.arange(count) % 4)


def endpoint(rng: Random, folder: Path, *, changes: int) -> Case:
    """Change an endpoint's answer: its JSON, its headers, its framing or its pace."""
    sort = rng.choice(["labels", "numbers"])
    rows: Any = [0] if sort == "labels" else [[0.1, 0.2, 0.3, 0.4]]
    document: Any = {"predictions": rows}
    head = {"Content-Type": "application/json"}
    status, prefix, names, cut = "HTTP/1.1 200 OK", b"", [], None
    body, framing, secret, pause = json.dumps(document).encode(), "length", None, 0.0
    for _ in range(changes):
        name = rng.choice([*["JSON"] * 4, "body", "header", "status", *["framing"] * 2])
        name = rng.choice([name, name, name, "echo", "1xx", "cut", "slow"])
        if name == "JSON":
            body, name = json_text(rng, document)
        elif name == "body":
            body, name = mutate_bytes(rng, body)
            if rng.random() < 0.2:
                body, name = (
                    rng.choice([b" " * (3 << 20), gzip.compress(b" " * 10**6)]),
                    "long body",
                )
        elif name == "header":
            head |= _header(rng)
        elif name == "status":
            status = rng.choice(
                [
                    *(
                        f"HTTP/1.1 {n} x"
                        for n in (199, 204, 206, 302, 304, 401, 404, 429, 503, 999)
                    ),
                    *(
                        "HTTP/0.9",
                        "HTTP/1.1 -5",
                        "HTTP/2 200",
                        "\x00",
                        "x" * 70_000,
                        "HTTP/1.1 200",
                    ),
                ]
            )
        elif name == "framing":
            framing = rng.choice(_FRAMINGS)
            name = framing
        elif name == "1xx":
            code = rng.choice([100, 101, 102, 103])
            prefix = f"HTTP/1.1 {code} x\r\n\r\n".encode() * rng.choice([1, 100, 100_000])
        elif name == "slow":
            pause = 0.05
        elif name == "cut":
            cut = rng.randrange(400)
        else:
            secret = TOKEN
            body = _disguised(rng)
            status = rng.choice([status, "HTTP/1.1 403 " + TOKEN, "HTTP/1.1 500 x", TOKEN])
        names.append(name)
    reply = prefix + _framed(rng, status, head, body, framing)
    reply = reply[:cut]

    def send(connection: socket.socket) -> None:
        if pause:
            for start in range(0, len(reply), 20):
                connection.sendall(reply[start : start + 20])
                time.sleep(pause)
        connection.sendall(reply)

    dataset = tiny_dataset(
        torch.arange(8) % CLASSES, class_count=CLASSES, images=random_images(8, size=SIZE)
    )
    protocol = rng.choice(["auto", "mlflow", "plain"] if changes else ["mlflow"])

    def run() -> None:
        os.environ["FUZZ_TOKEN"] = TOKEN
        with sending(send) as url:
            asked = {
                "timeout_seconds": 0.3,
                "retries": 0 if pause else 1,
                "protocol": protocol,
                "token_variable": None if secret is None else "FUZZ_TOKEN",
            }
            settings = ClassifierSettings.model_validate({"source": url, "endpoint": asked})
            endpoint_classifier(settings, dataset, None)(torch.rand(1, 1, SIZE, SIZE))

    return Case(names, run, secret)


_FRAMINGS = ("chunked", "chunk sizes", "extensions", "trailers", "no length", "wrong length")


def _framed(rng: Random, status: str, head: dict[str, str], body: bytes, framing: str) -> bytes:
    lines = [status, *(f"{name}: {value}" for name, value in head.items())]
    if framing in ("length", "wrong length"):
        wrong = [0, 1, -1, len(body) + 9, 10**30, "x", "1, 2", "9" * 5_000]
        lines.append(f"Content-Length: {len(body) if framing == 'length' else rng.choice(wrong)}")
    elif framing != "no length":
        lines.append("Transfer-Encoding: chunked")
        size = {"chunk sizes": rng.choice(["-5", "f" * 5_000, "", "x", "7fffffffffffffff"])}.get(
            framing, f"{len(body):x}"
        )
        size += ";" + "e" * rng.choice([10, 10**6]) if framing == "extensions" else ""
        end = b"X: x\r\n" * rng.choice([1, 10**5]) if framing == "trailers" else b""
        body = size.encode() + b"\r\n" + body + b"\r\n0\r\n" + end + b"\r\n"
    return "\r\n".join(lines).encode(errors="replace") + b"\r\n\r\n" + body


def _header(rng: Random) -> dict[str, str]:
    # Of times to wait only nonsense: sense is waited for.
    waits = ["9" * 5_000, "-1", "nan", "1e9", "Fri, 31 Dec 9999999999 23:59:59 GMT", "99999", "0"]
    return rng.choice(
        [
            {"Retry-After": rng.choice(waits)},
            {"Content-Encoding": rng.choice(["gzip", "br", "zstd", "gzip, " * 100])},
            {"Location": rng.choice(STRINGS[6:])},
            {f"X-{i}": "x" for i in range(rng.choice([90, 150]))},
            {"X-Long": "x" * 70_000},
            {"X\x00": "\udcff\x1b"},
            {"Connection": "close"},
            {"": ""},
            {" folded": " x"},
        ]
    )


def _disguised(rng: Random) -> bytes:
    token = TOKEN.encode()
    return rng.choice(
        [
            token,
            token[::-1],
            b" ".join(token[i : i + 5] for i in range(0, len(token), 5)),
            base64.b64encode(token),
            "".join(f"%{byte:02x}" for byte in token).encode(),
            b'{"predictions": ["' + token + b'"]}',
            b'{"predictions": [{"' + token + b'": 1}]}',
            json.dumps({"predictions": deep(3, TOKEN)}).encode(),
        ]
    )


def encoded_secrets(secret: str) -> list[str]:
    """Return what no message may hold: pieces of a secret, forwards, backwards and disguised."""
    texts = [secret, secret[::-1], base64.b64encode(secret.encode()).decode()]
    pieces = [text[i : i + 4] for text in texts for i in range(len(text) - 3)]
    return [*pieces, f"%{ord(secret[0]):02x}%"]


WAITS = "endpoint answer"
KINDS: dict[str, Callable[..., Case]] = {
    "bundle": bundle,
    "sweep file": sweep_file,
    "parquet file": parquet,
    WAITS: endpoint,
}
