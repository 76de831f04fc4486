"""The classes of the library that derive from one."""


def derived(kind: type, home: str = "multipole_lab.") -> set[type]:
    """All classes below ``kind``, at any depth, in modules of ``home``: a guide's or a test's own may be there, too."""
    own = {one for one in kind.__subclasses__() if one.__module__.startswith(home)}
    return own.union(*(derived(one, home) for one in own))
