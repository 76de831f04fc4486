"""Triton's interpreter, half as slow: what it replaces in the language is looked for once, and replaced once a launch.

What it replaces, and by what, stays its own. As it comes it searches the language's modules again before every call of
a device function, which takes longer than the small kernels of tests themselves.
"""

import inspect

OWN = {}  # Triton's own functions, by name


def install():
    """Let the interpreter of this process remember what it replaces, and the numpy type of each of Triton's."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    names, languages, scalars, replaced = {}, {}, {}, set()
    OWN.update(
        {name: getattr(interpreter, name) for name in ("_patch_builtin", "_patch_lang", "_get_np_dtype")}
    )

    def names_of(package):
        """The names of what is Triton's own, as they were when they were first looked for."""
        if package not in names:
            names[package] = [name for name, one in inspect.getmembers(package) if tl.core.is_builtin(one)]
        return names[package]

    for package in (tl, tl.core, tl.math, tl.core.tensor, tl.core.tensor_descriptor_base):
        names_of(package)  # before any is replaced

    def patch_builtin(package, builder, scope):
        for name in names_of(package):
            member = getattr(package, name)
            if tl.core.is_builtin(member):  # and not replaced yet
                interpreter._patch_attr(package, name, member, builder, scope)

    def patch_lang(function):
        """Replace nothing where a launch under way has: its scope puts back what stood there."""
        if function not in languages:
            seen = function.__globals__.values()
            languages[function] = {one.__name__ for one in (tl, tl.core) if any(x is one for x in seen)}
        if languages[function] <= replaced:
            return interpreter._LangPatchScope()
        scope = OWN["_patch_lang"](function)
        if not replaced:  # the launch itself
            restore = scope.restore
            scope.restore = lambda: (replaced.clear(), restore())
        replaced.update(languages[function])
        return scope

    def np_dtype(kind):
        scalar = kind.element_ty if isinstance(kind, tl.block_type) else kind
        if isinstance(scalar, tl.pointer_type):
            return np.dtype(np.uint64)
        if scalar not in scalars:
            scalars[scalar] = OWN["_get_np_dtype"](scalar)
        return scalars[scalar]

    interpreter._patch_builtin, interpreter._patch_lang = patch_builtin, patch_lang
    interpreter._get_np_dtype = np_dtype
