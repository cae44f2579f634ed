"""A compiled loop on the threads of torch's OpenMP library, without a word of Python on them.

A thread that is no interpreter's own needs a state of the interpreter and its lock before it may call anything
compiled the usual way: more time than a short loop takes. So what OpenMP is given is a function of LLVM's, written
here, that finds the loop's arguments in a struct.
"""

import ctypes
import os
import types as python
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)

PREFIX = "jogak_"  # of the names under which compiled code, also that of files, finds OpenMP's functions
USED = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier")
INT, BYTES = ir.IntType(32), ir.IntType(8).as_pointer()
SHARE = ir.FunctionType(ir.VoidType(), [BYTES])


@cache
def found() -> bool:
    """Whether torch has loaded GNU's OpenMP library; compiled code can call it from then on.

    Its threads wait for torch's next operation by spinning, so that any others would have to share their cores.
    """
    for path in (Path(torch.__file__).parent / "lib").glob("libgomp*"):
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            places = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in USED]
        except (OSError, AttributeError):
            continue
        for name, place in zip(USED, places, strict=True):
            binding.add_symbol(PREFIX + name, place)
        return True
    return False


@intrinsic
def _share(typing, kernel, tasks, threads, arrays):
    """kernel(first, last, *arrays) on every thread for its part of the tasks; 0, or else the code of an error."""
    signature = kernel.get_call_type(typing, (types.intp, types.intp, *arrays.types), {})
    compiled = kernel.dispatcher.overloads[signature.args]

    def generate(context, builder, _, given):
        context.active_code_library.add_linking_library(compiled.library)
        values = [
            _uncounted(context, builder, kind, builder.extract_value(given[3], i))
            for i, kind in enumerate(arrays.types)
        ]
        packed = cgutils.pack_struct(builder, [given[1], given[2], ir.Constant(INT, 0), *values])
        place = cgutils.alloca_once_value(builder, packed)
        part = ir.Function(builder.module, SHARE, builder.function.name + ".share")
        part.linkage = "internal"
        _write(context, part, packed.type.as_pointer(), signature, compiled)
        start = ir.FunctionType(ir.VoidType(), [SHARE.as_pointer(), BYTES, INT, INT])
        run = cgutils.get_or_insert_function(builder.module, start, PREFIX + "GOMP_parallel")
        count = builder.trunc(given[2], INT)
        builder.call(run, [part, builder.bitcast(place, BYTES), count, ir.Constant(INT, 0)])
        return builder.load(cgutils.gep_inbounds(builder, place, 0, 2))

    return types.int32(kernel, types.intp, types.intp, arrays), generate


def _uncounted(context, builder, kind, value):
    """An array whose slices count no references, over which threads would wait for each other at every slice."""
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    return array._getvalue()


def _write(context, part, struct, signature, compiled) -> None:
    """The body of what every thread runs: parts number `this thread`, `this thread` + `all threads`, ..."""
    builder = ir.IRBuilder(part.append_basic_block("entry"))
    place = builder.bitcast(part.args[0], struct)
    tasks, count, _, *values = cgutils.unpack_tuple(builder, builder.load(place))
    asked = ir.FunctionType(INT, [])
    this, together = (
        builder.sext(builder.call(cgutils.get_or_insert_function(builder.module, asked, PREFIX + name), []), tasks.type)
        for name in USED[1:3]
    )
    callee = context.declare_function(builder.module, compiled.fndesc)
    with cgutils.for_range_slice(builder, this, count, together, tasks.type) as (i, _):
        ends = [builder.sdiv(builder.mul(tasks, at), count) for at in (i, builder.add(i, ir.Constant(i.type, 1)))]
        status, _ = context.call_conv.call_function(
            builder, callee, signature.return_type, signature.args, [*ends, *values]
        )
        with builder.if_then(status.is_error):
            builder.store(status.code, cgutils.gep_inbounds(builder, place, 0, 2))
    builder.ret_void()


def spread(kernel: Callable[..., Any], name: str, compile: Callable[..., Any]) -> Callable[..., Any]:
    """(tasks, threads, *arrays) -> None for a compiled kernel of (first, last, *arrays), itself to be compiled.

    It is compiled as if it stood in the kernel's file, so that code kept on disk is made anew when that changes.
    """
    source = kernel.py_func.__code__  # pyright: ignore[reportFunctionMemberAccess]  # numba's
    code = _all.__code__.replace(
        co_filename=source.co_filename, co_firstlineno=source.co_firstlineno, co_name=name, co_qualname=name
    )
    function = python.FunctionType(code, {"_kernel": kernel, "_share": _share, "MemoryError": MemoryError}, name)
    function.__module__ = kernel.__module__
    return compile(function)


def _all(tasks, threads, *arrays):  # noqa: ANN002 (as above)
    if _share(_kernel, tasks, threads, arrays) != 0:  # noqa: F821  # pyright: ignore
        raise MemoryError("a loop had no memory for what it adds up")


def _asked(name: str, kind: Any) -> Any:  # noqa: ANN401 (numba's types)
    """What numba's `intrinsic` asks for: the types, and the call of one of OpenMP's functions."""

    def generate(context, builder, signature, arguments):
        void = kind == types.none
        function = ir.FunctionType(ir.VoidType() if void else INT, [])
        found = builder.call(cgutils.get_or_insert_function(builder.module, function, PREFIX + name), [])
        return context.get_dummy_value() if void else found

    return kind(), generate


@intrinsic
def _this_thread(typing):
    """The number of the thread that runs this, among those that run the same kernel."""
    return _asked("omp_get_thread_num", types.int32)


@intrinsic
def _all_threads(typing):
    """How many threads run the same kernel."""
    return _asked("omp_get_num_threads", types.int32)


@intrinsic
def _barrier(typing):
    """Wait until every thread that runs the same kernel is here, and see what the others have written."""
    return _asked("GOMP_barrier", types.none)


# As numba calls them, without what their decorator is told; only where `found`.
this_thread, all_threads, barrier = cast(Any, (_this_thread, _all_threads, _barrier))
