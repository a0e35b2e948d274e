"""Documents that mean harm, made on the spot."""

from __future__ import annotations

import io
import struct
import zlib

import pikepdf
from PIL import Image


def pdf_of_junk(encoding: str) -> bytes:
    """A page with one image, whose stream is no data of its filter."""
    file = io.BytesIO()
    with pikepdf.new() as document:
        page = document.add_blank_page(page_size=(100, 100))
        image = pikepdf.Stream(
            document,
            bytes(range(256)) * 40,
            Type=pikepdf.Name.XObject,
            Subtype=pikepdf.Name.Image,
            Width=50_000,
            Height=50_000,
            ColorSpace=pikepdf.Name.DeviceGray,
            BitsPerComponent=1,
            Filter=pikepdf.Name(f"/{encoding}"),
        )
        page.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(I=image))
        page.Contents = document.make_stream(b"1 0 0 rg 0 80 20 20 re f 100 0 0 100 0 0 cm /I Do")
        document.save(file, compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.none)
    return file.getvalue()


def pdf_with_script_and_attachment() -> bytes:
    """A red square; when it is opened, a script runs forever, another program is launched and a file is sent."""
    file = io.BytesIO()
    with pikepdf.new() as document:
        page = document.add_blank_page(page_size=(100, 100))
        page.Contents = document.make_stream(b"1 0 0 rg 0 80 20 20 re f")
        document.attachments["../../etc/passwd"] = b"attached"
        document.Root.OpenAction = pikepdf.Dictionary(S=pikepdf.Name.JavaScript, JS="while (true) app.alert(1);")
        launch = pikepdf.Dictionary(S=pikepdf.Name.Launch, F="/bin/sh")
        send = pikepdf.Dictionary(S=pikepdf.Name.SubmitForm, F="http://127.0.0.1:1/")
        page.AA = pikepdf.Dictionary(O=launch, C=send)
        document.save(file)
    return file.getvalue()


