#!/usr/bin/env python3
"""dxc for machines that have DXC's library and not its program:

    DXCOMPILER=libdxcompiler.so tools/dxc/dxc.py -T cs_6_2 -E ENTRY FILE.hlsl

Compiles FILE with the library that DXCOMPILER names, prints the messages, and exits with 0 if there is
an object at the end. The library's interfaces are COM without Windows: a pointer to a table of
functions, three of them IUnknown's and, in this build, two more for a virtual destructor.
"""
import ctypes
import os
import sys
import uuid

# dxcapi.h
CLSID_COMPILER = "73e22d93-e6ce-47f3-b5bf-f0664f39c1b0"
IID_COMPILER3 = "228b4687-5a6a-4730-900c-9702b2203f54"
IID_RESULT = "58346cda-dde7-4497-9461-6f87af5e0659"
IID_BLOB = "8ba5fb08-5195-40e2-ac58-0d989c3a0102"
OUT_OBJECT, OUT_ERRORS, UTF8 = 1, 2, 65001
DESTRUCTORS = 2

pointer, u32 = ctypes.c_void_p, ctypes.c_uint32


class Source(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char_p), ("size", ctypes.c_size_t), ("encoding", u32)]


def guid(text):
    return ctypes.byref((ctypes.c_ubyte * 16).from_buffer_copy(uuid.UUID(text).bytes_le))


def method(this, index, result, *types):
    """The function of an interface whose place in dxcapi.h, counted from QueryInterface, is `index`."""
    table = ctypes.cast(this, ctypes.POINTER(ctypes.POINTER(pointer))).contents
    call = ctypes.CFUNCTYPE(result, pointer, *types)(table[index + DESTRUCTORS])
    return lambda *arguments: call(this, *arguments)


def output(result, kind):
    blob = pointer()
    get = method(result, 7, ctypes.c_int32, u32, pointer, pointer, pointer)
    if get(kind, guid(IID_BLOB), ctypes.byref(blob), None) != 0 or not blob:
        return b""
    start, size = method(blob, 3, pointer)(), method(blob, 4, ctypes.c_size_t)()
    return ctypes.string_at(start, size) if size else b""


def main():
    *options, path = sys.argv[1:]
    library = ctypes.CDLL(os.environ["DXCOMPILER"])
    compiler = pointer()
    made = library.DxcCreateInstance(guid(CLSID_COMPILER), guid(IID_COMPILER3), ctypes.byref(compiler))
    if made != 0:
        sys.exit(f"DxcCreateInstance: {made & 0xFFFFFFFF:#x}")
    with open(path, "rb") as file:
        text = file.read()
    source = Source(text, len(text), UTF8)
    words = (ctypes.c_wchar_p * len(options))(*options)
    result = pointer()
    compile_ = method(compiler, 3, ctypes.c_int32, pointer, pointer, u32, pointer, pointer, pointer)
    done = compile_(
        ctypes.byref(source), words, len(options), None, guid(IID_RESULT), ctypes.byref(result)
    )
    if done != 0:
        sys.exit(f"Compile: {done & 0xFFFFFFFF:#x}")
    print(output(result, OUT_ERRORS).rstrip(b"\0").decode(errors="replace"), end="")
    status = ctypes.c_int32(-1)
    method(result, 3, ctypes.c_int32, pointer)(ctypes.byref(status))
    sys.exit(0 if status.value == 0 and output(result, OUT_OBJECT)[:4] == b"DXBC" else 1)


main()