def pdf_of_flate() -> bytes:
    """A page with a red square and an image of a gigabyte, packed into one megabyte."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1000)) + packer.flush()
    file = io.BytesIO()
    with pikepdf.new() as document:
        page = document.add_blank_page(page_size=(100, 100))
        image = pikepdf.Stream(
            document,
            packed,
            Type=pikepdf.Name.XObject,
            Subtype=pikepdf.Name.Image,
            Width=32_000,
            Height=32_000,
            ColorSpace=pikepdf.Name.DeviceGray,
            BitsPerComponent=8,
            Filter=pikepdf.Name.FlateDecode,
        )
        page.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(I=image))
        page.Contents = document.make_stream(b"1 0 0 rg 0 80 20 20 re f 50 0 0 50 50 0 cm /I Do")
        document.save(file, compress_streams=False)
    return file.getvalue()


def pdf_of_forms(depth: int) -> bytes:
    """A page with a form that draws another ten times, which draws another ten times..."""
    file = io.BytesIO()
    with pikepdf.new() as document:
        page = document.add_blank_page(page_size=(100, 100))
        form = document.make_stream(b"0 0 1 rg 0 0 100 100 re f")
        for _ in range(depth):
            form.Type, form.Subtype, form.BBox = pikepdf.Name.XObject, pikepdf.Name.Form, [0, 0, 100, 100]
            inner, form = form, document.make_stream(b"/F Do " * 10)
            form.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(F=inner))
        page.Resources = form.Resources
        page.Contents = document.make_stream(b"/F Do " * 10)
        document.save(file)
    return file.getvalue()


def pdf_nested(depth: int) -> bytes:
    """A PDF whose page has an array in an array in an array..."""
    nested = b"[" * depth + b"]" * depth
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 1/Kids[3 0 R]>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 100 100]/Deep " + nested + b">>endobj\n"
        b"trailer<</Root 1 0 R>>\n%%EOF\n"
    )


def pdf_of_form_in_form(depth: int) -> bytes:
    """A page with a text in a form in a form in a form..., the innermost of which holds the outermost."""
    file = io.BytesIO()
    with pikepdf.new() as document:
        page = document.add_blank_page(page_size=(100, 100))
        form = innermost = _form(document, b"BT 9 Tf (deep) Tj ET /Next Do")
        for _ in range(depth):
            outer = _form(document, b"/Next Do")
            outer.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(Next=form))
            form = outer
        innermost.Resources = page.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(Next=form))
        page.Contents = document.make_stream(b"/Next Do")
        document.save(file)
    return file.getvalue()


def _form(document: pikepdf.Pdf, content: bytes) -> pikepdf.Stream:
    return pikepdf.Stream(
        document, content, Type=pikepdf.Name.XObject, Subtype=pikepdf.Name.Form, BBox=pikepdf.Array([0, 0, 100, 100])
    )


def pdf_of_text(size_bytes: int) -> bytes:
    """A page whose text unpacks to so many bytes."""
    file = io.BytesIO()
    with pikepdf.new() as document:
        page = document.add_blank_page(page_size=(100, 100))
        packer = zlib.compressobj(1)
        row = b"(" + b"text " * 200_000 + b") Tj "
        parts = [packer.compress(b"BT /F 9 Tf "), *(packer.compress(row) for _ in range(size_bytes // len(row)))]
        content = b"".join([*parts, packer.flush()])
        page.Contents = pikepdf.Stream(document, content, Filter=pikepdf.Name.FlateDecode)
        document.save(file, compress_streams=False)
    return file.getvalue()


def pdf_that_calls_letters(names: str) -> bytes:
    """A page with many letters A, which its font says are these characters."""
    file = io.BytesIO()
    with pikepdf.new() as document:
        page = document.add_blank_page(page_size=(500, 100))
        hexed = names.encode("utf-16-be").hex()
        table = f"1 begincodespacerange <00> <ff> endcodespacerange 1 beginbfchar <41> <{hexed}> endbfchar"
        font = pikepdf.Dictionary(
            Type=pikepdf.Name.Font,
            Subtype=pikepdf.Name.Type1,
            BaseFont=pikepdf.Name.Helvetica,
            ToUnicode=document.make_stream(f"begincmap {table} endcmap".encode()),
        )
        page.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F=font))
        page.Contents = document.make_stream(b"BT /F 12 Tf 20 50 Td (AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA) Tj ET")
        document.save(file)
    return file.getvalue()


def pdf_of_itself() -> bytes:
    """A PDF whose tree of pages holds itself."""
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Count 5/Kids[2 0 R 2 0 R]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    )


def tiff_of_frames(frames: int) -> bytes:
    """A TIFF of many frames of one pixel."""
    entries = 8
    size = 2 + 12 * entries + 4
    first = 8 + 2  # header, and one pixel that all frames share
    file = [b"II*\0" + struct.pack("<I", first) + b"\0\0"]
    for frame in range(frames):
        following = first + size * (frame + 1) if frame + 1 < frames else 0
        tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (278, 1), (279, 1)]
        file.append(struct.pack("<H", entries))
        file += [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
        file.append(struct.pack("<I", following))
    return b"".join(file)


def tiff_in_a_circle() -> bytes:
    """A TIFF whose last frame is followed by its first."""
    frames = bytearray(tiff_of_frames(3))
    frames[-4:] = struct.pack("<I", 10)
    return bytes(frames)


def gif_bomb(frames: int) -> bytes:
    """A GIF of many frames, each of them the size of the first."""
    first = Image.new("P", (500, 500))
    file = io.BytesIO()
    first.save(file, "GIF")
    data = file.getvalue()
    image = data[data.index(b",") : -1]
    return data[:-1] + image * frames + b";"


def apng_bomb(frames: int) -> bytes:
    """A PNG that says it has 2^31 - 1 frames, and has many."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(b"\0" * (501 * 500))
    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", 500, 500, 8, 0, 0, 0, 0)),
        chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 500, 500, 0, 0, 1, 1, 0, 0)),
        chunk(b"IDAT", pixels),
    ]
    for frame in range(frames):
        parts.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * frame + 1, 500, 500, 0, 0, 1, 1, 0, 0)))
        parts.append(chunk(b"fdAT", struct.pack(">I", 2 * frame + 2) + pixels))
    return b"".join([*parts, chunk(b"IEND", b"")])


def png_text_bomb() -> bytes:
    """A PNG of a few pixels, whose text unpacks to 200 MB."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    data = file.getvalue()
    text = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1)
    return data[:33] + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + data[33:]
